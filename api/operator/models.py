"""What travels over the operator API. Input refuses unknown fields; times are RFC 3339 in UTC; durations are milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

from orchestrator.domain.plan_fields import MAX_COUNT

T = TypeVar("T")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _from_ms(value: Any) -> Any:
    return _EPOCH + timedelta(milliseconds=value) if isinstance(value, int) else value


def _to_text(value: datetime) -> str:
    return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _with_offset(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise PydanticCustomError("time.offset", "A date and time needs its offset from UTC, such as Z or +01:00.")
    return value


def milliseconds(value: datetime) -> int:
    """Since the epoch."""
    return (value - _EPOCH) // timedelta(milliseconds=1)


def to_ms(value: datetime | None) -> int | None:
    """Milliseconds since the epoch."""
    return None if value is None else milliseconds(value)


Time = Annotated[
    datetime,
    BeforeValidator(_from_ms),
    PlainSerializer(_to_text, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""Milliseconds since the epoch inside, RFC 3339 outside."""

InputTime = Annotated[datetime, Field(strict=False), AfterValidator(_with_offset)]
"""RFC 3339 with its offset from UTC."""


def _with_history(value: datetime) -> datetime:
    if value < _EPOCH:
        raise PydanticCustomError("time.history", "There is no history of before 1970.")
    return value


Moment = Annotated[InputTime, AfterValidator(_with_history)]
"""A time that can be asked about."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, Field(min_length=1, max_length=1_000)]
EvidenceUrl = Annotated[str, Field(max_length=2_000, pattern=r"^https?://\S+$")]


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Output(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class Listed(BaseModel, Generic[T]):
    """A page. ``next`` is the cursor of the one after it; null at the end. A filtered page may be short before that."""

    items: list[T]
    next: str | None


class ProblemItem(BaseModel):
    code: str
    detail: str
    pointer: str | None = None
    parameter: str | None = None


class Problem(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    instance: str
    remedy: str
    trace_id: str
    errors: list[ProblemItem]


# --------------------------------------------------------------------------- registry


class HardwareModelInput(_Input):
    name: Text
    profile: dict[str, Any] = Field(
        {}, description="How its update client speaks: client, part, closed_success, multi."
    )


class HardwareModel(_Output):
    name: str
    profile: dict[str, Any]
    created_at: Time


class TrustedKeyInput(_Input):
    pem: Annotated[str, Field(min_length=1, max_length=65_536)]


class TrustedKey(_Output):
    key_id: str
    hardware_model: str
    algorithm: str
    pem: str
    added_at: Time


class Artifact(_Output):
    sha256: str
    hardware_model: str
    sha1: str
    md5: str
    size: int
    filename: str
    image: dict[str, Any]
    stored_at: Time


class ComponentInput(_Input):
    name: Annotated[str, Field(max_length=64)]
    kind: Literal["app", "os"]
    sha256: Sha256
    after: list[Annotated[str, Field(max_length=64)]] = Field(
        [], max_length=16, description="Components that must be in before this one."
    )


class Component(_Output):
    name: str
    kind: str
    sha256: str
    after: list[str]


class ReleaseInput(_Input):
    name: Text
    version: Text
    artifacts: dict[str, Sha256] = Field({}, description="Hardware model to the sha256 of its artifact.")
    components: dict[str, list[ComponentInput]] = Field(
        {}, description="Hardware model to the components that its devices install, for models that have several."
    )


class Release(_Output):
    release_id: str
    name: str
    version: str
    artifacts: dict[str, str] = Field(description="Hardware model to sha256; with components, that of the last one.")
    components: dict[str, list[Component]] = Field(description="In the order of their installation, the OS last.")
    digest: str
    created_at: Time


class NewDevice(_Input):
    device_id: str
    hardware_model: Text
    attributes: dict[str, str] = {}


class ImportInput(_Input):
    devices: list[NewDevice]
    issue_tokens: bool = Field(False, description="Give each device a token; it is shown in this answer only.")


class ImportedDevice(_Output):
    device_no: int
    device_id: str
    token: str | None


class Imported(BaseModel):
    devices: list[ImportedDevice]


class IssuedToken(_Output):
    device_id: str
    token: str | None


class Device(_Output):
    device_no: int
    device_id: str
    hardware_model: str
    attributes: dict[str, str]
    version: str | None
    digest: str | None
    registered_at: Time
    reported_at: Time | None
    last_seen_at: Time | None


class Assignment(_Output):
    campaign_id: str
    campaign_name: str
    release_id: str
    phase: int
    stratum: str
    attempt: int
    action_id: int
    state: str
    changed_at: Time
    offered_at: Time
    started_at: Time | None
    cancel_requested_at: Time | None
    failure_class: str | None
    reason: str | None
    next_attempt_at: Time | None = Field(description="When the next attempt may be offered, if one is decided.")
    current: bool


class ComponentStatus(_Output):
    name: str
    outcome: str
    campaign_id: str
    attempt: int
    changed_at: Time
    failure_class: str | None
    version: str | None = Field(description="Of the last release that put it in.")
    digest: str | None


class ConsentInput(_Input):
    release_id: Text | None = None
    campaign_id: Text | None = Field(None, description="Exactly one of the two.")
    until: InputTime | None = None


class WillInput(_Input):
    opted_out: bool = False
    postponed_until: InputTime | None = Field(None, description="Within `max_postponement_days` from now.")
    consents: Annotated[list[ConsentInput], Field(max_length=100)] = []
    reason: Text
    on_behalf_of: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        None,
        description="Whom this is passed on for: a customer's number, a ticket. No names: the log is kept for ever.",
    )


class Consent(_Output):
    release_id: str | None
    campaign_id: str | None
    until: Time | None


class Will(_Output):
    device_id: str
    version: int = Field(description="Statements so far; 0: nothing was ever said.")
    opted_out: bool
    postponed_until: Time | None
    consents: list[Consent]
    stated_at: Time | None
    actor: str | None
    on_behalf_of: str | None
    reason: str | None


class DeviceDetail(Device):
    token_issued: bool
    will: Will
    assignment: Assignment | None
    assignments: list[Assignment]
    components: list[ComponentStatus]


class TimelineEntry(_Output):
    event_id: str
    type: str
    recorded_at: Time
    campaign_id: str | None
    attempt: int | None
    failure_class: str | None
    reason: str | None
    detail: str | None
    components: dict[str, str] | None
    version: str | None = Field(description="Of a report of attributes: what the device said that it runs.")
    digest: str | None
    partition: int
    offset: int


# --------------------------------------------------------------------------- campaigns


class CampaignInput(_Input):
    name: Text
    plan: dict[str, Any] = Field(description="The plan; its `release` is a release_id.")


class RemediationInput(_Input):
    kind: Literal["revert", "fallback"] | None = Field(
        default=None, description="Without it, and without a release, what the campaign's plan foresees."
    )
    release: Annotated[str, Field(min_length=1, max_length=128)] | None = Field(
        default=None, description="Of a fallback."
    )
    plan: dict[str, Any] | None = Field(
        default=None, description="Instead of one derived from the campaign's; release and membership are set in it."
    )
    name: str | None = None


class DigestInput(_Input):
    digest: Text = Field(description="What was reviewed: the campaign's `digest`.")


class ReasonInput(_Input):
    reason: Text


class VerdictInput(_Input):
    verdict: Literal["promote", "hold", "halt"]
    reason: Text
    evidence_url: EvidenceUrl | None = None
    gate_epoch: int | None = Field(
        None, description="Epoch that was asked; a verdict other than halt for an earlier one is refused."
    )


class AnswerInput(_Input):
    """What a signature vouches for is the body alone, so it says what it is about."""

    campaign_id: Text
    phase: int
    gate: Text
    gate_epoch: int = Field(description="As in the notification.")
    verdict: Literal["promote", "hold", "halt"]
    reason: Text
    evidence_url: EvidenceUrl | None = None


class GivenVerdict(_Output):
    campaign_id: str
    phase: int
    gate: str
    verdict: str
    gate_epoch: int
    state: str = Field(description="Of the campaign, after it.")


Limit = Annotated[int, Field(ge=1, le=MAX_COUNT)]


class BrakeInput(_Input):
    """At least one limit; what is not named stays as it is."""

    per_minute: Limit | None = Field(None, description="Offers a minute, at most.")
    max_in_flight: Limit | None = Field(None, description="Offers outstanding or started and not yet ended, at most.")
    reason: Text


class BrakeReleaseInput(_Input):
    """What is left of the brake; without a limit it is off."""

    per_minute: Limit | None = None
    max_in_flight: Limit | None = None
    reason: Text


class RevisionInput(_Input):
    changes: dict[str, Any] = Field(
        description="`max_in_flight` of the plan, and `phases`: by a phase's name its new `rate`, `max_in_flight`, `jitter`;"
        " null takes a value out."
    )
    reason: Text


class CampaignSummary(_Output):
    campaign_id: str
    name: str
    release_id: str
    state: str
    version: int
    author: str
    phase: int
    phase_count: int
    created_at: Time
    updated_at: Time


class ExternalStatus(_Output):
    name: str
    verdict: str | None = Field(description="The last one in the running gate epoch.")
    reason: str | None
    evidence: str | None
    actor: str | None
    at: Time | None


class HoldStatus(_Output):
    reason: str
    gate: str | None
    detail: str
    since: Time
    at: Time


class PhaseStatus(_Output):
    phase: int
    name: str
    state: str
    devices: int | None
    counts: dict[str, int]
    approved: bool
    soak_until: Time | None
    soak_ended_at: Time | None = Field(description="Of a soak that waits for devices: when they had matured.")
    external: list[ExternalStatus]
    outlasted: list[HoldStatus] = Field(description="Holds of this gate epoch that outlasted the plan's patience.")


class GateStatus(_Output):
    rule: str
    scope: str
    gate_epoch: int
    n: int
    f: int
    bound: int | None
    verdict: str
    evaluated_at: Time


class HealthStatus(_Output):
    rule: str
    test: str
    signal: str
    scope: str
    events: int = Field(
        description="Of treated devices; in a comparison, devices that failed while both arms were watched."
    )
    exposure_ms: int
    held_events: int | None
    held_exposure_ms: int | None
    expected: float = Field(description="Events that would just be acceptable.")
    log_e: float | None
    limit: float = Field(description="It halts from this log_e on.")
    alpha: float
    until: Time = Field(description="Reports recorded up to here were counted.")


class HaltedStratum(BaseModel):
    stratum: str
    started: int
    failures: int
    log_e: float


class HaltStatus(_Output):
    by: str
    reason: str
    at: Time
    phase: int | None
    gate_epoch: int
    position: int = Field(description="Head of the ledger at the halt: nothing is offered or started beyond it.")
    offers_after: int
    starts_after: int
    rule: str | None
    scope: str | None
    n: int | None
    f: int | None
    bound: int | None
    log_e: float | None
    p0: float | None
    alpha: float | None
    strata: list[HaltedStratum]
    failed_at: Time | None
    fact: dict[str, Any] | None
    signal: str | None = Field(description="Of a rule on health, as the five that follow.")
    events: int | None
    exposure_ms: int | None
    held_events: int | None
    held_exposure_ms: int | None
    expected: float | None


class Fleet(_Output):
    stopped: bool
    by: str | None
    reason: str | None
    at: Time | None
    position: int | None = Field(description="Head of the ledger at the stop: nothing is offered or started beyond it.")
    offers_after: int
    starts_after: int


class StratumHaltStatus(_Output):
    stratum: str
    reason: str
    at: Time
    phase: int
    position: int = Field(description="Head of the ledger at the halt: nothing is offered or started there beyond it.")
    rule: str
    n: int
    f: int
    bound: int
    log_e: float | None
    p0: float
    alpha: float | None
    failed_at: Time | None
    fact: dict[str, Any] | None


class BreakerStatus(_Output):
    stage: str = Field(
        description="closed, open or probing; while it is not closed nothing is promoted, deadlines stand still."
    )
    cause: str | None = Field(description="Why it opened or closed last.")
    openings: int
    setbacks: int = Field(description="Openings for failures since the last promotion or halt.")
    changed_at: Time | None
    until: Time | None = Field(description="While open: no probe goes out before.")
    outcomes: int | None = Field(description="At the last opening, in the window or among the probes.")
    failures: int | None
    classes: dict[str, int]
    share: float
    minimum: int


class BrakeStatus(_Output):
    per_minute: int | None
    max_in_flight: int | None
    by: str
    reason: str
    at: Time
    position: int = Field(description="Head of the ledger then: offers beyond it obey these limits.")


class PaceChange(_Output):
    pointer: str
    before: Any
    after: Any


class RevisionStatus(_Output):
    digest: str = Field(description="What its approvers approve.")
    by: str
    reason: str
    at: Time
    approvals: list[str]
    changes: list[PaceChange]


class Enrolment(_Output):
    members: int
    holdback: int
    strata: dict[str, int]
    phases: list[int]
    joined: int = Field(description="Members that joined while the campaign runs, among them.")
    refused: dict[str, int] = Field(description="Devices that match and may not join, by reason.")


class RemediationDraft(_Output):
    campaign_id: str
    release_id: str
    devices: int
    previously: str | None = Field(description="Of a revert: the release that its devices had confirmed before.")


class RemediationGap(_Output):
    reason: str = Field(description="unknown_release, hardware_model, security_counter or silent.")
    hardware_model: str
    devices: int
    samples: list[str] = Field(description="Some of their ids.")
    release_id: str | None


class Remediation(_Output):
    campaign_id: str = Field(description="The campaign whose updated devices are taken back.")
    kind: str
    drafts: list[RemediationDraft]
    gaps: list[RemediationGap] = Field(description="Updated devices that no draft is for.")


class RemediationStatus(RemediationDraft):
    state: str
    kind: str
    at: Time


class Campaign(CampaignSummary):
    release_name: str
    release_version: str
    digest: str | None
    plan: dict[str, Any]
    gate_epoch: int
    false_halt_at_most: float = Field(description="Probability of a false halt so far, all gate epochs together.")
    false_halt_after_resume: float = Field(description="The same once a further halt was resumed.")
    approvals: list[str]
    approvals_required: int
    resume_approvals: list[str]
    release_halted_in: list[str] = Field(description="Other campaigns in which its release was halted.")
    enrolment: Enrolment | None
    exposed: int = Field(description="Devices that started.")
    spared: int | None = Field(description="Devices of the cohort that did not, held-back ones apart.")
    counts: dict[str, int]
    phases: list[PhaseStatus]
    gate: list[GateStatus]
    health: list[HealthStatus] = Field(description="Rules on health after the update, as they stand.")
    halt: HaltStatus | None
    breaker: BreakerStatus | None = Field(description="Null for a plan without one.")
    halted_strata: list[StratumHaltStatus] = Field(description="Halted alone; the campaign goes on without them.")
    withheld: dict[str, int] = Field(
        description="Devices that owners' wills or preconditions withhold, by reason; at its end those it ended without."
    )
    components: dict[str, dict[str, int]] = Field(
        description="Component to devices by its outcome, of a release with several."
    )
    remediates: str | None = Field(description="The campaign whose updated devices it takes back.")
    remediated_by: list[RemediationStatus] = Field(description="What was drafted to take its updated devices back.")
    brake: BrakeStatus | None = Field(description="Limits beside the plan's; the stricter ones hold.")
    revision: RevisionStatus | None = Field(description="Waits for approval; the campaign runs on as it was approved.")


class CampaignEvent(_Output):
    position: int
    stream: str
    version: int
    event_id: str
    type: str
    data: dict[str, Any]
    meta: dict[str, Any]
    recorded_at: Time


class PhasePreview(_Output):
    name: str
    size: int
    reached: int
    strata: dict[str, int]
    in_flight_start: int = Field(description="In-flight cap when the phase opens.")
    in_flight: int = Field(description="The largest that it can grow to.")
    jitter: int | None
    failures_at_most: int = Field(description="Failures since the launch before offers stop, at most.")
    soak_devices: int | None = Field(description="Matured devices that the soak waits for: all of the phase at most.")
    soak_devices_asked: int | None = Field(description="As the plan says.")
    external: list[str] = Field(description="External gates whose verdict it needs.")


class RulePreview(_Output):
    name: str
    scope: str
    test: str
    halts: str
    p0: float
    alpha: float | None
    processes: int
    min_failures: int
    false_alarms: dict[str, float] = Field(
        description="Of a threshold: true failure rate to the probability of a false halt."
    )
    bounds: dict[str, int] = Field(description="Started devices to the fewest failures that halt.")


class RetryPreview(_Output):
    outcome: str = Field(description="How an attempt ends that another one follows.")
    max_attempts: int
    pauses: list[int] = Field(description="Milliseconds between the attempts, at most.")


class BreakerPreview(_Output):
    share: float
    minimum: int
    window: int
    cool_down: int
    probes: int
    reopens_at: int = Field(description="Failures among the probes that open it again.")
    stale: int


class PlacePreview(_Output):
    value: str
    devices: int
    at_once: int = Field(description="Devices of the value that may be in flight at once, over all campaigns.")


class BudgetPreview(_Output):
    label: str
    values: int
    other: int = Field(description="Devices at once of a value that no registered device has yet.")
    largest: list[PlacePreview]
    smallest: list[PlacePreview] = Field(description="Without those that are among the largest.")


class HealthPreview(_Output):
    name: str
    scope: str
    test: str
    signal: str
    alpha: float
    processes: int
    min_events: int
    per_hour: float | None
    span: int | None
    bounds: dict[str, int] = Field(
        description="Device hours to the fewest events that halt; of a comparison, the treated share of the exposure to the"
        " fewest failures that halt if all are treated."
    )


class RemediationPreview(_Output):
    kind: str = Field(description="What is foreseen for its own devices: none, revert or fallback.")
    release: str | None
    updated_by: str | None = Field(description="The campaign whose updated devices it takes back itself.")
    previously: str | None = Field(description="Only those that had confirmed this release before.")


class PlanProblem(_Output):
    pointer: str
    code: str
    detail: str


class RevisionPreview(_Output):
    digest: str
    changes: list[PaceChange]
    phases: list[PhasePreview]


class UntriedStratum(_Output):
    stratum: str
    devices: int
    first_phase: str | None = Field(description="The first phase with a device of it; null if all of it is held back.")


class UnjudgedStratum(_Output):
    rule: str
    stratum: str
    devices: int


class Conflict(_Output):
    campaign_id: str
    name: str
    state: str
    in_flight: int
    waiting: int = Field(description="In the other campaign's queue.")
    samples: list[str]


class NotApplicable(_Output):
    reason: str
    detail: str | None
    devices: int
    enrolled: bool = Field(description="True: members all the same. False: left out, and in no denominator.")
    samples: list[str]


class Preview(_Output):
    digest: str | None
    frozen: bool
    devices: int
    holdback: int
    strata: dict[str, int]
    phases: list[PhasePreview]
    rules: list[RulePreview]
    retries: list[RetryPreview]
    breaker: BreakerPreview | None
    budget: list[BudgetPreview]
    health: list[HealthPreview]
    remediation: RemediationPreview
    problems: list[PlanProblem]
    revision: RevisionPreview | None = Field(description="What the revision that waits for approval would mean.")
    withheld: dict[str, int] = Field(
        description="Devices of the cohort that owners' wills or preconditions withhold now, by reason; before the launch."
    )
    untried: list[UntriedStratum] = Field(description="Strata without a device in the first phase.")
    unjudged: list[UnjudgedStratum] = Field(description="Strata too small for a rule over strata ever to halt them.")
    conflicts: list[Conflict] = Field(description="Other campaigns that devices of the cohort are in now.")
    not_applicable: list[NotApplicable] = Field(
        description="Devices asked for that the campaign leaves out or will hardly reach, as the fleet is now."
    )


# --------------------------------------------------------------------------- the past


class Basis(_Output):
    """How far the logs had been read for this answer."""

    events: int
    decisions: int
    facts: dict[str, int] = Field(description="Partition of the log of facts to the first offset not projected.")


class RanCount(_Output):
    hardware_model: str
    release_id: str | None = Field(description="Null where it is no known release, or nothing is known.")
    version: str | None
    digest: str | None
    source: str = Field(description="confirmed, reported or unknown: whose statement decides.")
    devices: int


class CampaignAsOf(_Output):
    campaign_id: str
    name: str
    release_id: str
    state: str
    since: Time
    position: int = Field(description="Of the event that brought it there.")
    in_flight: int
    in_trial: int
    devices: dict[str, int] = Field(description="Devices by assignment state.")


class FleetAsOf(_Output):
    at: Time
    devices: int
    ran: list[RanCount]
    other: int = Field(description="Devices in counts that are too many to list.")
    campaigns: list[CampaignAsOf]
    campaigns_left_out: int
    basis: Basis = Field(description="Last positions that the logs held by then.")


class Ran(_Output):
    source: str
    release_id: str | None
    version: str | None
    digest: str | None


class AssignmentAsOf(_Output):
    campaign_id: str
    campaign_name: str
    release_id: str
    phase: int
    stratum: str
    attempt: int
    action_id: int
    state: str
    changed_at: Time
    offered_at: Time
    started_at: Time | None
    failure_class: str | None
    reason: str | None


class DeviceAsOf(_Output):
    at: Time
    device_no: int
    device_id: str
    hardware_model: str
    registered_at: Time
    version: str | None = Field(description="As it last reported.")
    version_at: Time | None
    digest: str | None
    digest_at: Time | None
    confirmed_campaign_id: str | None = Field(description="Of the release that it confirmed last.")
    confirmed_at: Time | None
    ran: Ran
    assignments: list[AssignmentAsOf]
    basis: Basis


class BacktestInput(_Input):
    policy: dict[str, Any] | None = Field(
        None, description="`halt`: rules as in a plan. Null replays the plan's own rules."
    )


class RuleAsked(_Output):
    name: str
    test: str
    scope: str
    halts: str
    p0: float
    alpha: float | None
    min_failures: int


class WouldHalt(_Output):
    at: Time = Field(description="When the crossing failure was recorded.")
    phase: int | None
    gate_epoch: int
    rule: str
    scope: str
    n: int
    f: int
    bound: int
    log_e: float | None
    p0: float
    alpha: float | None
    reason: str
    exposed: int = Field(description="Devices of the campaign that had started by then, in all gate epochs.")
    failures: int = Field(description="Release failures that had been recorded by then.")


class StratumWouldHalt(_Output):
    stratum: str
    halt: WouldHalt
    started_after: int = Field(description="Devices of the stratum that started later.")


class ActualHalt(_Output):
    at: Time
    by: str
    phase: int | None
    gate_epoch: int
    stratum: str | None = Field(description="The stratum that was halted alone; null if the campaign was.")
    rule: str | None
    scope: str | None
    n: int | None
    f: int | None
    bound: int | None
    position: int
    exposed: int
    failures: int


class Actual(_Output):
    state: str
    ended_at: Time | None
    halts: list[ActualHalt]
    exposed: int
    failures: int


class Backtest(_Output):
    campaign_id: str
    name: str
    own_rules: bool
    rules: list[RuleAsked]
    left_out: list[str] = Field(description="The plan's own rules on health: they are not replayed.")
    false_halt_at_most: float = Field(description="Of the policy in one gate epoch; thresholds promise nothing.")
    halt: WouldHalt | None = Field(description="Null: the policy would not have halted the campaign.")
    strata: list[StratumWouldHalt] = Field(description="Strata that it would have halted alone.")
    spared: int = Field(description="Devices that started after the policy's halt of the campaign.")
    actual: Actual = Field(description="What really happened.")
    assumption: str
    basis: Basis


# --------------------------------------------------------------------------- webhooks


class WebhookInput(_Input):
    url: Annotated[str, Field(min_length=1, max_length=2_000)]
    events: list[str] = Field(description="Such as campaign.halted, breaker.opened, hold.outlasted.")


class Webhook(_Output):
    webhook_id: str
    url: str
    events: list[str]
    created_at: Time
    created_by: str


class CreatedWebhook(Webhook):
    secret: str | None = Field(description="Shown once; null when an answer is repeated.")


class Delivery(_Output):
    message_id: str = Field(description="`webhook-id`: the same in every attempt.")
    kind: str
    position: int = Field(description="Of the event in the log.")
    state: str = Field(description="pending, delivered or dead.")
    attempts: int
    status: int | None = Field(description="HTTP status of the last attempt, if there was an answer.")
    error: str | None
    created_at: Time
    next_at: Time | None
    settled_at: Time | None


# --------------------------------------------------------------------------- keys


class ApiKeyInput(_Input):
    name: Text
    scopes: list[str]
    expires_in_days: Annotated[int, Field(ge=1, le=366)] = 366


class ApiKey(_Output):
    key_id: str
    name: str
    scopes: list[str]
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None


class CreatedApiKey(_Output):
    key: str | None = Field(description="Shown once; null when an answer is repeated.")
    key_id: str
    name: str
    scopes: list[str]
    expires_at: Time | None
