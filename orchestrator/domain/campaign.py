"""A campaign: event-sourced, from draft to its end.

``decide(state, command) -> events`` and ``evolve(state, event) -> state``; both pure. ``draft → submitted → approved → running ⇄
paused → completed | aborted``, and ``halted``, which only an approved resume leaves.

Invariants: a halt is never refused while the campaign can still offer, and is idempotent; each resume after a halt opens a new gate
epoch; approvals hold for one digest; phases open in order and once per campaign; a revision that waits for approval changes nothing,
and a halt ends it, because nobody who proposed or approved it knew of the halt.

Not here: who may call a command (scopes), what the gate counts, any clock.
"""

from __future__ import annotations

from orchestrator.domain import brake, breaker
from orchestrator.domain._campaign_state import (
    LIVE,
    STOPPED,
    TERMINAL,
    Campaign,
    CampaignState,
    CampaignTransitionError,
    ExternalEpochError,
    ExternalGateNotFoundError,
    PhaseState,
    ReleaseQuarantinedError,
    TooManyVerdictsError,
    evolve,
    fold,
    only,
    require,
    told,
)
from orchestrator.domain._campaign_steps import progress
from orchestrator.domain.approval import check_approval
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
from orchestrator.domain.external import MAX_VERDICTS, gate_names
from orchestrator.domain.revision import Revision, StaleRevisionError
from schemas import campaign_events as e


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
            require(campaign, only(CampaignState.DRAFT), "submitting")
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
            require(campaign, LIVE, "approving a phase")
            if not 0 <= command.phase < len(campaign.phases):
                raise CampaignTransitionError(f"There is no phase {command.phase}.", remedy="Phases count from 0.")
            _check(campaign, command.actor, command.digest, ())
            if command.phase in campaign.phase_approvals:
                return []
            return [e.PhaseApproved(actor=command.actor, phase=command.phase, digest=command.digest)]
        case GiveVerdict():
            return _give_verdict(campaign, command)
        case Launch():
            require(campaign, only(CampaignState.APPROVED), "launching")
            if len(command.release_halts) > campaign.release_halts:
                where = ", ".join(dict.fromkeys(command.release_halts))
                raise ReleaseQuarantinedError(f"Release {campaign.release_id} was halted in {where}.")
            return [e.CampaignLaunched(actor=command.actor, gate_epoch=1, ledger_position=command.ledger_position)]
        case Halt():
            return _halt(campaign, command)
        case HaltStratum():
            return _halt_stratum(campaign, command)
        case Pause():
            require(campaign, only(CampaignState.RUNNING), "pausing")
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
            require(campaign, frozenset(CampaignState) - TERMINAL, "aborting")
            return [
                e.CampaignAborted(actor=command.actor, reason=command.reason, ledger_position=command.ledger_position)
            ]
        case DraftRemediation():
            require(campaign, STOPPED, "taking its devices back")
            return [command.event]
        case MoveBreaker():
            return _move_breaker(campaign, command)
        case Enrol() | Join() | OpenPhase() | StartSoak() | EndSoak() | OutlastHold() | Promote() | Complete():
            return progress(campaign, command)


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
        require(campaign, only(CampaignState.SUBMITTED, CampaignState.HALTED), "approving")
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
    stoppable = only(CampaignState.RUNNING, CampaignState.PAUSED)
    require(campaign, LIVE if halts else stoppable, "the verdict of an external gate")
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
    require(campaign, only(CampaignState.RUNNING, CampaignState.PAUSED), "approving a revision")
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
    require(campaign, only(CampaignState.RUNNING, CampaignState.PAUSED), "a revision")
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
    require(campaign, LIVE, "the brake")
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
    require(campaign, only(CampaignState.RUNNING, CampaignState.PAUSED), "halting")
    return [command.event]


def _halt_stratum(campaign: Campaign, command: HaltStratum) -> list[e.CampaignEvent]:
    event = command.event
    if campaign.state is CampaignState.HALTED or campaign.state in TERMINAL or event.stratum in campaign.halted_strata:
        return []
    if event.gate_epoch != campaign.gate_epoch:
        return []  # evidence of an epoch that a resume has already ended
    require(campaign, only(CampaignState.RUNNING, CampaignState.PAUSED), "halting a stratum")
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
    require(campaign, only(CampaignState.PAUSED, CampaignState.HALTED), "resuming")
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


__all__ = [
    "LIVE",
    "STOPPED",
    "TERMINAL",
    "Abort",
    "ApplyBrake",
    "Approve",
    "ApprovePhase",
    "Campaign",
    "CampaignState",
    "CampaignTransitionError",
    "Command",
    "Complete",
    "Create",
    "DraftRemediation",
    "EndSoak",
    "Enrol",
    "ExternalEpochError",
    "ExternalGateNotFoundError",
    "GiveVerdict",
    "Halt",
    "HaltStratum",
    "Join",
    "Launch",
    "MoveBreaker",
    "OpenPhase",
    "OutlastHold",
    "Pause",
    "PhaseState",
    "Promote",
    "ReleaseBrake",
    "ReleaseQuarantinedError",
    "Resume",
    "Revise",
    "StartSoak",
    "Submit",
    "TooManyVerdictsError",
    "decide",
    "evolve",
    "fold",
    "told",
]
