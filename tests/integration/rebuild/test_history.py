"""What devices reported to run survives a rebuild, and so does the answer of every moment and every policy."""

from __future__ import annotations

import random

from orchestrator.adapters.sql.as_of import SqlArchive
from orchestrator.adapters.sql.campaign_history import SqlCampaignHistory
from orchestrator.app.backtest import Backtests
from tests.integration.rebuild.conftest import Story

STRICT = {"halt": [{"name": "one", "test": "threshold", "scope": "campaign", "share": 0.01, "after": 1}]}


async def test_the_past_is_the_same_after_a_rebuild(story: Story):
    story.dice = random.Random(11)
    await story.live(60)
    archive, backtests = SqlArchive(story.world.engine), Backtests(SqlCampaignHistory(story.world.engine))
    campaign = story.campaigns[0].campaign_id
    at = await story.world.value("SELECT max(recorded_at) - 30000 FROM timeline")
    assert await story.world.value("SELECT count(*) FROM timeline WHERE version IS NOT NULL") > 0

    async def asked():
        past = [await archive.fleet(moment) for moment in (at, 1 << 50)]
        return (
            past,
            [await archive.device(f"dev-{no:04}", 1 << 50) for no in range(1, 9)],
            await backtests.run(campaign, STRICT),
        )

    before = await asked()
    assert before[2].halt is not None
    states: dict[str, int] = {}
    for row in await story.world.rows("SELECT state, count(*) AS n FROM assignment GROUP BY 1"):
        states[row["state"]] = row["n"]
    now = before[0][1]
    assert {state: sum(each.devices.get(state, 0) for each in now.campaigns) for state in states} == states
    assert await story.verify() == []
    await story.rebuild()
    after = await asked()
    assert after[:2] == before[:2]
    assert (after[2].halt, after[2].actual) == (before[2].halt, before[2].actual)
