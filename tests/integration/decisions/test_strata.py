"""One hardware revision is halted alone; the others go on."""

from __future__ import annotations

import pytest

from schemas import device_events as d
from tests.support.world import T0, World

BAD = "hardware_model=sensor-a,attribute.hw_revision=C"
RULES = [
    {"name": "revision", "scope": "stratum", "halts": "stratum", "p0": 0.02, "alpha": 0.006},
    {"name": "fleet", "scope": "campaign", "p0": 0.02, "alpha": 0.004},
]


@pytest.fixture
async def world(engine):
    made = World(engine)
    await made.setup()
    return made


async def failing(world: World, campaign, bad: str) -> dict[int, int]:
    """Every device of the phase starts; those of the bad stratum revert, one of them last. Returns what was offered."""
    await world.decisions.dispatch(campaign.campaign_id, 0, 500, T0)
    offered = await world.offered(campaign.campaign_no)
    for item in offered.items():
        await world.offers.start(*item)
    keys = {row["n"]: row["key"] for row in await world.rows("SELECT stratum AS n, key FROM stratum")}
    rows = await world.rows("SELECT device_no, stratum FROM assignment")
    worst = {row["device_no"] for row in rows if keys[row["stratum"]] == bad}
    for device, action in offered.items():
        kind = d.REVERTED if device in worst else d.CONFIRMED
        world.fact(device, action, kind, T0 + 100, failure_class="boot" if device in worst else None)
    await world.project()
    return offered


async def launched(world: World, **changes):
    changes = {"halt": RULES, "max_in_flight": {"initial": 500, "maximum": 500}} | changes
    phases = [{"name": "most", "percent": 60.0, "soak": "0s"}, {"name": "rest", "percent": 100.0, "soak": "0s"}]
    campaign = await world.launch(phases=phases, **changes)
    await world.open_phase(campaign.campaign_id, 0, T0)
    return campaign


async def test_the_bad_stratum_halts_and_the_others_are_offered_to_the_end(world):
    campaign = await launched(world)
    await failing(world, campaign, BAD)
    now = await world.store.load(campaign.campaign_id)
    assert (now.state, now.halted_strata) == ("running", (BAD,))
    # Everything of the other strata goes out, nothing of the halted one, and the queue counts as empty.
    done = await world.decisions.dispatch(campaign.campaign_id, 1, 500, T0 + 1_000)
    reached = await world.rows(
        "SELECT DISTINCT s.key FROM assignment a JOIN stratum s USING (campaign_no, stratum) WHERE a.phase = 1"
    )
    assert done.remaining == 0
    assert BAD not in {row["key"] for row in reached}
    assert len(reached) == 5
    assert await world.value("SELECT count(*) FROM offer_queue") > 0
    reading = await world.decisions.read_gate(campaign.campaign_id, 1, T0 + 1_000)
    assert reading.queued == 0
    assert BAD not in reading.strata


async def test_offers_of_the_halted_stratum_are_hidden_at_the_commit_and_withdrawn_without_another_attempt(world):
    campaign = await launched(world)
    await world.decisions.dispatch(campaign.campaign_id, 0, 500, T0)
    offered = await world.offered(campaign.campaign_no)
    keys = {row["n"]: row["key"] for row in await world.rows("SELECT stratum AS n, key FROM stratum")}
    rows = await world.rows("SELECT device_no, stratum FROM assignment")
    bad = sorted(row["device_no"] for row in rows if keys[row["stratum"]] == BAD)
    others = sorted(set(offered) - set(bad))
    waiting, crossing = bad[-1], bad[:-1]
    for device in crossing:
        await world.offers.start(device, offered[device])
        world.fact(device, offered[device], d.REVERTED, T0 + 100, failure_class="boot")
    await world.project()
    assert (await world.store.load(campaign.campaign_id)).halted_strata == (BAD,)
    assert await world.offers.start(waiting, offered[waiting]) is None
    hidden = await world.offers.current(waiting)
    assert hidden is not None
    assert hidden.shown == "nothing"
    assert await world.offers.start(others[0], offered[others[0]]) is not None
    swept = await world.decisions.sweep(campaign.campaign_id, T0 + 200, T0 + 200)
    assert (swept.withdrawn, swept.requeued) == (1, 0)
    await world.recount()


async def test_when_the_last_stratum_would_halt_the_campaign_does(world):
    campaign = await launched(world, cohort={"stratify_by": [], "salt": "s"})
    await failing(world, campaign, "all")
    now = await world.store.load(campaign.campaign_id)
    assert (now.state, now.halted_strata) == ("halted", ())
    assert now.halt is not None
    assert now.halt.rule in {"revision", "fleet"}
