"""The steps of a running campaign: what the process manager's activities do, on ports only.

Every step reads the campaign from the log, does what is due now, and says how things stand. Repeating one, or running two processes of
one campaign at once, takes no decision twice: events have command ids made of the campaign, the phase and the gate epoch (never of a
run), and decisions about devices are idempotent by what they claim.

Not here: waiting, retrying, and the order of the steps (``workflows``); the halt rules on failures, which are asked in the transaction
that adds one. Those on health are asked here: they need to have heard everything up to a moment, and come after the update anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, Protocol

from msgspec import Struct

from orchestrator.app.breaker import Breakers
from orchestrator.app.ports import (
    Build,
    CampaignStore,
    DeadlineSweep,
    Decisions,
    DispatchedSlice,
    GateReading,
    Meta,
    VersionConflictError,
)
from orchestrator.domain import campaign as c
from orchestrator.domain.external import missing
from orchestrator.domain.gate import GateVerdict, Verdict, evaluate_promote, soak_goal
from orchestrator.domain.owner import OwnerPolicy
from orchestrator.domain.patience import outlasted
from orchestrator.domain.window import written
from orchestrator.errors import NotFoundError, UnavailableError

SLICE_SIZE: Final = 500
"""Devices per slice transaction: it holds the campaign's pacing row, so it has to stay short."""

PATIENCE_MS: Final = 500
"""How long one look waits for the projection to pass the log's end: a projector in good health needs some 50 ms, and the next look
is never far."""

LOOK_MS: Final = 50
"""Pause between two looks at the projection's positions: about the projector's linger."""

ACTOR: Final = "process"
"""Who the log names for steps that nobody ordered."""


class PhaseNotFoundError(NotFoundError):
    """The campaign has no such phase."""

    code = "campaign.phase.not_found"
    remedy = "Phases count from 0; `ota campaign show` lists them."


# --------------------------------------------------------------------------- ports


class LogEnds(Protocol):
    """Where the log of device events ends now."""

    async def end_offsets(self) -> Mapping[int, int]:
        """Offset of the next record by partition, all partitions. Raises UnavailableError."""
        ...


class Positions(Protocol):
    """How far the fleet projection has come in the log of device events."""

    async def positions(self) -> Mapping[int, int]:
        """Next offset by partition; a partition that was never claimed is missing."""
        ...


class Enrolments(Protocol):
    """What ``CohortEnrolled`` recorded."""

    async def phase_sizes(self, campaign_id: str) -> Sequence[int]:
        """Devices per phase, in order; empty before the enrolment."""
        ...


class Unfinished(Protocol):
    """Campaigns that a process has to look after."""

    async def campaigns(self) -> Sequence[str]:
        """Ids of those that run or are stopped for a time, and of those that have ended with devices still in flight."""
        ...


class ProcessManager(Protocol):
    """Processes of campaigns, wherever they run. They hold nothing that the log does not."""

    async def start(self, campaign_id: str) -> None:
        """Start the campaign's process; nothing happens if it runs."""
        ...

    async def signal_moved(self, campaign_id: str, position: int) -> None:
        """Say that the log holds something new; nothing happens if the process does not run."""
        ...

    async def running(self, campaign_id: str) -> bool: ...


class Facts(Protocol):
    """How much of what devices stated has been heard."""

    async def until(self, now: int) -> int:
        """Everything stated up to this moment (ms, at most ``now``) has been projected; ``now`` must not be in the future."""
        ...


class ProjectedFacts:
    """``Facts`` by offsets: the log's ends are sampled, and the moment of a sample counts once the positions have reached it.

    Two samples are kept, the oldest one that is not reached yet and the newest, so that a projection that lags but moves still lets
    time pass, at most twice its lag behind. Without the broker time stands still: nothing new was heard.
    """

    def __init__(
        self, ends: LogEnds, positions: Positions, *, patience_ms: int = PATIENCE_MS, look_ms: int = LOOK_MS
    ) -> None:
        self._ends = ends
        self._positions = positions
        self._patience = patience_ms / 1_000
        self._look = look_ms / 1_000
        self._until = 0
        self._samples: list[tuple[int, Mapping[int, int]]] = []
        self._busy = asyncio.Lock()

    async def until(self, now: int) -> int:
        async with self._busy:
            if now <= self._until:
                return now
            try:
                ends = await self._ends.end_offsets()
            except UnavailableError:
                return self._until
            self._samples = [*self._samples[:1], (now, ends)]
            await self._follow()
            return min(now, self._until)

    async def _follow(self) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._patience
        while True:
            positions = await self._positions.positions()
            while self._samples and all(positions.get(p, 0) >= end for p, end in self._samples[0][1].items()):
                self._until = max(self._until, self._samples.pop(0)[0])
            if not self._samples or clock() >= deadline:
                return
            await asyncio.sleep(self._look)


# --------------------------------------------------------------------------- results


class Outlook(Struct, frozen=True, kw_only=True):
    """Where a campaign stands, as far as the order of the steps depends on it."""

    state: str
    release_id: str
    next_phase: int | None
    """The first phase that is not promoted; None when all are."""


class Tended(Struct, frozen=True, kw_only=True):
    """What a sweep left behind."""

    state: str
    settled: bool
    """The campaign has ended and none of its devices is in flight: there will be nothing to sweep any more."""
    swept: DeadlineSweep


class GateResult(StrEnum):
    PROMOTED = "promoted"
    NOT_YET = "not_yet"
    STOPPED = "stopped"
    """The campaign does not run: ``GateOutcome.state`` says what it is."""


class GateOutcome(Struct, frozen=True, kw_only=True):
    result: GateResult
    state: str
    reason: str = ""


class Finish(Struct, frozen=True, kw_only=True):
    state: str
    reason: str = ""
    """What a running campaign still waits for."""


# --------------------------------------------------------------------------- the steps


class CampaignProcess:
    """The use cases behind the activities. ``now`` is the server's time of the attempt, in milliseconds."""

    def __init__(
        self,
        campaigns: CampaignStore,
        decisions: Decisions,
        enrolments: Enrolments,
        facts: Facts,
        *,
        slice_size: int = SLICE_SIZE,
    ) -> None:
        self._campaigns = campaigns
        self._decisions = decisions
        self._enrolments = enrolments
        self._facts = facts
        self._breakers = Breakers(campaigns, decisions)
        self._slice_size = slice_size

    async def outlook(self, campaign_id: str) -> Outlook:
        """Where the campaign stands. Raises NotFoundError."""
        campaign = await self._campaigns.load(campaign_id)
        done = campaign.phase < 0 or campaign.phase_state is c.PhaseState.PROMOTED
        following = campaign.phase + 1 if done else campaign.phase
        return Outlook(
            state=str(campaign.state),
            release_id=campaign.release_id,
            next_phase=following if following < len(campaign.phases) else None,
        )

    async def open_phase(self, campaign_id: str, phase: int, now: int) -> str:
        """Enrol the cohort, once, and open the phase, once. Returns the campaign's state; it is open only if that is running."""
        campaign = await self._campaigns.load(campaign_id)
        _require_phase(campaign, phase)
        if campaign.state is c.CampaignState.RUNNING and not campaign.enrolled:
            campaign = await self._decisions.enrol(campaign_id, now)
        if campaign.state is not c.CampaignState.RUNNING or phase <= campaign.phase:
            return str(campaign.state)
        devices = (await self._enrolments.phase_sizes(campaign_id))[phase]
        campaign = await self._step(
            campaign_id,
            lambda _, standing: c.OpenPhase(
                phase=phase, devices=devices, at=now, ledger_position=standing.ledger_position
            ),
            command_id=f"open/{campaign_id}/{phase}",
        )
        return str(campaign.state)

    async def dispatch(self, campaign_id: str, phase: int, now: int) -> DispatchedSlice:
        """Offer one slice of the phase; once nothing of it is due, of what waits again in the phases before it."""
        done = await self._decisions.dispatch(campaign_id, phase, self._slice_size, now)
        for earlier in range(phase):
            due = done.remaining and (done.next_due_at is None or done.next_due_at <= now)
            if done.state != c.CampaignState.RUNNING or done.granted or due or done.hold:
                break
            done = await self._decisions.dispatch(campaign_id, earlier, self._slice_size, now)
        return done

    async def sweep(self, campaign_id: str, now: int) -> Tended:
        """Judge health, look after the breaker, end what is due, both only as far as facts were heard; let late members in."""
        heard = await self._facts.until(now)
        # Before the sweep, which withdraws offers in the same look if this halts.
        await self._decisions.judge_health(campaign_id, heard)
        # Before the sweep: what is silent because nothing is heard must not fall due first.
        await self._breakers.look(campaign_id, now, heard)
        swept = await self._decisions.sweep(campaign_id, now, heard)
        settled = False
        if swept.state == c.CampaignState.RUNNING:
            await self._decisions.join(campaign_id, now)
        if swept.state in c.TERMINAL:
            settled = not (await self._decisions.read_gate(campaign_id, 0, now)).in_flight
        return Tended(state=swept.state, settled=settled, swept=swept)

    async def evaluate_gate(self, campaign_id: str, phase: int, now: int) -> GateOutcome:
        """Start the phase's soak once nobody in it waits for an offer that is due; promote it once its gate allows.

        A phase with a promote test is promoted on its matured devices, one without when nothing of it is under way, a pause before
        another attempt included. The last phase also waits for everything that is still under way anywhere: after it there is
        nobody left to halt for.
        """
        campaign = await self._campaigns.load(campaign_id)
        _require_phase(campaign, phase)
        if phase < campaign.phase or (phase == campaign.phase and campaign.phase_state is c.PhaseState.PROMOTED):
            return _outcome(GateResult.PROMOTED, campaign)
        if campaign.state is not c.CampaignState.RUNNING or phase > campaign.phase:
            return _standing(campaign, "The phase is not open.")
        reading = await self._decisions.read_gate(campaign_id, phase, now)
        if campaign.phase_state is c.PhaseState.OPEN:
            if reading.queued:
                return _outcome(GateResult.NOT_YET, campaign, f"{reading.queued} devices wait for their offer.")
            campaign = await self._step(
                campaign_id,
                lambda _, __: c.StartSoak(phase=phase, at=now),
                command_id=f"soak/{campaign_id}/{phase}/{campaign.gate_epoch}",
                expected_version=campaign.version,
            )
            # The counters are older than this step: the next look reads them anew.
            return _standing(campaign, "The phase begins to soak.")
        if _soak_ends(campaign, phase, reading, now):
            campaign = await self._step(
                campaign_id,
                lambda _, __: c.EndSoak(phase=phase, at=now, matured=reading.matured),
                command_id=f"soaked/{campaign_id}/{phase}/{campaign.gate_epoch}",
                expected_version=campaign.version,
            )
            return _standing(campaign, "The soak is over.")
        verdict = _judge(campaign, phase, reading, now)
        if verdict.verdict is Verdict.PROMOTE:
            # A promotion must not overlook a failure that was stated before it: hear everything first, then count again. The broker
            # is asked only here, when all else is ready.
            until = await self._facts.until(now)
            stale = until < now
            if await self._decisions.judge_health(campaign_id, until):
                return _outcome(GateResult.STOPPED, await self._campaigns.load(campaign_id))
            reading = await self._decisions.read_gate(campaign_id, phase, now)
            verdict = _judge(campaign, phase, reading, now, stale=stale)
        if verdict.verdict is not Verdict.PROMOTE:
            await self._tell(campaign, phase, verdict, now)
            return _outcome(GateResult.NOT_YET, campaign, verdict.detail)
        if waiting := await self._under_way(campaign, phase, reading, now):
            return _outcome(GateResult.NOT_YET, campaign, waiting)
        campaign = await self._step(
            campaign_id,
            lambda _, standing: c.Promote(
                phase=phase,
                matured=verdict.n,
                failures=verdict.f,
                log_e=verdict.log_e,
                at=now,
                ledger_position=standing.ledger_position,
                ledger_digest=standing.ledger_digest,
            ),
            command_id=f"promote/{campaign_id}/{phase}/{campaign.gate_epoch}",
            expected_version=campaign.version,
        )
        if phase < campaign.phase or campaign.phase_state is c.PhaseState.PROMOTED:
            return _outcome(GateResult.PROMOTED, campaign)
        return _standing(campaign, "The campaign changed meanwhile.")

    async def finish(self, campaign_id: str, now: int) -> Finish:
        """Complete the campaign once its last phase is promoted and nothing is under way any more.

        Devices that are withheld are waited for as long as the plan's patience with owners says; then the campaign ends without them.
        """
        campaign = await self._campaigns.load(campaign_id)
        if campaign.state is not c.CampaignState.RUNNING:
            return Finish(state=str(campaign.state))
        last = len(campaign.phases) - 1
        reading = await self._decisions.read_gate(campaign_id, last, now)
        if waiting := await self._under_way(campaign, last, reading, now):
            # A late report may be a reason to try again after the last phase was left, and nobody else offers any more.
            await self.dispatch(campaign_id, last, now)
            return Finish(state=str(campaign.state), reason=waiting)
        if waiting := await self._withheld(campaign, now):
            await self.dispatch(campaign_id, last, now)
            return Finish(state=str(campaign.state), reason=waiting)
        closed = await self._decisions.close_withheld(campaign_id, now)
        campaign = await self._step(
            campaign_id,
            lambda _, standing: c.Complete(
                at=now,
                ledger_position=standing.ledger_position,
                confirmed=reading.confirmed,
                failed=reading.failed,
                withheld=closed,
            ),
            command_id=f"complete/{campaign_id}",
            expected_version=campaign.version,
        )
        return Finish(state=str(campaign.state))

    async def _tell(self, campaign: c.Campaign, phase: int, verdict: GateVerdict, now: int) -> None:
        """Record the holds that have outlasted their patience, each once in a gate epoch."""
        since = campaign.promotable_since
        if since is None:
            return
        plan = campaign.phases[phase]
        waiting = missing(plan, phase, campaign.verdicts)
        holds = outlasted(plan, phase, verdict, waiting, gate_epoch=campaign.gate_epoch, since=since, now=now)
        for hold in holds:
            if c.told(campaign, hold):
                continue
            which = "/".join(filter(None, (hold.reason, hold.gate)))
            await self._step(
                campaign.campaign_id,
                lambda _, __, hold=hold: c.OutlastHold(event=hold),
                command_id=f"outlast/{campaign.campaign_id}/{phase}/{campaign.gate_epoch}/{which}",
            )

    async def _under_way(self, campaign: c.Campaign, phase: int, reading: GateReading, now: int) -> str:
        """What has to end before the phase may be left; empty if nothing."""
        last = phase == len(campaign.phases) - 1
        if campaign.phases[phase].get("promote") and not last:
            return ""
        queued, waiting = reading.queued + (reading.late if last else 0), reading.waiting
        for earlier in range(phase) if last else ():
            before = await self._decisions.read_gate(campaign.campaign_id, earlier, now)
            queued, waiting = queued + before.queued + before.late, waiting + before.waiting
        if not queued and not waiting and not reading.in_flight:
            return ""
        paused = f", {waiting} until they are tried again" if waiting else ""
        return f"{queued} devices wait for their offer{paused}, {reading.in_flight} are in flight."

    async def _withheld(self, campaign: c.Campaign, now: int) -> str:
        """Why the campaign still waits for devices that are withheld; empty if it does not."""
        policy = OwnerPolicy.model_validate(campaign.plan.get("owner") or {})
        until = (campaign.promoted_at or 0) + policy.patience
        if now >= until:
            return ""
        devices = 0
        for phase in range(len(campaign.phases)):
            devices += (await self._decisions.read_gate(campaign.campaign_id, phase, now)).withheld
        if not devices:
            return ""
        return f"{devices} devices are withheld by their owners or the preconditions; the campaign waits until {written(until)}."

    async def _step(
        self, campaign_id: str, build: Build, *, command_id: str, expected_version: int | None = None
    ) -> c.Campaign:
        """Append what a step found. A campaign that changed meanwhile is returned as it is: the next look decides anew."""
        try:
            done = await self._campaigns.execute(
                campaign_id, build, command_id=command_id, meta=Meta(actor=ACTOR), expected_version=expected_version
            )
        except VersionConflictError:
            return await self._campaigns.load(campaign_id)
        except c.CampaignTransitionError:
            campaign = await self._campaigns.load(campaign_id)
            if campaign.state is c.CampaignState.RUNNING:
                raise
            return campaign
        return done.campaign


def _require_phase(campaign: c.Campaign, phase: int) -> None:
    if not 0 <= phase < len(campaign.phases):
        raise PhaseNotFoundError(f"Campaign {campaign.campaign_id} has no phase {phase}.")


def _soak_ends(campaign: c.Campaign, phase: int, reading: GateReading, now: int) -> bool:
    """Whether a soak that waits for devices is over now."""
    asked = campaign.phases[phase].get("soak_devices")
    if asked is None or campaign.soak_ended_at is not None or campaign.soak_until is None:
        return False
    return now >= campaign.soak_until and reading.matured >= soak_goal(asked, reading.matured, reading.outstanding)


def _judge(campaign: c.Campaign, phase: int, reading: GateReading, now: int, *, stale: bool = False) -> GateVerdict:
    plan = campaign.phases[phase]
    test: dict[str, Any] = plan.get("promote") or {}
    return evaluate_promote(
        reading.matured,
        reading.failures,
        test.get("p1"),
        test.get("beta"),
        soaked=campaign.soak_until is not None and now >= campaign.soak_until,
        approval_missing=bool(plan.get("approval")) and phase not in campaign.phase_approvals,
        stale=stale,
        strata_covered=not test or all(reading.strata.values()),
        soak_devices=0
        if campaign.soak_ended_at is not None
        else soak_goal(plan.get("soak_devices"), reading.matured, reading.outstanding),
        external_missing=next(iter(missing(plan, phase, campaign.verdicts).values()), ""),
        breaker_open=campaign.breaker.held,
    )


def _outcome(result: GateResult, campaign: c.Campaign, reason: str = "") -> GateOutcome:
    return GateOutcome(result=result, state=str(campaign.state), reason=reason)


def _standing(campaign: c.Campaign, reason: str) -> GateOutcome:
    if campaign.state is c.CampaignState.RUNNING:
        return _outcome(GateResult.NOT_YET, campaign, reason)
    return _outcome(GateResult.STOPPED, campaign)


__all__ = [
    "CampaignProcess",
    "Enrolments",
    "Facts",
    "Finish",
    "GateOutcome",
    "GateResult",
    "LogEnds",
    "Outlook",
    "PhaseNotFoundError",
    "Positions",
    "ProcessManager",
    "ProjectedFacts",
    "Tended",
    "Unfinished",
]
