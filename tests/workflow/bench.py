"""A worker with the real workflows and activities over the process manager's ports in memory."""

from __future__ import annotations

from typing import Any, Self

from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy

from orchestrator.adapters.temporal.processes import TemporalProcesses
from orchestrator.app.process import CampaignProcess
from orchestrator.config import Settings
from orchestrator.domain.campaign import Campaign
from tests.support.memory_process import DAY, Heard, MemoryCampaigns, MemoryDecisions
from tests.support.waiting import until
from workflows.activities import ProcessActivities
from workflows.messages import CAMPAIGN_WORKFLOW, CampaignInput, CampaignResult, Options, workflow_id
from workflows.worker import build_worker

DAYS = Options(gate_poll_ms=DAY // 2, sweep_poll_ms=DAY // 2, dispatch_poll_ms=10, idle_poll_ms=DAY)
"""For a clock that skips: polls cost time of the test, days do not."""

MOMENTS = Options(gate_poll_ms=20, sweep_poll_ms=20, dispatch_poll_ms=5, idle_poll_ms=DAY)
"""For a clock that runs. A stopped campaign is not looked at within a test: only a signal can wake it."""


class Bench:
    def __init__(self, client: Client, queue: str, polls: Options, **overrides: Any) -> None:
        self.polls = polls
        self.client = client
        self.campaign_id = f"cmp_{queue}"
        self.settings = Settings(task_queue=queue)
        self.campaigns = MemoryCampaigns()
        self.decisions = MemoryDecisions(self.campaigns)
        self.processes = TemporalProcesses(client, self.settings)
        process = CampaignProcess(self.campaigns, self.decisions, self.decisions, Heard())
        self.worker = build_worker(client, self.settings, ProcessActivities(process), **overrides)

    async def __aenter__(self) -> Self:
        await self.worker.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.worker.__aexit__(*error)

    async def start(self, wanted: str | None = None) -> WorkflowHandle[Any, CampaignResult]:
        return await self.client.start_workflow(
            CAMPAIGN_WORKFLOW,
            CampaignInput(campaign_id=self.campaign_id, options=self.polls),
            id=wanted or workflow_id(self.campaign_id),
            task_queue=self.settings.task_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            result_type=CampaignResult,
        )

    async def moved(self) -> None:
        await self.processes.signal_moved(self.campaign_id, len(self.campaigns.log))

    async def campaign(self) -> Campaign:
        return await self.campaigns.load(self.campaign_id)

    def types(self) -> list[str]:
        """What happened since the launch."""
        return [type(event).__name__ for event in self.campaigns.events(self.campaign_id)][4:]

    async def until(self, *wanted: str) -> None:
        """Return when the log ends with these events since the launch."""
        await until(lambda: self.types()[-len(wanted) :] == list(wanted))
