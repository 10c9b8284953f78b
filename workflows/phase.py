"""One phase of a campaign: open it, offer its devices, promote it when its gate allows.

The log decides; this workflow only asks again. While the campaign is paused or halted it waits for "the log moved", or looks from
time to time, and then goes on where the log says. Its own state is worth nothing, so it can continue as new at any stop.
"""

from __future__ import annotations

import asyncio
from typing import Any

from temporalio import workflow
from temporalio.common import VersioningBehavior
from temporalio.workflow import ActivityHandle

with workflow.unsafe.imports_passed_through():
    from orchestrator.domain.campaign import LIVE, CampaignState
    from workflows import policies
    from workflows.messages import (
        LOG_MOVED,
        PHASE_WORKFLOW,
        DispatchInput,
        GateReport,
        LogMoved,
        PhaseInput,
        PhaseResult,
        PhaseStepInput,
        StateReport,
        Step,
        StepInput,
    )
    from workflows.versions import behavior


@workflow.defn(name=PHASE_WORKFLOW, versioning_behavior=behavior(VersioningBehavior.PINNED))
class PhaseWorkflow:
    """Runs until the phase is promoted or the campaign has ended."""

    @workflow.init
    def __init__(self, phase: PhaseInput) -> None:
        self._phase = phase
        self._moved = 0

    @workflow.signal(name=LOG_MOVED)
    def log_moved(self, moved: LogMoved) -> None:
        self._moved = max(self._moved, moved.position)

    @workflow.run
    async def run(self, phase: PhaseInput) -> PhaseResult:
        while True:
            seen = self._moved
            report = await self._work()
            if report.promoted or report.state not in LIVE:
                return PhaseResult(promoted=report.promoted, state=report.state)
            await self._wait(seen)
            if workflow.info().is_continue_as_new_suggested():
                await workflow.wait_condition(workflow.all_handlers_finished)
                workflow.continue_as_new(phase)

    async def _work(self) -> GateReport:
        """Drive the phase until it is promoted or the campaign stops."""
        opened = await workflow.execute_activity(
            Step.OPEN_PHASE,
            self._step(),
            result_type=StateReport,
            start_to_close_timeout=policies.LONG,
            heartbeat_timeout=self._phase.options.heartbeat,
            retry_policy=policies.RETRY,
        )
        if opened.state != CampaignState.RUNNING:
            return GateReport(promoted=False, state=opened.state)
        # Both at once: an offer that expires during the soak waits in the queue again and is dispatched again. Whichever ends, the
        # other one goes too, so that after a stop both begin anew.
        gate, dispatch = self._gate(), self._dispatch()
        await workflow.wait([gate, dispatch], return_when=asyncio.FIRST_COMPLETED)
        if gate.done():
            await _drop(dispatch)
            return gate.result()
        await _drop(gate)
        return GateReport(promoted=False, state=dispatch.result().state)

    def _gate(self) -> ActivityHandle[GateReport]:
        return workflow.start_activity(
            Step.EVALUATE_GATE,
            self._step(),
            result_type=GateReport,
            start_to_close_timeout=policies.QUICK,
            heartbeat_timeout=self._phase.options.heartbeat,
            retry_policy=policies.RETRY,
        )

    def _dispatch(self) -> ActivityHandle[StateReport]:
        options = self._phase.options
        return workflow.start_activity(
            Step.DISPATCH,
            DispatchInput(
                campaign_id=self._phase.campaign_id,
                phase=self._phase.phase,
                poll_ms=options.dispatch_poll_ms,
                idle_ms=options.gate_poll_ms,
            ),
            result_type=StateReport,
            start_to_close_timeout=policies.LONG,
            heartbeat_timeout=self._phase.options.heartbeat,
            retry_policy=policies.RETRY,
        )

    async def _wait(self, seen: int) -> None:
        """Return when the log moved after ``seen``, or when a look from time to time finds the campaign running or ended."""
        running = workflow.start_activity(
            Step.AWAIT_RUNNING,
            StepInput(campaign_id=self._phase.campaign_id, poll_ms=self._phase.options.idle_poll_ms),
            result_type=StateReport,
            start_to_close_timeout=policies.QUICK,
            heartbeat_timeout=self._phase.options.heartbeat,
            retry_policy=policies.RETRY,
        )
        await workflow.wait_condition(lambda: running.done() or self._moved > seen)
        if running.done():
            running.result()
        else:
            await _drop(running)

    def _step(self) -> PhaseStepInput:
        return PhaseStepInput(
            campaign_id=self._phase.campaign_id, phase=self._phase.phase, poll_ms=self._phase.options.gate_poll_ms
        )


async def _drop(handle: ActivityHandle[Any]) -> None:
    """Cancel an activity whose result nobody needs any more."""
    handle.cancel()
    await workflow.wait([handle])
    if not handle.cancelled():
        handle.exception()
