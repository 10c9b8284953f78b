"""Two of what there should be one of, on the whole system and under kills: workflows of a campaign, campaigns of a device."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.client import WorkflowExecutionStatus

from orchestrator.adapters.temporal.client import connect
from orchestrator.demo.scenario import Play
from tests.chaos.harness import Harness
from tests.chaos.test_long import judged
from workflows.messages import CAMPAIGN_WORKFLOW, CampaignInput

pytestmark = pytest.mark.chaos


async def second_workflow(harness: Harness, campaign_id: str):
    """What a restored server or a hasty operator leaves behind: the campaign's workflow once more, under another id."""
    settings = harness.settings
    client = await connect(settings, lazy=False)
    return await client.start_workflow(
        CAMPAIGN_WORKFLOW,
        CampaignInput(campaign_id=campaign_id),
        id=f"second/{campaign_id}",
        task_queue=settings.task_queue,
    )


@pytest.mark.parametrize(("play", "end"), [(Play.GOOD, "completed"), (Play.BAD, "halted")])
async def test_two_live_workflows_of_one_campaign_do_no_harm(make_harness, play, end):
    harness = make_harness(devices=150)
    async with harness.up():
        campaign = await harness.launch(play, confirm_deadline="120s")
        other = await second_workflow(harness, campaign)
        async with harness.killing(("worker", "relay"), pause=(3.0, 8.0)):
            assert await harness.ended(campaign, patience=400) == end
        assert (await other.describe()).status in {WorkflowExecutionStatus.RUNNING, WorkflowExecutionStatus.COMPLETED}
        if end == "completed":
            await asyncio.wait_for(other.result(), 60)
        await judged(harness)


async def test_a_device_of_two_campaigns_takes_part_in_one_after_the_other(make_harness):
    harness = make_harness(devices=120)
    async with harness.up():
        campaigns = [await harness.launch(Play.GOOD, confirm_deadline="120s") for _ in range(2)]
        async with harness.killing(pause=(2.0, 6.0)):
            for campaign in campaigns:
                await harness.ended(campaign, patience=400)
        assert await harness.value(
            "SELECT count(*) > 0 FROM (SELECT FROM assignment GROUP BY device_no HAVING count(*) = 2) both_of_them"
        )
        await judged(harness)
