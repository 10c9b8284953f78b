"""Decisions about campaigns, as the event log stores them and ``ota.campaign-events.v1`` publishes them.

Each struct is the ``data`` of one event type; the type's name is the class name. Times are milliseconds since the epoch. Every event
that changes what may be offered carries ``ledger_position``: the head of the decision ledger under the exclusive control lock, so
"offers and starts after this event" is a count anyone can make. Changes are additive.
"""

from __future__ import annotations

from typing import Any

import msgspec


class _Event(msgspec.Struct, frozen=True, kw_only=True):
    pass


class CampaignCreated(_Event, frozen=True, kw_only=True):
    campaign_id: str
    campaign_no: int
    name: str
    release_id: str
    plan: dict[str, Any]
    """Canonical dump of the plan."""
    author: str


class CampaignSubmitted(_Event, frozen=True, kw_only=True):
    actor: str
    digest: str
    """``sha256:…`` of the dossier: what approvers approve."""
    dossier: dict[str, Any]
    """Plan, release digest, phase sizes per stratum, halt tables, blast bound."""
    counted_at: int | None = None
    """Devices registered later were not counted, so they are no members; the event's own time in events of before."""


class CampaignApproved(_Event, frozen=True, kw_only=True):
    actor: str
    digest: str
    complete: bool
    """True with the last approval that the plan asks for."""
    release_halts: int = 0
    """Halts of the release in other campaigns that the approver could know of."""


class CampaignLaunched(_Event, frozen=True, kw_only=True):
    actor: str
    gate_epoch: int
    ledger_position: int


class CohortEnrolled(_Event, frozen=True, kw_only=True):
    members: int
    holdback: int
    strata: dict[str, int]
    """Members by stratum key, holdback included."""
    phases: list[int]
    """Devices per phase, in order."""
    ledger_position: int


class JoinCut(msgspec.Struct, frozen=True, kw_only=True):
    """How far the fleet had been looked at."""

    events: int
    """Position of the last event whose registrations were."""
    facts: dict[str, int]
    """Partition of the device events to the offset of the next fact."""


class MembersJoined(_Event, frozen=True, kw_only=True):
    """Devices joined a campaign with continuous membership while it runs; the ledger says which."""

    members: int
    holdback: int
    strata: dict[str, int]
    """Late members by stratum key, holdback included; strata without any are left out."""
    phases: list[int]
    """Late members per phase, in order."""
    refused: dict[str, int]
    """Devices that match and may not join, so far, by reason."""
    cut: JoinCut
    at: int
    ledger_position: int


class PhaseOpened(_Event, frozen=True, kw_only=True):
    phase: int
    name: str
    devices: int
    at: int
    ledger_position: int


class SoakStarted(_Event, frozen=True, kw_only=True):
    phase: int
    at: int
    until: int
    gate_epoch: int | None = None
    external: list[str] = []
    """External gates whose verdict is wanted from now on."""


class SoakEnded(_Event, frozen=True, kw_only=True):
    """The time of the soak is over and the devices that it waited for have matured. Of phases that wait for devices only."""

    phase: int
    at: int
    gate_epoch: int
    matured: int
    wanted: int
    """Matured devices that the plan asks for; fewer matured only where the phase had no more."""


class PhasePromoted(_Event, frozen=True, kw_only=True):
    phase: int
    matured: int
    failures: int
    log_e: float | None
    p1: float | None
    beta: float | None
    at: int
    ledger_position: int
    ledger_digest: str
    """Hash of the ledger's head: binds the ledger's chain into this stream."""


class PhaseApproved(_Event, frozen=True, kw_only=True):
    actor: str
    phase: int
    digest: str


class ExternalVerdictGiven(_Event, frozen=True, kw_only=True):
    """An external gate has spoken. Its last verdict counts while the phase is not promoted, in this gate epoch only."""

    phase: int
    gate: str
    verdict: str
    """``promote``, ``hold`` or ``halt``."""
    reason: str
    evidence: str | None
    """Address of what the verdict rests on."""
    digest: str
    """The dossier that the campaign ran under."""
    gate_epoch: int
    at: int
    actor: str


class HoldOutlasted(_Event, frozen=True, kw_only=True):
    """A phase's gate has held for longer than the plan's patience. Tells people; decides nothing."""

    phase: int
    reason: str
    """``approval``, ``external`` or ``evidence``."""
    detail: str
    gate: str | None
    """The external gate that holds, if one does."""
    gate_epoch: int
    since: int
    """When the phase could first have been promoted: the end of its soak, or the last resume after it."""
    at: int
    patience: int
    """Milliseconds."""
    matured: int
    failures: int
    log_e: float | None
    limit: float | None


class CampaignPaused(_Event, frozen=True, kw_only=True):
    actor: str
    reason: str
    ledger_position: int


class CampaignResumed(_Event, frozen=True, kw_only=True):
    actor: str
    reason: str
    gate_epoch: int
    ledger_position: int
    at: int | None = None
    """Milliseconds since the epoch; patience of a gate counts from here. Not in events of before."""


class ResumeApproved(_Event, frozen=True, kw_only=True):
    actor: str
    digest: str
    gate_epoch: int
    """The halted epoch that this approval ends."""
    complete: bool


class StratumCount(msgspec.Struct, frozen=True, kw_only=True):
    stratum: str
    started: int
    failures: int
    log_e: float


class CampaignHalted(_Event, frozen=True, kw_only=True):
    by: str
    """``gate`` or the actor's name."""
    reason: str
    phase: int | None
    gate_epoch: int
    ledger_position: int
    rule: str | None = None
    scope: str | None = None
    """``campaign``, ``phase/<n>`` or ``stratum/<key>``."""
    n: int | None = None
    """Devices started in the epoch, in that scope."""
    f: int | None = None
    """Release failures among them."""
    bound: int | None = None
    """f*(n): the fewest failures that halt, from the frozen table."""
    log_e: float | None = None
    p0: float | None = None
    alpha: float | None = None
    strata: list[StratumCount] = []
    """All strata by falling evidence: the first names the likely culprit."""
    failed_at: int | None = None
    """``recorded_at`` of the failure that crossed the bound."""
    fact: dict[str, Any] | None = None
    """Topic, partition and offset of the fact that crossed, when a fact did."""
    signal: str | None = None
    """Of a rule on health: what devices reported."""
    events: int | None = None
    """How often, from devices of the campaign; in a comparison the devices that failed while both arms were watched."""
    exposure_ms: int | None = None
    """In how much device time."""
    held_events: int | None = None
    """Of devices held back, where they were compared with."""
    held_exposure_ms: int | None = None
    expected: float | None = None
    """Events that would have been acceptable."""


class StratumHalted(_Event, frozen=True, kw_only=True):
    """One stratum of a campaign is halted for good; the others go on."""

    stratum: str
    reason: str
    phase: int
    gate_epoch: int
    ledger_position: int
    rule: str
    n: int
    """Devices of the stratum started in the epoch."""
    f: int
    """Release failures among them."""
    bound: int
    """Fewest failures that halt so many devices, from the frozen table of as many strata as crossed together."""
    log_e: float | None
    p0: float
    alpha: float | None
    """The level that the stratum crossed: alpha k / m of e-BH for k of m strata."""
    failed_at: int | None = None
    fact: dict[str, Any] | None = None


class BreakerOpened(_Event, frozen=True, kw_only=True):
    """Infrastructure trouble holds offers, starts and promotions; deadlines stand still. Nobody is blamed."""

    opening: int
    """Number of the opening in this campaign, from 1; a failed probing opens it again."""
    cause: str
    """``failures`` or ``stale``: nothing was heard from devices."""
    outcomes: int
    """In the window, or among the probes."""
    failures: int
    """Infrastructure failures among them."""
    classes: dict[str, int]
    """Those by class: transport, integrity, silence."""
    share: float
    """The share that opens it."""
    minimum: int
    window: int
    """Milliseconds."""
    at: int
    since: int
    """Deadlines stand still from here: ``at``, or when devices were last heard."""
    until: int
    """No probe goes out before."""
    ledger_position: int


class BreakerProbing(_Event, frozen=True, kw_only=True):
    """A few offers go out to see whether it works again: those beyond ``ledger_position``."""

    opening: int
    probes: int
    at: int
    ledger_position: int


class BreakerClosed(_Event, frozen=True, kw_only=True):
    """Offers go on."""

    opening: int
    cause: str
    """``delivered``, ``heard``, ``no_probes`` or ``stopped``."""
    delivered: int
    failures: int
    """Of the probes."""
    at: int
    resumes_at: int
    """Deadlines run on from here; later than ``at`` after a time in which devices were not heard."""
    ledger_position: int


class PaceBraked(_Event, frozen=True, kw_only=True):
    """The campaign runs slower than its plan from this event on: the stricter of the plan's limits and these holds."""

    actor: str
    reason: str
    per_minute: int | None
    """All limits of the brake that are now in force; None is no limit beside the plan's."""
    max_in_flight: int | None
    ledger_position: int


class BrakeReleased(_Event, frozen=True, kw_only=True):
    """The brake is loosened, or off if it leaves no limit."""

    actor: str
    reason: str
    per_minute: int | None
    """What is left of the brake."""
    max_in_flight: int | None
    ledger_position: int


class RevisionProposed(_Event, frozen=True, kw_only=True):
    """Another pace for a campaign that runs; it changes nothing before it is approved, and replaces a proposal that waits."""

    actor: str
    reason: str
    digest: str
    """Of the revised dossier: what approvers approve."""
    dossier: dict[str, Any]
    replaces: str
    """Digest in force that it was made from."""


class RevisionApproved(_Event, frozen=True, kw_only=True):
    actor: str
    digest: str
    complete: bool
    """True with the last approval that the plan asks for: from here on the revised plan is in force."""
    ledger_position: int


class CampaignAborted(_Event, frozen=True, kw_only=True):
    actor: str
    reason: str
    ledger_position: int


class CampaignCompleted(_Event, frozen=True, kw_only=True):
    at: int
    ledger_position: int
    confirmed: int
    failed: int
    withheld: dict[str, int] = {}
    """Devices that the campaign ended without, by reason of ``domain.owner``; the ledger names them."""


class RemediationDraft(msgspec.Struct, frozen=True, kw_only=True):
    """A campaign that takes devices off the release again."""

    campaign_id: str
    release_id: str
    devices: int
    """At the time of the draft; its own submission counts anew."""
    previously: str | None = None
    """Of a revert: the release that its devices had confirmed before."""


class RemediationGap(msgspec.Struct, frozen=True, kw_only=True):
    """Updated devices that no draft is for."""

    reason: str
    """``unknown_release``: they had confirmed none before; ``hardware_model``: the release has no image for them;
    ``security_counter``: its image is older than their protection against rollback allows; ``silent``: they fell silent in trial."""
    hardware_model: str
    devices: int
    samples: list[str]
    """Some of their ids."""
    release_id: str | None = None


class RemediationDrafted(_Event, frozen=True, kw_only=True):
    """Somebody wants to take updated devices back. Changes nothing by itself: each draft is submitted, approved and launched alone."""

    actor: str
    kind: str
    """``revert`` or ``fallback``."""
    drafts: list[RemediationDraft]
    gaps: list[RemediationGap]


CampaignEvent = (
    CampaignCreated
    | CampaignSubmitted
    | CampaignApproved
    | CampaignLaunched
    | CohortEnrolled
    | MembersJoined
    | PhaseOpened
    | SoakStarted
    | SoakEnded
    | PhasePromoted
    | PhaseApproved
    | ExternalVerdictGiven
    | HoldOutlasted
    | CampaignPaused
    | CampaignResumed
    | ResumeApproved
    | CampaignHalted
    | StratumHalted
    | BreakerOpened
    | BreakerProbing
    | BreakerClosed
    | PaceBraked
    | BrakeReleased
    | RevisionProposed
    | RevisionApproved
    | CampaignAborted
    | CampaignCompleted
    | RemediationDrafted
)

EVENT_TYPES: dict[str, type[msgspec.Struct]] = {cls.__name__: cls for cls in CampaignEvent.__args__}
