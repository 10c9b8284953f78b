"""A whole campaign in simulated time: the real workflows and steps on a real Temporal whose clock skips; devices are only counted.

What it is for is the history that such a campaign leaves in Temporal, and that it does not grow with the fleet. Devices take every
offer and confirm it after ``UPDATE_MS``. An attempt of the dispatcher offers, slice by slice, as much as there is room for, and then
comes again in ``POLL_MS`` of simulated time; a real one looks more often, which costs no history.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

from temporalio.client import Client
from temporalio.contrib.opentelemetry import TracingInterceptor

from orchestrator.app.ports import DispatchedSlice, GateReading
from orchestrator.app.process import CampaignProcess
from orchestrator.config import Settings
from orchestrator.domain import pacing
from orchestrator.domain.plan import Plan
from tests.support.memory_process import DAY, Heard, MemoryCampaigns, MemoryDecisions
from tests.support.skipping import history
from workflows.activities import ProcessActivities
from workflows.messages import CAMPAIGN_WORKFLOW, CampaignInput, CampaignResult, Options, workflow_id
from workflows.worker import build_worker

UPDATE_MS: Final = 30 * 60_000
"""From the offer to the confirmation: a poll, a download over a slow link, a trial."""

POLL_MS: Final = UPDATE_MS
"""Simulated time between two looks, and so a jump of the clock, which costs about 0.2 s."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """What a campaign left behind."""

    state: str
    offered: int
    slices: int
    days: float
    """Simulated days from each phase's opening to its promotion."""
    events: int
    """Of all histories together, the clock's jumps left out."""
    bytes: int
    runs: int
    """Workflow runs: one per workflow, and one for each time one continued as new."""
    wall_s: float


@dataclass
class PacedDecisions(MemoryDecisions):
    """Offers as many at a time as the plan's cap has room for. Each phase lives on its own workflow's clock."""

    plan: Plan = field(kw_only=True)
    slices: int = 0
    landing: dict[tuple[str, int], list[tuple[int, int]]] = field(default_factory=dict)
    """By campaign and phase: when devices confirm, and how many."""

    def __post_init__(self) -> None:
        self.confirm = False

    async def dispatch(self, campaign_id: str, phase: int, limit: int, now: int) -> DispatchedSlice:
        self._land(campaign_id, phase, now)
        caps = self.plan.max_in_flight
        promoted = (await self.campaigns.load(campaign_id)).promoted_since_halt
        cap = pacing.in_flight_cap(caps.initial, caps.maximum, promoted, self.plan.phases[phase].max_in_flight)
        self.room = max(0, cap - self.in_flight.get(campaign_id, 0))
        done = await super().dispatch(campaign_id, phase, limit, now)
        if done.granted:
            self.slices += 1
            self.landing.setdefault((campaign_id, phase), []).append((now + UPDATE_MS, done.granted))
        return done

    async def join(self, campaign_id: str, now: int) -> int:
        return 0

    async def read_gate(self, campaign_id: str, phase: int, now: int) -> GateReading:
        self._land(campaign_id, phase, now)
        return await super().read_gate(campaign_id, phase, now)

    def _land(self, campaign_id: str, phase: int, now: int) -> None:
        coming = self.landing.pop((campaign_id, phase), [])
        self.landing[campaign_id, phase] = [(at, devices) for at, devices in coming if at > now]
        landed = sum(devices for at, devices in coming if at <= now)
        self.in_flight[campaign_id] = self.in_flight.get(campaign_id, 0) - landed
        self.confirmed[campaign_id] = self.confirmed.get(campaign_id, 0) + landed


class Turns(CampaignProcess):
    """The steps, with a dispatcher that goes on until there is no room instead of for half a minute of a clock that stands still."""

    async def dispatch(self, campaign_id: str, phase: int, now: int) -> DispatchedSlice:
        while (done := await super().dispatch(campaign_id, phase, now)).granted:
            pass
        return done


async def simulate(client: Client, plan: Plan, sizes: Sequence[int]) -> Simulated:
    """Run a campaign whose phases add these numbers of devices to its end. ``client``: see ``tests.support.skipping``."""
    campaign_id = f"cmp_{uuid4().hex[:8]}"
    settings = Settings.model_validate({"task_queue": campaign_id})
    campaigns = MemoryCampaigns()
    decisions = PacedDecisions(campaigns, list(sizes), plan=plan)
    process = Turns(campaigns, decisions, decisions, Heard(), slice_size=settings.slice_size)
    polls = Options(gate_poll_ms=POLL_MS, sweep_poll_ms=DAY, dispatch_poll_ms=POLL_MS, idle_poll_ms=DAY)
    await campaigns.launch(campaign_id, plan.canonical()["phases"])
    began = time.perf_counter()
    activities = ProcessActivities(process, turn=timedelta(0))
    async with build_worker(client, settings, activities, interceptors=[TracingInterceptor()]):
        handle = await client.start_workflow(
            CAMPAIGN_WORKFLOW,
            CampaignInput(campaign_id=campaign_id, options=polls),
            id=workflow_id(campaign_id),
            task_queue=settings.task_queue,
            result_type=CampaignResult,
        )
        result = await handle.result()
    wall_s = time.perf_counter() - began
    runs = await _runs(client, [handle.id, *(f"{handle.id}/phase/{phase}" for phase in range(len(sizes)))])
    events = campaigns.events(campaign_id)
    opened = sum(event.at for event in events if type(event).__name__ == "PhaseOpened")
    promoted = sum(event.at for event in events if type(event).__name__ == "PhasePromoted")
    return Simulated(
        state=result.state,
        offered=sum(decisions.offered.values()),
        slices=decisions.slices,
        days=round((promoted - opened) / DAY, 1),
        events=sum(map(len, runs)),
        bytes=sum(event.ByteSize() for run in runs for event in run),
        runs=len(runs),
        wall_s=round(wall_s, 1),
    )


async def _runs(client: Client, ids: Sequence[str]) -> list[list[Any]]:
    """Histories of all runs of these workflows."""
    found: list[list[Any]] = []
    for each in ids:
        info = (await client.get_workflow_handle(each).describe()).raw_description.workflow_execution_info
        run_id = info.first_run_id
        while run_id:
            found.append(await history(client, each, run_id))
            run_id = found[-1][-1].workflow_execution_continued_as_new_event_attributes.new_execution_run_id
    return found
