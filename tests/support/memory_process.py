"""The process manager's ports in memory: the real campaign core on dictionaries, and devices that are only counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from orchestrator.app.ports import (
    BreakerReading,
    Build,
    DeadlineSweep,
    DispatchedSlice,
    Executed,
    GateReading,
    Meta,
    Recorded,
    Standing,
    VersionConflictError,
)
from orchestrator.domain import campaign as c
from orchestrator.domain.breaker import BreakerSpec, Reading
from orchestrator.errors import NotFoundError
from schemas import campaign_events as e

DAY = 24 * 3_600_000


def phase(name: str, soak: int = DAY, **fields: Any) -> dict[str, Any]:
    return {"name": name, "soak": soak, **fields}


class MemoryCampaigns:
    """``CampaignStore``: one list of events for all campaigns."""

    def __init__(self) -> None:
        self.log: list[Recorded] = []

    async def next_campaign_no(self) -> int:
        return len({item.stream for item in self.log}) + 1

    def events(self, campaign_id: str) -> list[Any]:
        return [item.event for item in self.log if item.stream == f"campaign/{campaign_id}"]

    async def load(self, campaign_id: str) -> c.Campaign:
        events = self.events(campaign_id)
        if not events:
            raise NotFoundError(f"There is no campaign {campaign_id}.")
        return c.fold(events)

    async def execute(
        self, campaign_id: str, build: Build, *, command_id: str, meta: Meta, expected_version: int | None = None
    ) -> Executed:
        campaign = c.fold(self.events(campaign_id))
        done = [item for item in self.log if item.command_id == command_id]
        if done:
            return Executed(campaign=campaign, events=done)
        if expected_version is not None and expected_version != campaign.version:
            raise VersionConflictError
        events = c.decide(campaign, build(campaign, Standing(ledger_position=7, ledger_digest="d7", now=0)))
        recorded: list[Recorded] = []
        for event in events:
            campaign = c.evolve(campaign, event)
            recorded.append(
                Recorded(
                    position=len(self.log) + 1,
                    stream=f"campaign/{campaign_id}",
                    version=campaign.version,
                    event_id=f"e{len(self.log)}",
                    type=type(event).__name__,
                    event=event,
                    meta=meta,
                    command_id=command_id,
                    recorded_at=0,
                )
            )
            self.log.append(recorded[-1])
        return Executed(campaign=campaign, events=recorded)

    async def order(self, campaign_id: str, command: c.Command) -> c.Campaign:
        """A command of a person."""
        done = await self.execute(
            campaign_id, lambda *_: command, command_id=f"order/{len(self.log)}", meta=Meta(actor="ann")
        )
        return done.campaign

    async def launch(self, campaign_id: str, phases: list[dict[str, Any]]) -> None:
        plan = {"phases": phases, "approvals": {"required": 1, "separation": True}}
        create = c.Create(campaign_id=campaign_id, campaign_no=1, name="n", release_id="rel_1", plan=plan, actor="ann")
        await self.order(campaign_id, create)
        await self.order(campaign_id, c.Submit(actor="ann", digest="d", dossier={}))
        await self.order(campaign_id, c.Approve(actor="bob", digest="d"))
        await self.order(campaign_id, c.Launch(actor="ann", ledger_position=0))

    async def halt(self, campaign_id: str) -> None:
        campaign = await self.load(campaign_id)
        await self.order(
            campaign_id,
            c.Halt(
                event=e.CampaignHalted(
                    by="gate",
                    reason="bad",
                    phase=campaign.phase,
                    gate_epoch=campaign.gate_epoch,
                    ledger_position=7,
                )
            ),
        )

    async def resume(self, campaign_id: str) -> None:
        if (await self.load(campaign_id)).state is c.CampaignState.HALTED:
            await self.order(campaign_id, c.Approve(actor="bob", digest="d"))
        await self.order(campaign_id, c.Resume(actor="ann", reason="fixed", ledger_position=7))


@dataclass
class MemoryDecisions:
    """``Decisions`` and ``Enrolments``: devices are numbers, and what is offered is confirmed at once unless told otherwise."""

    campaigns: MemoryCampaigns
    sizes: list[int] = field(default_factory=lambda: [10, 20, 30])
    confirm: bool = True
    """Whether devices confirm by themselves; else they stay in flight."""
    room: int = 1_000
    queues: dict[tuple[str, int], int] = field(default_factory=dict)
    offered: dict[tuple[str, int], int] = field(default_factory=dict)
    confirmed: dict[str, int] = field(default_factory=dict)
    in_flight: dict[str, int] = field(default_factory=dict)
    reading: dict[str, Any] = field(default_factory=dict)
    """Fields of every gate reading that are not counted here."""
    sweeps: list[tuple[int, int]] = field(default_factory=list)
    breaker: BreakerSpec | None = None
    outcomes: Reading = field(default_factory=lambda: Reading(counts={}))
    """What the breaker's next look reads."""
    judged: list[int] = field(default_factory=list)
    """How far facts had been heard at each look at health."""
    closed: dict[str, int] = field(default_factory=dict)
    """What closing says was withheld."""

    async def phase_sizes(self, campaign_id: str) -> list[int]:
        return self.sizes if (await self.campaigns.load(campaign_id)).enrolled else []

    async def enrol(self, campaign_id: str, now: int) -> c.Campaign:
        def build(*_: Any) -> c.Command:
            return c.Enrol(members=sum(self.sizes), holdback=0, strata={}, phases=self.sizes, ledger_position=7)

        done = await self.campaigns.execute(
            campaign_id, build, command_id=f"enrol/{campaign_id}", meta=Meta(actor="orchestrator")
        )
        for index, size in enumerate(self.sizes):
            self.queues.setdefault((campaign_id, index), size)
        return done.campaign

    async def dispatch(self, campaign_id: str, phase: int, limit: int, now: int) -> DispatchedSlice:
        state = str((await self.campaigns.load(campaign_id)).state)
        key = (campaign_id, phase)
        granted = min(limit, self.room, self.queues[key]) if state == "running" else 0
        self.queues[key] -= granted
        self.offered[key] = self.offered.get(key, 0) + granted
        where = self.confirmed if self.confirm else self.in_flight
        where[campaign_id] = where.get(campaign_id, 0) + granted
        return DispatchedSlice(granted=granted, remaining=self.queues[key], state=state, room=self.room)

    async def sweep(self, campaign_id: str, now: int, facts_until: int) -> DeadlineSweep:
        self.sweeps.append((now, facts_until))
        state = str((await self.campaigns.load(campaign_id)).state)
        return DeadlineSweep(expired=0, silent=0, requeued=0, withdrawn=0, cancels=0, state=state)

    async def judge_health(self, campaign_id: str, facts_until: int) -> bool:
        self.judged.append(facts_until)
        return False

    async def close_withheld(self, campaign_id: str, now: int) -> dict[str, int]:
        return self.closed

    async def join(self, campaign_id: str, now: int) -> int:
        return 0

    async def read_gate(self, campaign_id: str, phase: int, now: int) -> GateReading:
        reading = GateReading(
            matured=self.confirmed.get(campaign_id, 0),
            failures=0,
            strata={},
            in_flight=self.in_flight.get(campaign_id, 0),
            queued=self.queues.get((campaign_id, phase), 0),
            confirmed=self.confirmed.get(campaign_id, 0),
            failed=0,
        )
        return replace(reading, **self.reading)

    async def read_breaker(self, campaign_id: str, now: int, heard_until: int) -> BreakerReading | None:
        campaign = await self.campaigns.load(campaign_id)
        if self.breaker is None:
            return None
        return BreakerReading(
            spec=self.breaker,
            breaker=campaign.breaker,
            reading=self.outcomes,
            state=str(campaign.state),
            offer_ttl=DAY,
        )


class Heard:
    """``Facts``: everything was heard, or nothing since ``until_ms``."""

    def __init__(self, until_ms: int | None = None) -> None:
        self.until_ms = until_ms

    async def until(self, now: int) -> int:
        return now if self.until_ms is None else min(now, self.until_ms)
