"""What a campaign is after its events: ``evolve(state, event) -> state``, pure, for every event that was ever written.

Not here: which events a command causes (``campaign``).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from orchestrator.domain import brake, breaker
from orchestrator.domain.breaker import Breaker
from orchestrator.domain.external import latest
from orchestrator.domain.revision import Revision
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


def require(campaign: Campaign, allowed: frozenset[CampaignState], what: str) -> None:
    if campaign.state not in allowed:
        raise CampaignTransitionError(
            f"Campaign {campaign.campaign_id} is {campaign.state}; {what} needs it {' or '.join(sorted(allowed))}.",
            remedy="Look at `ota campaign show` for what it is waiting for.",
            state=str(campaign.state),
        )


def only(*states: CampaignState) -> frozenset[CampaignState]:
    return frozenset(states)


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
