"""A campaign: event-sourced, from draft to its end.

``decide(state, command) -> events`` and ``evolve(state, event) -> state``; both pure. ``draft → submitted → approved → running ⇄
paused → completed | aborted``, and ``halted``, which only an approved resume leaves.

Invariants: a halt is never refused while the campaign can still offer, and is idempotent; each resume after a halt opens a new gate
epoch; approvals hold for one digest; phases open in order and once per campaign; a revision that waits for approval changes nothing,
and a halt ends it, because nobody who proposed or approved it knew of the halt.

Not here: who may call a command (scopes), what the gate counts, any clock.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from orchestrator.domain import brake, breaker
from orchestrator.domain.approval import check_approval
from orchestrator.domain.breaker import Breaker
from orchestrator.domain.commands import (
    Abort,
    ApplyBrake,
    Approve,
    ApprovePhase,
    Command,
    Complete,
    Create,
    DraftRemediation,
    EndSoak,
    Enrol,
    GiveVerdict,
    Halt,
    HaltStratum,
    Join,
    Launch,
    MoveBreaker,
    OpenPhase,
    OutlastHold,
    Pause,
    Promote,
    ReleaseBrake,
    Resume,
    Revise,
    StartSoak,
    Submit,
)
from orchestrator.domain.external import MAX_VERDICTS, gate_names, latest, missing
from orchestrator.domain.revision import Revision, StaleRevisionError
from orchestrator.errors import ConflictError, NotFoundError
from schemas import campaign_events as e


class CampaignState(StrEnum):
    DRAFT = "draft"
    SUBMITTED = "submitted"
    APPROVED = "approved"
    RUNNING = "running"
    PAUSED = "paused"
    HALTED = "halted"
    COMPLETED = "completed"
    ABORTED = "aborted"


LIVE: Final = frozenset({CampaignState.RUNNING, CampaignState.PAUSED, CampaignState.HALTED})
TERMINAL: Final = frozenset({CampaignState.COMPLETED, CampaignState.ABORTED})
STOPPED: Final = TERMINAL | {CampaignState.HALTED}
"""It starts no device, so what it updated can be taken back."""


class PhaseState(StrEnum):
    WAITING = "waiting"
    OPEN = "open"
    SOAKING = "soaking"
    PROMOTED = "promoted"


class CampaignTransitionError(ConflictError):
    """The campaign's state does not allow this command."""

    code = "campaign.transition"


class ReleaseQuarantinedError(ConflictError):
    """The release was halted elsewhere after this campaign had been approved."""

    code = "release.quarantined"
    remedy = "Look at that halt, then have somebody else approve this campaign anew with `ota campaign approve`."


class ExternalGateNotFoundError(NotFoundError):
    """The phase has no such external gate."""

    code = "campaign.external.not_found"
    remedy = "`ota campaign show` lists the external gates of each phase."


class ExternalEpochError(ConflictError):
    """The verdict answers a question of before a halt."""

    code = "campaign.external.epoch"
    remedy = "Test again what runs now, and give the verdict for the running gate epoch."


class TooManyVerdictsError(ConflictError):
    """The external gate has said so much of this phase that only a change to promote, or a halt, is taken."""

    code = "campaign.external.limit"
    remedy = "Speak when the verdict changes, not from time to time."


class Campaign(Struct, frozen=True, kw_only=True):
    """State of one campaign after ``version`` events."""

    campaign_id: str = ""
    campaign_no: int = 0
    name: str = ""
    release_id: str = ""
    author: str = ""
    plan: dict[str, Any] = {}
    state: CampaignState | None = None
    """None: not created."""
    version: int = 0
    digest: str | None = None
    dossier: dict[str, Any] = {}
    approvals: tuple[str, ...] = ()
    release_halts: int = 0
    """Halts of the release in other campaigns that every approver could know of."""
    resume_approvals: tuple[str, ...] = ()
    resume_approved: bool = False
    gate_epoch: int = 0
    enrolled: bool = False
    enrolment: e.CohortEnrolled | None = None
    """What was enrolled, late members included."""
    joined: int = 0
    """Late members among them."""
    joins: int = 0
    """How often late members were taken in."""
    phase: int = -1
    """Index of the latest opened phase; -1 before the first."""
    phase_state: PhaseState = PhaseState.WAITING
    phase_approvals: tuple[int, ...] = ()
    soak_until: int | None = None
    soak_ended_at: int | None = None
    """Of phases whose soak waits for devices: when they had matured."""
    resumed_at: int | None = None
    verdicts: tuple[e.ExternalVerdictGiven, ...] = ()
    """The last of each external gate and phase, in the running gate epoch."""
    spoken: dict[tuple[int, str], int] = {}
    """Verdicts by phase and external gate, in the running gate epoch."""
    outlasted: tuple[e.HoldOutlasted, ...] = ()
    """Holds that people were told of, in the running gate epoch."""
    halt: e.CampaignHalted | None = None
    halted_strata: tuple[str, ...] = ()
    """Strata that were halted alone, in the order of their halts. They stay so: their devices need a campaign of their own."""
    withheld: dict[str, int] = {}
    """Devices that it was completed without, by reason."""
    promoted_at: int | None = None
    """When the latest phase was promoted, ms."""
    promoted_since_halt: int = 0
    """Phases promoted since the start or the last halt: the in-flight cap doubles with each."""
    breaker: Breaker = Breaker()
    setbacks: int = 0
    """Times since the last promotion or halt that the breaker opened for failures out of being closed: what went out was too much
    for something. A failed probing is the same trouble still, and a time without news says nothing of it."""
    brake: brake.Brake = brake.OFF
    revision: Revision | None = None
    """Waits for its approvals."""
    editor: str = ""
    """Who proposed the revision in force; empty while the plan is the author's."""

    @property
    def phases(self) -> list[dict[str, Any]]:
        return self.plan["phases"]

    @property
    def promotable_since(self) -> int | None:
        """When the open phase could first have been promoted (ms), perhaps in the future; None while its soak has no end yet."""
        asked = self.phases[self.phase].get("soak_devices")
        end = self.soak_until if asked is None else self.soak_ended_at
        return None if end is None else max(end, self.resumed_at or 0)


def _require(campaign: Campaign, allowed: frozenset[CampaignState], what: str) -> None:
    if campaign.state not in allowed:
        raise CampaignTransitionError(
            f"Campaign {campaign.campaign_id} is {campaign.state}; {what} needs it {' or '.join(sorted(allowed))}.",
            remedy="Look at `ota campaign show` for what it is waiting for.",
            state=str(campaign.state),
        )


def _only(*states: CampaignState) -> frozenset[CampaignState]:
    return frozenset(states)


def decide(campaign: Campaign, command: Command) -> list[e.CampaignEvent]:
    """The events that ``command`` causes; none if it has already taken effect.

    Raises CampaignTransitionError where the state does not allow it, and the errors of ``approval`` for approvals.
    """
    match command:
        case Create():
            if campaign.state is not None:
                raise CampaignTransitionError(f"Campaign {campaign.campaign_id} exists already.")
            return [
                e.CampaignCreated(
                    campaign_id=command.campaign_id,
                    campaign_no=command.campaign_no,
                    name=command.name,
                    release_id=command.release_id,
                    plan=command.plan,
                    author=command.actor,
                )
            ]
        case Submit():
            _require(campaign, _only(CampaignState.DRAFT), "submitting")
            return [
                e.CampaignSubmitted(
                    actor=command.actor,
                    digest=command.digest,
                    dossier=command.dossier,
                    counted_at=command.counted_at,
                )
            ]
        case Approve():
            return _approve(campaign, command)
        case ApprovePhase():
            _require(campaign, LIVE, "approving a phase")
            if not 0 <= command.phase < len(campaign.phases):
                raise CampaignTransitionError(f"There is no phase {command.phase}.", remedy="Phases count from 0.")
            _check(campaign, command.actor, command.digest, ())
            if command.phase in campaign.phase_approvals:
                return []
            return [e.PhaseApproved(actor=command.actor, phase=command.phase, digest=command.digest)]
        case GiveVerdict():
            return _give_verdict(campaign, command)
        case Launch():
            _require(campaign, _only(CampaignState.APPROVED), "launching")
            if len(command.release_halts) > campaign.release_halts:
                where = ", ".join(dict.fromkeys(command.release_halts))
                raise ReleaseQuarantinedError(f"Release {campaign.release_id} was halted in {where}.")
            return [e.CampaignLaunched(actor=command.actor, gate_epoch=1, ledger_position=command.ledger_position)]
        case Halt():
            return _halt(campaign, command)
        case HaltStratum():
            return _halt_stratum(campaign, command)
        case Pause():
            _require(campaign, _only(CampaignState.RUNNING), "pausing")
            return [
                e.CampaignPaused(actor=command.actor, reason=command.reason, ledger_position=command.ledger_position)
            ]
        case Resume():
            return _resume(campaign, command)
        case ApplyBrake() | ReleaseBrake():
            return _brake(campaign, command)
        case Revise():
            return _revise(campaign, command)
        case Abort():
            if campaign.state is CampaignState.ABORTED:
                return []
            _require(campaign, frozenset(CampaignState) - TERMINAL, "aborting")
            return [
                e.CampaignAborted(actor=command.actor, reason=command.reason, ledger_position=command.ledger_position)
            ]
        case DraftRemediation():
            _require(campaign, STOPPED, "taking its devices back")
            return [command.event]
        case MoveBreaker():
            return _move_breaker(campaign, command)
        case Enrol() | Join() | OpenPhase() | StartSoak() | EndSoak() | OutlastHold() | Promote() | Complete():
            return _progress(campaign, command)


def _approvals(campaign: Campaign) -> tuple[int, bool]:
    rule = campaign.plan["approvals"]
    return rule["required"], rule["separation"]


def _check(
    campaign: Campaign, actor: str, digest: str, given: tuple[str, ...], revision: Revision | None = None
) -> None:
    check_approval(
        actor=actor,
        digest=digest,
        expected_digest=(campaign.digest or "") if revision is None else revision.digest,
        author=campaign.author,
        last_editor=(campaign.editor or campaign.author) if revision is None else revision.actor,
        approvers=given,
        separation=_approvals(campaign)[1],
    )


def _approve(campaign: Campaign, command: Approve) -> list[e.CampaignEvent]:
    if campaign.revision is not None:
        return _approve_revision(campaign, campaign.revision, command)
    quarantined = campaign.state is CampaignState.APPROVED and len(command.release_halts) > campaign.release_halts
    if not quarantined:
        _require(campaign, _only(CampaignState.SUBMITTED, CampaignState.HALTED), "approving")
    required = _approvals(campaign)[0]
    if campaign.state is CampaignState.HALTED:
        _check(campaign, command.actor, command.digest, campaign.resume_approvals)
        complete = len(campaign.resume_approvals) + 1 >= required
        return [
            e.ResumeApproved(
                actor=command.actor, digest=command.digest, gate_epoch=campaign.gate_epoch, complete=complete
            )
        ]
    # Approvals that did not know of a later halt of the release count no more.
    given = () if quarantined else campaign.approvals
    _check(campaign, command.actor, command.digest, given)
    return [
        e.CampaignApproved(
            actor=command.actor,
            digest=command.digest,
            complete=len(given) + 1 >= required,
            release_halts=len(command.release_halts),
        )
    ]


def _give_verdict(campaign: Campaign, command: GiveVerdict) -> list[e.CampaignEvent]:
    """A verdict that halts is taken for any phase and epoch: a halt is never refused. The others count while they can."""
    known = gate_names(campaign.phases[command.phase]) if 0 <= command.phase < len(campaign.phases) else []
    if command.gate not in known:
        raise ExternalGateNotFoundError(
            f"Phase {command.phase} of campaign {campaign.campaign_id} has no external gate '{command.gate[:64]}'."
        )
    halts = command.verdict == "halt"
    if halts and campaign.state in TERMINAL:
        return []
    stoppable = _only(CampaignState.RUNNING, CampaignState.PAUSED)
    _require(campaign, LIVE if halts else stoppable, "the verdict of an external gate")
    if not halts and command.gate_epoch not in {None, campaign.gate_epoch}:
        raise ExternalEpochError(
            f"The verdict is for gate epoch {command.gate_epoch}; campaign {campaign.campaign_id} is in {campaign.gate_epoch}."
        )
    promoted = campaign.phase if campaign.phase_state is PhaseState.PROMOTED else campaign.phase - 1
    if not halts and command.phase <= promoted:
        raise CampaignTransitionError(f"Phase {command.phase} is promoted already; a verdict changes nothing.")
    if not halts and _is_repeated(campaign, command):
        return []
    given = e.ExternalVerdictGiven(
        phase=command.phase,
        gate=command.gate,
        verdict=command.verdict,
        reason=command.reason,
        evidence=command.evidence,
        digest=campaign.digest or "",
        gate_epoch=campaign.gate_epoch,
        at=command.at,
        actor=command.actor,
    )
    if not halts or campaign.state not in stoppable:
        return [given]
    halt = e.CampaignHalted(
        by=command.gate,
        reason=command.reason,
        phase=campaign.phase if campaign.phase >= 0 else None,
        gate_epoch=campaign.gate_epoch,
        ledger_position=command.ledger_position,
    )
    return [given, halt]


def _is_repeated(campaign: Campaign, command: GiveVerdict) -> bool:
    """Whether the gate has said just this last. Raises TooManyVerdictsError where it has said enough."""
    key = (command.phase, command.gate)
    last = next((each for each in campaign.verdicts if (each.phase, each.gate) == key), None)
    same = ("verdict", "reason", "evidence", "actor")
    if last is not None and all(getattr(last, name) == getattr(command, name) for name in same):
        return True
    promotes = command.verdict == "promote" and (last is None or last.verdict != "promote")
    if campaign.spoken.get(key, 0) >= MAX_VERDICTS and not promotes:
        raise TooManyVerdictsError(f"'{command.gate}' has given {MAX_VERDICTS} verdicts on phase {command.phase}.")
    return False


def _approve_revision(campaign: Campaign, revision: Revision, command: Approve) -> list[e.CampaignEvent]:
    _require(campaign, _only(CampaignState.RUNNING, CampaignState.PAUSED), "approving a revision")
    _check(campaign, command.actor, command.digest, revision.approvals, revision)
    return [
        e.RevisionApproved(
            actor=command.actor,
            digest=revision.digest,
            complete=len(revision.approvals) + 1 >= _approvals(campaign)[0],
            ledger_position=command.ledger_position,
        )
    ]


def _revise(campaign: Campaign, command: Revise) -> list[e.CampaignEvent]:
    _require(campaign, _only(CampaignState.RUNNING, CampaignState.PAUSED), "a revision")
    if command.replaces != campaign.digest:
        raise StaleRevisionError
    if campaign.revision is not None and campaign.revision.digest == command.digest:
        return []
    return [
        e.RevisionProposed(
            actor=command.actor,
            reason=command.reason,
            digest=command.digest,
            dossier=command.dossier,
            replaces=command.replaces,
        )
    ]


def _brake(campaign: Campaign, command: ApplyBrake | ReleaseBrake) -> list[e.CampaignEvent]:
    _require(campaign, LIVE, "the brake")
    match command:
        case ApplyBrake():
            kind, limits = e.PaceBraked, brake.tightened(campaign.brake, command.limits, campaign.plan)
        case ReleaseBrake():
            kind, limits = e.BrakeReleased, brake.released(campaign.brake, command.left, campaign.plan)
    if limits == campaign.brake:
        return []
    return [
        kind(
            actor=command.actor,
            reason=command.reason,
            per_minute=limits.per_minute,
            max_in_flight=limits.max_in_flight,
            ledger_position=command.ledger_position,
        )
    ]


def _halt(campaign: Campaign, command: Halt) -> list[e.CampaignEvent]:
    if campaign.state is CampaignState.HALTED or campaign.state in TERMINAL:
        return []
    if command.event.by == "gate" and command.event.gate_epoch != campaign.gate_epoch:
        return []  # evidence of an epoch that a resume has already ended
    _require(campaign, _only(CampaignState.RUNNING, CampaignState.PAUSED), "halting")
    return [command.event]


def _halt_stratum(campaign: Campaign, command: HaltStratum) -> list[e.CampaignEvent]:
    event = command.event
    if campaign.state is CampaignState.HALTED or campaign.state in TERMINAL or event.stratum in campaign.halted_strata:
        return []
    if event.gate_epoch != campaign.gate_epoch:
        return []  # evidence of an epoch that a resume has already ended
    _require(campaign, _only(CampaignState.RUNNING, CampaignState.PAUSED), "halting a stratum")
    return [event]


def _move_breaker(campaign: Campaign, command: MoveBreaker) -> list[e.CampaignEvent]:
    """A look that came too late causes nothing: opening needs a campaign that goes on, closing none."""
    held, event = campaign.breaker, command.event
    if isinstance(event, e.BreakerOpened):
        moves = held.stage is not breaker.Stage.OPEN and event.opening == held.openings + 1
        moves = moves and campaign.state in {CampaignState.RUNNING, CampaignState.PAUSED}
    elif event.opening != held.openings:
        moves = False
    elif isinstance(event, e.BreakerProbing):
        moves = held.stage is breaker.Stage.OPEN and campaign.state is CampaignState.RUNNING
    else:
        moves = held.held
    return [event] if moves else []


def _resume(campaign: Campaign, command: Resume) -> list[e.CampaignEvent]:
    _require(campaign, _only(CampaignState.PAUSED, CampaignState.HALTED), "resuming")
    epoch = campaign.gate_epoch
    if campaign.state is CampaignState.HALTED:
        if not campaign.resume_approved:
            raise CampaignTransitionError(
                "A halted campaign resumes only after an approval given after the halt.",
                remedy="Have another operator run `ota campaign approve` on it, then resume.",
                state="halted",
            )
        epoch += 1
    return [
        e.CampaignResumed(
            actor=command.actor,
            reason=command.reason,
            gate_epoch=epoch,
            ledger_position=command.ledger_position,
            at=command.at,
        )
    ]


def _progress(
    campaign: Campaign, command: Enrol | Join | OpenPhase | StartSoak | EndSoak | OutlastHold | Promote | Complete
) -> list[e.CampaignEvent]:
    """What the process manager reports. Repetition is harmless: a step already taken gives no event."""
    match command:
        case Enrol():
            if campaign.enrolled:
                return []
            _require(campaign, LIVE, "enrolling")
            return [
                e.CohortEnrolled(
                    members=command.members,
                    holdback=command.holdback,
                    strata=command.strata,
                    phases=command.phases,
                    ledger_position=command.ledger_position,
                )
            ]
        case Join():
            _require(campaign, _only(CampaignState.RUNNING), "joining")
            if not campaign.enrolled:
                raise CampaignTransitionError("Nobody joins a campaign before its cohort is enrolled.")
            return [
                e.MembersJoined(
                    members=command.members,
                    holdback=command.holdback,
                    strata=command.strata,
                    phases=command.phases,
                    refused=command.refused,
                    cut=command.cut,
                    at=command.at,
                    ledger_position=command.ledger_position,
                )
            ]
        case OpenPhase():
            if command.phase <= campaign.phase:
                return []
            _require(campaign, _only(CampaignState.RUNNING), "opening a phase")
            if command.phase != campaign.phase + 1 or (
                campaign.phase >= 0 and campaign.phase_state is not PhaseState.PROMOTED
            ):
                raise CampaignTransitionError(
                    f"Phase {command.phase} cannot open after phase {campaign.phase} ({campaign.phase_state})."
                )
            return [
                e.PhaseOpened(
                    phase=command.phase,
                    name=campaign.phases[command.phase]["name"],
                    devices=command.devices,
                    at=command.at,
                    ledger_position=command.ledger_position,
                )
            ]
        case StartSoak():
            if command.phase != campaign.phase or campaign.phase_state is not PhaseState.OPEN:
                return []
            _require(campaign, _only(CampaignState.RUNNING), "soaking")
            plan = campaign.phases[command.phase]
            return [
                e.SoakStarted(
                    phase=command.phase,
                    at=command.at,
                    until=command.at + plan["soak"],
                    gate_epoch=campaign.gate_epoch,
                    external=list(missing(plan, command.phase, campaign.verdicts)),
                )
            ]
        case EndSoak():
            if not _soaking(campaign, command.phase) or campaign.soak_ended_at is not None:
                return []
            _require(campaign, _only(CampaignState.RUNNING), "ending a soak")
            return [
                e.SoakEnded(
                    phase=command.phase,
                    at=command.at,
                    gate_epoch=campaign.gate_epoch,
                    matured=command.matured,
                    wanted=campaign.phases[command.phase].get("soak_devices") or 0,
                )
            ]
        case OutlastHold():
            hold = command.event
            current = campaign.state is CampaignState.RUNNING and hold.gate_epoch == campaign.gate_epoch
            if not current or not _soaking(campaign, hold.phase) or told(campaign, hold):
                return []
            return [hold]
        case Promote():
            if command.phase != campaign.phase or campaign.phase_state is PhaseState.PROMOTED:
                return []
            _require(campaign, _only(CampaignState.RUNNING), "promoting")
            if campaign.phase_state is not PhaseState.SOAKING:
                raise CampaignTransitionError(f"Phase {command.phase} has not soaked.")
            promote: dict[str, float] = campaign.phases[command.phase].get("promote") or {}
            return [
                e.PhasePromoted(
                    phase=command.phase,
                    matured=command.matured,
                    failures=command.failures,
                    log_e=command.log_e,
                    p1=promote.get("p1"),
                    beta=promote.get("beta"),
                    at=command.at,
                    ledger_position=command.ledger_position,
                    ledger_digest=command.ledger_digest,
                )
            ]
        case Complete():
            if campaign.state is CampaignState.COMPLETED:
                return []
            _require(campaign, _only(CampaignState.RUNNING), "completing")
            if campaign.phase != len(campaign.phases) - 1 or campaign.phase_state is not PhaseState.PROMOTED:
                raise CampaignTransitionError("The last phase is not closed.")
            return [
                e.CampaignCompleted(
                    at=command.at,
                    ledger_position=command.ledger_position,
                    confirmed=command.confirmed,
                    failed=command.failed,
                    withheld=command.withheld,
                )
            ]


def _soaking(campaign: Campaign, phase: int) -> bool:
    return phase == campaign.phase and campaign.phase_state is PhaseState.SOAKING


def told(campaign: Campaign, hold: e.HoldOutlasted) -> bool:
    """Whether people have been told of this hold in the running gate epoch."""
    same = (hold.phase, hold.reason, hold.gate)
    return any((each.phase, each.reason, each.gate) == same for each in campaign.outlasted)


def evolve(campaign: Campaign, event: e.CampaignEvent) -> Campaign:
    """The state after ``event``."""
    campaign = replace(campaign, version=campaign.version + 1)
    match event:
        case e.CampaignCreated():
            return replace(
                campaign,
                campaign_id=event.campaign_id,
                campaign_no=event.campaign_no,
                name=event.name,
                release_id=event.release_id,
                plan=event.plan,
                author=event.author,
                state=CampaignState.DRAFT,
            )
        case e.CampaignSubmitted():
            return replace(
                campaign,
                state=CampaignState.SUBMITTED,
                digest=event.digest,
                dossier=event.dossier,
                approvals=(),
            )
        case e.CampaignApproved():
            anew = campaign.state is CampaignState.APPROVED or not campaign.approvals
            return replace(
                campaign,
                approvals=(event.actor,) if anew else (*campaign.approvals, event.actor),
                release_halts=event.release_halts if anew else min(campaign.release_halts, event.release_halts),
                state=CampaignState.APPROVED if event.complete else CampaignState.SUBMITTED,
            )
        case e.CampaignLaunched():
            return replace(campaign, state=CampaignState.RUNNING, gate_epoch=event.gate_epoch)
        case e.CohortEnrolled():
            return replace(campaign, enrolled=True, enrolment=event)
        case e.MembersJoined():
            return _joined(campaign, event)
        case e.PhaseOpened():
            return replace(campaign, phase=event.phase, phase_state=PhaseState.OPEN, soak_until=None)
        case e.SoakStarted():
            return replace(campaign, phase_state=PhaseState.SOAKING, soak_until=event.until, soak_ended_at=None)
        case e.SoakEnded():
            return replace(campaign, soak_ended_at=event.at)
        case e.PhasePromoted():
            return replace(
                campaign,
                phase_state=PhaseState.PROMOTED,
                promoted_at=event.at,
                promoted_since_halt=campaign.promoted_since_halt + 1,
                setbacks=0,
            )
        case e.PhaseApproved():
            return replace(campaign, phase_approvals=(*campaign.phase_approvals, event.phase))
        case e.ExternalVerdictGiven():
            key = (event.phase, event.gate)
            spoken = {**campaign.spoken, key: campaign.spoken.get(key, 0) + 1}
            return replace(campaign, verdicts=latest(campaign.verdicts, event), spoken=spoken)
        case e.HoldOutlasted():
            return replace(campaign, outlasted=(*campaign.outlasted, event))
        case e.CampaignPaused():
            return replace(campaign, state=CampaignState.PAUSED)
        case e.CampaignResumed():
            return _resumed(campaign, event)
        case e.ResumeApproved():
            return replace(
                campaign,
                resume_approvals=(*campaign.resume_approvals, event.actor),
                resume_approved=event.complete,
            )
        case e.CampaignHalted():
            return replace(
                campaign,
                state=CampaignState.HALTED,
                halt=event,
                resume_approvals=(),
                resume_approved=False,
                promoted_since_halt=0,
                setbacks=0,
                revision=None,
            )
        case e.StratumHalted():
            return replace(campaign, halted_strata=(*campaign.halted_strata, event.stratum))
        case e.BreakerOpened() | e.BreakerProbing() | e.BreakerClosed():
            tripped = (
                isinstance(event, e.BreakerOpened)
                and event.cause == breaker.Cause.FAILURES
                and not campaign.breaker.held
            )
            moved = breaker.evolve(campaign.breaker, event)
            return replace(campaign, breaker=moved, setbacks=campaign.setbacks + tripped)
        case e.PaceBraked() | e.BrakeReleased():
            return replace(campaign, brake=brake.Brake(per_minute=event.per_minute, max_in_flight=event.max_in_flight))
        case e.RevisionProposed():
            proposed = Revision(digest=event.digest, dossier=event.dossier, actor=event.actor, reason=event.reason)
            return replace(campaign, revision=proposed)
        case e.RevisionApproved():
            return _revision_approved(campaign, event)
        case e.CampaignAborted():
            return replace(campaign, state=CampaignState.ABORTED, revision=None)
        case e.CampaignCompleted():
            return replace(campaign, state=CampaignState.COMPLETED, revision=None, withheld=event.withheld)
        case e.RemediationDrafted():
            return campaign


def _revision_approved(campaign: Campaign, event: e.RevisionApproved) -> Campaign:
    revision = campaign.revision
    assert revision is not None
    approvals = (*revision.approvals, event.actor)
    if not event.complete:
        return replace(campaign, revision=replace(revision, approvals=approvals))
    return replace(
        campaign,
        plan=revision.dossier["plan"],
        dossier=revision.dossier,
        digest=revision.digest,
        approvals=approvals,
        editor=revision.actor,
        revision=None,
    )


def _joined(campaign: Campaign, event: e.MembersJoined) -> Campaign:
    before = campaign.enrolment
    assert before is not None
    keys = sorted(before.strata.keys() | event.strata.keys())
    enrolment = replace(
        before,
        members=before.members + event.members,
        holdback=before.holdback + event.holdback,
        strata={key: before.strata.get(key, 0) + event.strata.get(key, 0) for key in keys},
        phases=[had + added for had, added in zip(before.phases, event.phases, strict=True)],
    )
    return replace(campaign, enrolment=enrolment, joined=campaign.joined + event.members, joins=campaign.joins + 1)


def _resumed(campaign: Campaign, event: e.CampaignResumed) -> Campaign:
    # A new epoch asks the open phase for fresh evidence: it soaks again once its devices are offered again, and external gates
    # are asked again.
    anew = event.gate_epoch != campaign.gate_epoch
    fresh = anew and campaign.phase_state is PhaseState.SOAKING
    return replace(
        campaign,
        state=CampaignState.RUNNING,
        gate_epoch=event.gate_epoch,
        resume_approvals=(),
        resume_approved=False,
        phase_state=PhaseState.OPEN if fresh else campaign.phase_state,
        soak_until=None if fresh else campaign.soak_until,
        soak_ended_at=None if fresh else campaign.soak_ended_at,
        resumed_at=event.at,
        verdicts=() if anew else campaign.verdicts,
        spoken={} if anew else campaign.spoken,
        outlasted=() if anew else campaign.outlasted,
    )


def fold(events: list[e.CampaignEvent]) -> Campaign:
    """The state after all ``events``, oldest first."""
    campaign = Campaign()
    for event in events:
        campaign = evolve(campaign, event)
    return campaign
