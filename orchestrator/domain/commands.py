"""What can be asked of a campaign: by people, by the process manager, by the gate. Times are milliseconds since the epoch."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from orchestrator.domain.brake import Brake
from schemas import campaign_events as e


class Create(Struct, frozen=True, kw_only=True):
    campaign_id: str
    campaign_no: int
    name: str
    release_id: str
    plan: dict[str, Any]
    actor: str


class Submit(Struct, frozen=True, kw_only=True):
    actor: str
    digest: str
    dossier: dict[str, Any]
    counted_at: int | None = None


class Approve(Struct, frozen=True, kw_only=True):
    """Approves the plan of a submitted campaign, the revision that waits in a running one, or the resume of a halted one."""

    actor: str
    digest: str
    ledger_position: int = 0
    release_halts: tuple[str, ...] = ()
    """Campaigns in which the release was halted so far, one entry per halt; this one apart."""


class ApprovePhase(Struct, frozen=True, kw_only=True):
    actor: str
    phase: int
    digest: str


class GiveVerdict(Struct, frozen=True, kw_only=True):
    """What an external gate says of a phase."""

    phase: int
    gate: str
    verdict: str
    """``promote``, ``hold`` or ``halt``."""
    reason: str
    evidence: str | None
    gate_epoch: int | None
    """The epoch that the gate was asked in, if it says so."""
    at: int
    ledger_position: int
    actor: str


class Launch(Struct, frozen=True, kw_only=True):
    actor: str
    ledger_position: int
    release_halts: tuple[str, ...] = ()


class Enrol(Struct, frozen=True, kw_only=True):
    members: int
    holdback: int
    strata: dict[str, int]
    phases: list[int]
    ledger_position: int


class Join(Struct, frozen=True, kw_only=True):
    members: int
    holdback: int
    strata: dict[str, int]
    phases: list[int]
    refused: dict[str, int]
    cut: e.JoinCut
    at: int
    ledger_position: int


class OpenPhase(Struct, frozen=True, kw_only=True):
    phase: int
    devices: int
    at: int
    ledger_position: int


class StartSoak(Struct, frozen=True, kw_only=True):
    phase: int
    at: int


class EndSoak(Struct, frozen=True, kw_only=True):
    """The devices that the soak waited for have matured, or the phase has no more."""

    phase: int
    at: int
    matured: int


class OutlastHold(Struct, frozen=True, kw_only=True):
    event: e.HoldOutlasted


class Promote(Struct, frozen=True, kw_only=True):
    phase: int
    matured: int
    failures: int
    log_e: float | None
    at: int
    ledger_position: int
    ledger_digest: str


class Pause(Struct, frozen=True, kw_only=True):
    actor: str
    reason: str
    ledger_position: int


class Resume(Struct, frozen=True, kw_only=True):
    actor: str
    reason: str
    ledger_position: int
    at: int | None = None


class Halt(Struct, frozen=True, kw_only=True):
    event: e.CampaignHalted


class HaltStratum(Struct, frozen=True, kw_only=True):
    event: e.StratumHalted


class MoveBreaker(Struct, frozen=True, kw_only=True):
    """What the breaker's look found: it opens, probes or closes."""

    event: e.BreakerOpened | e.BreakerProbing | e.BreakerClosed


class ApplyBrake(Struct, frozen=True, kw_only=True):
    actor: str
    reason: str
    limits: Brake
    """Those that are asked for; the others stay."""
    ledger_position: int


class ReleaseBrake(Struct, frozen=True, kw_only=True):
    actor: str
    reason: str
    left: Brake
    ledger_position: int


class Revise(Struct, frozen=True, kw_only=True):
    actor: str
    reason: str
    replaces: str
    """Digest of the dossier that it was made from."""
    digest: str
    dossier: dict[str, Any]


class Abort(Struct, frozen=True, kw_only=True):
    actor: str
    reason: str
    ledger_position: int


class Complete(Struct, frozen=True, kw_only=True):
    at: int
    ledger_position: int
    confirmed: int
    failed: int
    withheld: dict[str, int] = {}


class DraftRemediation(Struct, frozen=True, kw_only=True):
    """Take what was updated back; the drafts are created with it."""

    event: e.RemediationDrafted


Command = (
    Create
    | Submit
    | Approve
    | ApprovePhase
    | GiveVerdict
    | Launch
    | Enrol
    | Join
    | OpenPhase
    | StartSoak
    | EndSoak
    | OutlastHold
    | Promote
    | Pause
    | Resume
    | Halt
    | HaltStratum
    | MoveBreaker
    | ApplyBrake
    | ReleaseBrake
    | Revise
    | Abort
    | Complete
    | DraftRemediation
)
