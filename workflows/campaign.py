"""A campaign: its phases one after the other, and its deadlines all the time.

The log decides; this workflow asks it what is next. It can be ended at any moment and started again, and a second one of the same
campaign does no harm. People's commands never come here: they are in force at their commit, and the signal "the log moved" only
shortens the wait until the next look.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import SearchAttributeUpdate, VersioningBehavior
from temporalio.exceptions import FailureError, WorkflowAlreadyStartedError
from temporalio.workflow import ActivityHandle

with workflow.unsafe.imports_passed_through():
    from orchestrator.domain.campaign import LIVE, TERMINAL
    from workflows import policies
    from workflows.messages import (
        CAMPAIGN_WORKFLOW,
        LOG_MOVED,
        RELEASE,
        STATE,
        CampaignInput,
        CampaignResult,
        CampaignView,
        LogMoved,
        LookInput,
        PhaseInput,
        StateReport,
        Step,
        StepInput,
    )
    from workflows.versions import behavior

from workflows.phase import PhaseWorkflow


@workflow.defn(name=CAMPAIGN_WORKFLOW, versioning_behavior=behavior(VersioningBehavior.AUTO_UPGRADE))
class CampaignWorkflow:
    """Runs until the campaign has ended and none of its devices is in flight."""

    @workflow.init
    def __init__(self, campaign: CampaignInput) -> None:
        self._campaign = campaign
        self._moved = 0
        self._told = 0
        self._shown = ""
        self._crowded = 0

    @workflow.signal(name=LOG_MOVED)
    def log_moved(self, moved: LogMoved) -> None:
        self._moved = max(self._moved, moved.position)

    @workflow.run
    async def run(self, campaign: CampaignInput) -> CampaignResult:
        view = await self._look()
        if view.state not in LIVE and view.state not in TERMINAL:
            return CampaignResult(state=view.state)
        tending = self._tend()
        while view.state not in TERMINAL:
            if view.next_phase is None:
                await self._finish()
            else:
                await self._run_phase(view.next_phase)
            view = await self._look()
            if workflow.info().is_continue_as_new_suggested() and view.state not in TERMINAL:
                await workflow.wait_condition(workflow.all_handlers_finished)
                workflow.continue_as_new(campaign)
        await tending
        await workflow.wait_condition(workflow.all_handlers_finished)
        return CampaignResult(state=view.state)

    async def _run_phase(self, phase: int) -> None:
        """Run the phase's workflow to its end, passing on that the log moved."""
        self._told = self._moved
        try:
            child = await workflow.start_child_workflow(
                PhaseWorkflow.run,
                PhaseInput(campaign_id=self._campaign.campaign_id, phase=phase, options=self._campaign.options),
                id=f"{workflow.info().workflow_id}/phase/{phase}",
            )
        except WorkflowAlreadyStartedError:
            # It outlived an earlier run of this workflow: either it ends in a moment, or it does the same work, so let it.
            self._crowded += 1
            pause = min(self._campaign.options.gate_poll_ms << self._crowded, self._campaign.options.idle_poll_ms)
            await workflow.sleep(timedelta(milliseconds=pause))
            return
        self._crowded = 0
        while True:
            await workflow.wait_condition(lambda: child.done() or self._moved > self._told)
            if child.done():
                child.result()
                return
            self._told = self._moved
            try:
                await child.signal(PhaseWorkflow.log_moved, LogMoved(position=self._told))
            except FailureError:
                workflow.logger.info("phase %d ended before the signal", phase)
            await self._look()

    async def _look(self) -> CampaignView:
        """Ask where the campaign stands, and show it to operators of Temporal."""
        view = await workflow.execute_activity(
            Step.LOOK,
            LookInput(campaign_id=self._campaign.campaign_id),
            result_type=CampaignView,
            start_to_close_timeout=policies.QUICK,
            heartbeat_timeout=self._campaign.options.heartbeat,
            retry_policy=policies.RETRY,
        )
        if view.state != self._shown:
            self._shown = view.state
            shown: list[SearchAttributeUpdate[Any]] = [STATE.value_set(view.state), RELEASE.value_set(view.release_id)]
            workflow.upsert_search_attributes(shown)  # pyright: ignore[reportUnknownMemberType]
        return view

    def _tend(self) -> ActivityHandle[StateReport]:
        return workflow.start_activity(
            Step.TEND,
            StepInput(campaign_id=self._campaign.campaign_id, poll_ms=self._campaign.options.sweep_poll_ms),
            result_type=StateReport,
            start_to_close_timeout=policies.LONG,
            heartbeat_timeout=self._campaign.options.heartbeat,
            retry_policy=policies.RETRY,
        )

    async def _finish(self) -> None:
        await workflow.execute_activity(
            Step.FINISH,
            StepInput(campaign_id=self._campaign.campaign_id, poll_ms=self._campaign.options.gate_poll_ms),
            result_type=StateReport,
            start_to_close_timeout=policies.QUICK,
            heartbeat_timeout=self._campaign.options.heartbeat,
            retry_policy=policies.RETRY,
        )
