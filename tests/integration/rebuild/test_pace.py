"""Brakes and revisions survive a rebuild: plan, dossier, digest and brake are made again from the log."""

from __future__ import annotations

import random

from tests.integration.rebuild.conftest import Story


async def test_a_braked_and_revised_campaign_is_rebuilt_as_it_was(story: Story):
    story.dice = random.Random(7)
    for _ in range(8):
        await story.live(6)
        for campaign in story.campaigns:
            await story.pace(await story.world.store.load(campaign.campaign_id))
    types = {row["type"] for row in await story.world.rows("SELECT type FROM event_log")}
    assert {"PaceBraked", "BrakeReleased", "RevisionProposed", "RevisionApproved"} <= types
    assert await story.verify() == []
    before = await story.world.rows("SELECT digest, plan, dossier, brake FROM campaign ORDER BY campaign_no")
    await story.rebuild()
    assert await story.world.rows("SELECT digest, plan, dossier, brake FROM campaign ORDER BY campaign_no") == before
