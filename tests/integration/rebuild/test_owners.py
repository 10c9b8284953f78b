"""Wills, and devices that a campaign ended without, are the same after a rebuild."""

from __future__ import annotations

from schemas.owner_events import Consent
from tests.integration.decisions.test_owners import says
from tests.integration.rebuild.conftest import Story
from tests.support.world import T0


async def test_wills_and_closed_devices_are_retold(story: Story):
    world = story.world
    campaign = story.campaigns[0].campaign_id
    out = [
        row["device_no"] for row in await world.rows("SELECT DISTINCT device_no FROM offer_queue ORDER BY 1 LIMIT 9")
    ]
    for device in out:
        await says(world, device, opted_out=True)
    await says(world, out[0], consents=[Consent(release_id="rel_1", until=T0)], postponed_until=T0 + 5, at=T0)
    await says(world, out[1])
    await story.offer()
    for _ in range(5):
        await world.decisions.dispatch(campaign, 0, 40, T0 + 10)
    await story.live(60)
    assert await world.value("SELECT count(*) FROM offer_queue WHERE withheld IS NOT NULL") > 0
    if (await world.store.load(campaign)).state == "running":
        assert (await world.decisions.close_withheld(campaign, story.now))["opted_out"] > 0
    assert await story.verify() == []
    wills = await world.rows("SELECT * FROM owner_will ORDER BY device_no")
    await story.rebuild()
    assert await world.rows("SELECT * FROM owner_will ORDER BY device_no") == wills
    assert [row["opted_out"] for row in wills] == [False, False, *([True] * 7)]
    await says(world, out[2])
    await story.live(20)
    assert await story.verify() == []
