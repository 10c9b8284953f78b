"""The activities: one step of ``CampaignProcess`` each, with Temporal's clock, heartbeats and way of asking again.

``now`` is when the server started the attempt, so that it is one clock for all workers, and the virtual one under time skipping.
A step whose time has not come fails benignly with the pause until the next look; that costs no history event.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any, NoReturn

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from orchestrator import failpoints
from orchestrator.app.process import CampaignProcess, GateResult
from orchestrator.domain.campaign import LIVE, CampaignState
from orchestrator.errors import ForbiddenError, InvalidInputError, NotFoundError, OtaError, UnauthorizedError
from workflows.messages import (
    CampaignView,
    DispatchInput,
    GateReport,
    LookInput,
    PhaseStepInput,
    StateReport,
    Step,
    StepInput,
)
from workflows.policies import BEATS, NOT_YET, TURN

_CONFIGURATION = (InvalidInputError, NotFoundError, ForbiddenError, UnauthorizedError)
"""Errors that no further attempt heals."""


class ProcessActivities:
    """Activities of campaign and phase workflows. ``turn``: how long an attempt of the dispatcher goes on."""

    def __init__(self, process: CampaignProcess, *, turn: timedelta = TURN) -> None:
        self._process = process
        self._turn = turn.total_seconds()

    def all(self) -> Sequence[Callable[..., Any]]:
        """Everything to register with a worker."""
        return (
            self.look,
            self.open_phase,
            self.dispatch,
            self.evaluate_gate,
            self.await_running,
            self.tend,
            self.finish,
        )

    @activity.defn(name=Step.LOOK)
    async def look(self, step: LookInput) -> CampaignView:
        async with _attempt():
            seen = await self._process.outlook(step.campaign_id)
            return CampaignView(state=seen.state, release_id=seen.release_id, next_phase=seen.next_phase)

    @activity.defn(name=Step.OPEN_PHASE)
    async def open_phase(self, step: PhaseStepInput) -> StateReport:
        async with _attempt():
            state = await self._process.open_phase(step.campaign_id, step.phase, _now())
            failpoints.hit("worker.before_completion")
            return StateReport(state=state)

    @activity.defn(name=Step.DISPATCH)
    async def dispatch(self, step: DispatchInput) -> StateReport:
        """Offer slice after slice until the campaign stops; with nothing to offer, or after a turn, let go and come again."""
        async with _attempt():
            began, base = time.monotonic(), _now()
            while True:
                elapsed = time.monotonic() - began
                done = await self._process.dispatch(step.campaign_id, step.phase, base + int(elapsed * 1_000))
                if done.state != CampaignState.RUNNING:
                    return StateReport(state=done.state)
                if not done.granted and not done.remaining:
                    _not_yet("Nothing waits for an offer.", step.idle_ms)
                if activity.is_worker_shutdown() or elapsed > self._turn:
                    _not_yet("The next attempt goes on.", step.poll_ms)
                if not done.granted:
                    await asyncio.sleep(step.poll_ms / 1_000)

    @activity.defn(name=Step.EVALUATE_GATE)
    async def evaluate_gate(self, step: PhaseStepInput) -> GateReport:
        async with _attempt():
            found = await self._process.evaluate_gate(step.campaign_id, step.phase, _now())
            if found.result is GateResult.NOT_YET:
                _not_yet(found.reason, step.poll_ms)
            failpoints.hit("worker.before_completion")
            return GateReport(promoted=found.result is GateResult.PROMOTED, state=found.state)

    @activity.defn(name=Step.AWAIT_RUNNING)
    async def await_running(self, step: StepInput) -> StateReport:
        """Return once the campaign runs again, or has ended."""
        async with _attempt():
            seen = await self._process.outlook(step.campaign_id)
            if seen.state in LIVE and seen.state != CampaignState.RUNNING:
                _not_yet(f"The campaign is {seen.state}.", step.poll_ms)
            return StateReport(state=seen.state)

    @activity.defn(name=Step.TEND)
    async def tend(self, step: StepInput) -> StateReport:
        """Sweep the campaign's deadlines until it has ended and nothing of it is in flight."""
        async with _attempt():
            done = await self._process.sweep(step.campaign_id, _now())
            if not done.settled:
                _not_yet(f"The campaign is {done.state}.", step.poll_ms)
            return StateReport(state=done.state)

    @activity.defn(name=Step.FINISH)
    async def finish(self, step: StepInput) -> StateReport:
        """Complete the campaign; wait while something is under way or people have stopped it."""
        async with _attempt():
            done = await self._process.finish(step.campaign_id, _now())
            if done.state in LIVE:
                _not_yet(done.reason or f"The campaign is {done.state}.", step.poll_ms)
            failpoints.hit("worker.before_completion")
            return StateReport(state=done.state)


def _now() -> int:
    return int(activity.info().started_time.timestamp() * 1_000)


def _not_yet(reason: str, pause_ms: int) -> NoReturn:
    raise ApplicationError(
        reason,
        type=NOT_YET,
        category=ApplicationErrorCategory.BENIGN,
        next_retry_delay=timedelta(milliseconds=pause_ms),
    )


@asynccontextmanager
async def _attempt() -> AsyncGenerator[None]:
    """Heartbeats while the attempt lasts, and domain errors in Temporal's terms, their code as the type."""
    missed_after = activity.info().heartbeat_timeout
    assert missed_after is not None, "a killed worker would not be noticed"
    pause = missed_after.total_seconds() / BEATS

    async def beat() -> None:
        while True:
            activity.heartbeat()
            await asyncio.sleep(pause)

    beating = asyncio.create_task(beat())
    try:
        yield
    except OtaError as error:
        raise ApplicationError(
            error.detail, type=error.code, non_retryable=isinstance(error, _CONFIGURATION)
        ) from error
    finally:
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating
