"""What a campaign leaves in Temporal, however many devices it has."""

import pytest

from orchestrator.domain.plan import parse_plan
from tests.bench.launch import simulated_plan
from tests.bench.simulated import simulate
from tests.support.skipping import NoTemporalError, skipping_server


async def test_ten_times_the_devices_leave_the_same_history():
    plan = parse_plan(simulated_plan())
    try:
        async with skipping_server() as client:
            small = await simulate(client, plan, [200, 1_800, 18_000])
            large = await simulate(client, plan, [2_000, 18_000, 180_000])
    except NoTemporalError as why:
        pytest.skip(str(why))
    assert (small.state, large.state) == ("completed", "completed")
    assert (small.offered, large.offered) == (20_000, 200_000)
    assert large.slices > 9 * small.slices
    assert (small.events, small.runs) == (large.events, large.runs)
