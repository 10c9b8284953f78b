"""What a comparison sees, and what it says of it."""

from __future__ import annotations

import pytest

from orchestrator.adapters.sql import comparison
from tests.integration.decisions.test_owners import says
from tests.integration.rebuild.conftest import Story


async def test_after_a_random_life_the_rebuilt_rows_are_the_live_ones(story: Story):
    await says(story.world, 7, opted_out=True)
    await story.live(120)
    counts = {t.table: await story.world.value(f"SELECT count(*) FROM {t.table}") for t in comparison.COMPARED}
    assert [t for t, n in counts.items() if n == 0 and t != "trusted_key"] == []
    assert await story.verify() == []
    assert await story.world.value("SELECT to_regnamespace('rebuild')") is None


DAMAGE = {
    "assignment": "UPDATE assignment SET reason = 'x' WHERE device_no = (SELECT max(device_no) FROM assignment)",
    "counter": "UPDATE counter SET n = n + 1 WHERE (campaign_no, phase, stratum, state, shard) ="
    " (SELECT campaign_no, phase, stratum, state, shard FROM counter ORDER BY 1, 2, 3, 4, 5 LIMIT 1)",
    "campaign": "UPDATE campaign SET plan = jsonb_set(plan, '{offer_ttl}', '60000.0') WHERE campaign_no = 2",
    "timeline": 'DELETE FROM timeline WHERE "offset" = 3',
    "component_state": "UPDATE component_state SET changed_at = changed_at + 1"
    " WHERE device_no = (SELECT max(device_no) FROM component_state)",
    "component_count": "UPDATE component_count SET n = n + 1 WHERE shard = (SELECT min(shard) FROM component_count)"
    " AND name = 'bus'",
    "device_slot": "INSERT INTO device_slot VALUES (999999, 1, 1)",
    "dead_letter": "UPDATE dead_letter SET value = 'other'",
}


@pytest.mark.parametrize("table", DAMAGE)
async def test_a_damaged_row_is_found_whatever_number_is_compared_at_a_time(story: Story, table):
    await story.live(60)
    story.world.raw(1, b"poison")
    await story.project()
    await story.world.rows(DAMAGE[table] + " RETURNING 1")
    for run in (1, 7, 10_000):
        story.settings = story.settings.model_copy(update={"rebuild_compare_rows": run})
        (found,) = await story.verify()
        assert found.table == table


async def test_the_first_difference_is_named_with_key_column_and_both_values(story: Story):
    await story.live(60)
    device = await story.world.value(
        "SELECT min(device_no) FROM assignment WHERE campaign_no = 1 AND state <> 'failed'"
    )
    state = await story.world.value("SELECT state FROM assignment WHERE device_no = $1 AND campaign_no = 1", device)
    await story.world.rows(
        "UPDATE assignment SET state = 'failed' WHERE device_no >= $1 AND campaign_no = 1 RETURNING 1", device
    )
    (found,) = await story.verify()
    assert (found.key, found.column, found.live, found.rebuilt) == (
        {"device_no": device, "campaign_no": 1},
        "state",
        "failed",
        state,
    )
    assert str(found) == f"assignment (device_no {device}, campaign_no 1): state is 'failed', rebuilt '{state}'"


async def test_a_row_of_one_side_only_is_named_with_its_side(story: Story):
    await story.live(60)
    lost = await story.world.value("SELECT min(device_no) FROM device")
    await story.world.rows("DELETE FROM device WHERE device_no <= $1 RETURNING 1", lost + 3)
    await story.world.rows("INSERT INTO stratum VALUES (0, 0, 'made up') RETURNING 1")
    stratum, device = await story.verify()
    assert (stratum.key, stratum.rebuilt, stratum.live) == ({"campaign_no": 0, "stratum": 0}, None, {"key": "made up"})
    assert (device.key, device.live) == ({"device_no": lost}, None)
    assert str(device) == f"device (device_no {lost}) is in the rebuilt table only"


async def test_what_is_not_compared_may_differ(story: Story):
    await story.live(60)
    await story.world.rows("UPDATE counter SET shard = shard + 1000 RETURNING 1")
    await story.world.rows("UPDATE offer_queue SET not_before = not_before + 1 RETURNING 1")
    await story.world.rows("UPDATE projection_position SET epoch = epoch + 5 RETURNING 1")
    assert await story.verify() == []
