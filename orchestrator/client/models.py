"""What the API answers, as it stands in the JSON. Times are RFC 3339 in UTC.

A client ignores members that it does not know, so these name what is there and forbid nothing.
"""

from __future__ import annotations

from typing import Any, TypedDict


class HardwareModel(TypedDict):
    name: str
    profile: dict[str, Any]
    created_at: str


class TrustedKey(TypedDict):
    key_id: str
    hardware_model: str
    algorithm: str
    pem: str
    added_at: str


class Artifact(TypedDict):
    sha256: str
    hardware_model: str
    sha1: str
    md5: str
    size: int
    filename: str
    image: dict[str, Any]
    stored_at: str


class Component(TypedDict):
    name: str
    kind: str
    sha256: str
    after: list[str]


class Release(TypedDict):
    release_id: str
    name: str
    version: str
    artifacts: dict[str, str]
    """Hardware model to artifact sha256; with components, that of the last one."""
    components: dict[str, list[Component]]
    """In the order of their installation; models with one artifact are absent."""
    digest: str
    created_at: str


class NewDevice(TypedDict):
    """A device to import."""

    device_id: str
    hardware_model: str
    attributes: dict[str, str]


class ImportedDevice(TypedDict):
    device_no: int
    device_id: str
    token: str | None


class DeviceToken(TypedDict):
    device_id: str
    token: str | None


class Assignment(TypedDict):
    campaign_id: str
    campaign_name: str
    release_id: str
    phase: int
    stratum: str
    attempt: int
    action_id: int
    state: str
    changed_at: str
    offered_at: str
    started_at: str | None
    cancel_requested_at: str | None
    failure_class: str | None
    reason: str | None
    next_attempt_at: str | None
    current: bool


class Device(TypedDict):
    device_no: int
    device_id: str
    hardware_model: str
    attributes: dict[str, str]
    version: str | None
    digest: str | None
    registered_at: str
    reported_at: str | None
    last_seen_at: str | None


class ComponentState(TypedDict):
    name: str
    outcome: str
    campaign_id: str
    attempt: int
    changed_at: str
    failure_class: str | None
    version: str | None
    """Of the last release that put it in."""
    digest: str | None


class DeviceDetail(Device):
    token_issued: bool
    will: Will
    assignment: Assignment | None
    assignments: list[Assignment]
    components: list[ComponentState]


class TimelineEntry(TypedDict):
    event_id: str
    type: str
    recorded_at: str
    campaign_id: str | None
    attempt: int | None
    failure_class: str | None
    reason: str | None
    detail: str | None
    components: dict[str, str] | None
    version: str | None
    digest: str | None
    partition: int
    offset: int


class Consent(TypedDict):
    """To a release or to a campaign."""

    release_id: str | None
    campaign_id: str | None
    until: str | None


class NewWill(TypedDict):
    """What the owner of a device wants from now on."""

    opted_out: bool
    postponed_until: str | None
    consents: list[Consent]
    reason: str
    on_behalf_of: str | None


class Will(TypedDict):
    device_id: str
    version: int
    opted_out: bool
    postponed_until: str | None
    consents: list[Consent]
    stated_at: str | None
    actor: str | None
    on_behalf_of: str | None
    reason: str | None


class Campaign(TypedDict):
    campaign_id: str
    name: str
    release_id: str
    state: str
    version: int
    author: str
    phase: int
    phase_count: int
    created_at: str
    updated_at: str


class External(TypedDict):
    """An external gate, with its last verdict in the running gate epoch."""

    name: str
    verdict: str | None
    reason: str | None
    evidence: str | None
    actor: str | None
    at: str | None


class Hold(TypedDict):
    reason: str
    gate: str | None
    detail: str
    since: str
    at: str


class GivenVerdict(TypedDict):
    campaign_id: str
    phase: int
    gate: str
    verdict: str
    gate_epoch: int
    state: str


class Phase(TypedDict):
    phase: int
    name: str
    state: str
    devices: int | None
    counts: dict[str, int]
    approved: bool
    soak_until: str | None
    soak_ended_at: str | None
    external: list[External]
    outlasted: list[Hold]
    """Holds of this gate epoch that outlasted the plan's patience."""


class Gate(TypedDict):
    rule: str
    scope: str
    gate_epoch: int
    n: int
    f: int
    bound: int | None
    verdict: str
    evaluated_at: str


class Health(TypedDict):
    rule: str
    test: str
    signal: str
    scope: str
    events: int
    exposure_ms: int
    held_events: int | None
    held_exposure_ms: int | None
    expected: float
    log_e: float | None
    limit: float
    alpha: float
    until: str


class Stratum(TypedDict):
    stratum: str
    started: int
    failures: int
    log_e: float


class Halt(TypedDict):
    by: str
    reason: str
    at: str
    phase: int | None
    gate_epoch: int
    position: int
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
    strata: list[Stratum]
    failed_at: str | None
    fact: dict[str, Any] | None
    signal: str | None
    """Of a rule on health, as the five that follow."""
    events: int | None
    exposure_ms: int | None
    held_events: int | None
    held_exposure_ms: int | None
    expected: float | None


class Fleet(TypedDict):
    stopped: bool
    by: str | None
    reason: str | None
    at: str | None
    position: int | None
    offers_after: int
    starts_after: int


class StratumHalt(TypedDict):
    stratum: str
    reason: str
    at: str
    phase: int
    position: int
    rule: str
    n: int
    f: int
    bound: int
    log_e: float | None
    p0: float
    alpha: float | None
    failed_at: str | None
    fact: dict[str, Any] | None


class BreakerStatus(TypedDict):
    stage: str
    """closed, open or probing."""
    cause: str | None
    openings: int
    setbacks: int
    changed_at: str | None
    until: str | None
    outcomes: int | None
    failures: int | None
    classes: dict[str, int]
    share: float
    minimum: int


class Brake(TypedDict):
    per_minute: int | None
    max_in_flight: int | None
    by: str
    reason: str
    at: str
    position: int


class PaceChange(TypedDict):
    pointer: str
    before: Any
    after: Any


class Revision(TypedDict):
    digest: str
    by: str
    reason: str
    at: str
    approvals: list[str]
    changes: list[PaceChange]


class Enrolment(TypedDict):
    members: int
    holdback: int
    strata: dict[str, int]
    phases: list[int]
    joined: int
    refused: dict[str, int]
    """Devices that match and may not join, by reason."""


class CampaignDetail(Campaign):
    release_name: str
    release_version: str
    digest: str | None
    plan: dict[str, Any]
    gate_epoch: int
    false_halt_at_most: float
    false_halt_after_resume: float
    approvals: list[str]
    approvals_required: int
    resume_approvals: list[str]
    release_halted_in: list[str]
    enrolment: Enrolment | None
    exposed: int
    spared: int | None
    counts: dict[str, int]
    phases: list[Phase]
    gate: list[Gate]
    health: list[Health]
    """Rules on health after the update, as they stand."""
    halt: Halt | None
    breaker: BreakerStatus | None
    """None for a plan without one."""
    halted_strata: list[StratumHalt]
    """Halted alone; the campaign goes on without them."""
    withheld: dict[str, int]
    """Devices that owners' wills or preconditions withhold, by reason."""
    components: dict[str, dict[str, int]]
    """Component to devices by its outcome, of a release with several."""
    brake: Brake | None
    revision: Revision | None
    """Waits for approval."""
    remediates: str | None
    """The campaign whose updated devices it takes back."""
    remediated_by: list[RemediationStatus]


class RemediationDraft(TypedDict):
    campaign_id: str
    release_id: str
    devices: int
    previously: str | None


class RemediationStatus(RemediationDraft):
    """A draft, as it stands now."""

    state: str
    kind: str
    at: str


class RemediationGap(TypedDict):
    """Updated devices that no draft is for."""

    reason: str
    hardware_model: str
    devices: int
    samples: list[str]
    release_id: str | None


class Remediation(TypedDict):
    campaign_id: str
    kind: str
    drafts: list[RemediationDraft]
    gaps: list[RemediationGap]


class CampaignEvent(TypedDict):
    position: int
    stream: str
    version: int
    event_id: str
    type: str
    data: dict[str, Any]
    meta: dict[str, Any]
    recorded_at: str


class PhasePreview(TypedDict):
    name: str
    size: int
    reached: int
    strata: dict[str, int]
    in_flight_start: int
    in_flight: int
    """The largest in-flight cap that the phase can reach."""
    jitter: int | None
    failures_at_most: int
    soak_devices: int | None
    """Matured devices that the soak waits for: all of the phase at most."""
    soak_devices_asked: int | None
    external: list[str]


class RulePreview(TypedDict):
    name: str
    scope: str
    test: str
    halts: str
    p0: float
    alpha: float | None
    processes: int
    min_failures: int
    false_alarms: dict[str, float]
    """Of a threshold: true failure rate to the probability of a false halt."""
    bounds: dict[str, int]
    """Started devices to the fewest failures that halt."""


class RetryPreview(TypedDict):
    outcome: str
    max_attempts: int
    pauses: list[int]
    """Milliseconds between the attempts, at most."""


class BreakerPreview(TypedDict):
    share: float
    minimum: int
    window: int
    cool_down: int
    probes: int
    reopens_at: int
    """Failures among the probes that open it again."""
    stale: int


class PlacePreview(TypedDict):
    value: str
    devices: int
    at_once: int
    """Devices of the value that may be in flight at once, over all campaigns."""


class BudgetPreview(TypedDict):
    label: str
    values: int
    other: int
    """Devices at once of a value that no registered device has yet."""
    largest: list[PlacePreview]
    smallest: list[PlacePreview]
    """Without those that are among the largest."""


class HealthPreview(TypedDict):
    name: str
    scope: str
    test: str
    signal: str
    alpha: float
    processes: int
    min_events: int
    per_hour: float | None
    span: int | None
    bounds: dict[str, int]
    """Device hours to the fewest events that halt; of a comparison, the treated share of the exposure to the fewest failures."""


class PlanProblem(TypedDict):
    pointer: str
    code: str
    detail: str


class RevisionPreview(TypedDict):
    digest: str
    changes: list[PaceChange]
    phases: list[PhasePreview]


class RemediationPreview(TypedDict):
    kind: str
    release: str | None
    updated_by: str | None
    previously: str | None


class UntriedStratum(TypedDict):
    stratum: str
    devices: int
    first_phase: str | None
    """The first phase with a device of it; None if all of it is held back."""


class UnjudgedStratum(TypedDict):
    rule: str
    stratum: str
    devices: int


class Conflict(TypedDict):
    campaign_id: str
    name: str
    state: str
    in_flight: int
    waiting: int
    samples: list[str]


class NotApplicable(TypedDict):
    reason: str
    detail: str | None
    devices: int
    enrolled: bool
    samples: list[str]


class Preview(TypedDict):
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
    revision: RevisionPreview | None
    withheld: dict[str, int]
    """Devices of the cohort that owners' wills or preconditions withhold now, by reason."""
    untried: list[UntriedStratum]
    unjudged: list[UnjudgedStratum]
    conflicts: list[Conflict]
    not_applicable: list[NotApplicable]


class Webhook(TypedDict):
    webhook_id: str
    url: str
    events: list[str]
    created_at: str
    created_by: str


class CreatedWebhook(Webhook):
    secret: str | None
    """Shown once."""


class Delivery(TypedDict):
    """One notification to one endpoint."""

    message_id: str
    kind: str
    position: int
    state: str
    """pending, delivered or dead."""
    attempts: int
    status: int | None
    error: str | None
    created_at: str
    next_at: str | None
    settled_at: str | None


class Basis(TypedDict):
    """How far the logs had been read."""

    events: int
    decisions: int
    facts: dict[str, int]


class RuleAsked(TypedDict):
    name: str
    test: str
    scope: str
    halts: str
    p0: float
    alpha: float | None
    min_failures: int


class WouldHalt(TypedDict):
    at: str
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
    exposed: int
    failures: int


class StratumWouldHalt(TypedDict):
    stratum: str
    halt: WouldHalt
    started_after: int


class ActualHalt(TypedDict):
    at: str
    by: str
    phase: int | None
    gate_epoch: int
    stratum: str | None
    rule: str | None
    scope: str | None
    n: int | None
    f: int | None
    bound: int | None
    position: int
    exposed: int
    failures: int


class Actual(TypedDict):
    state: str
    ended_at: str | None
    halts: list[ActualHalt]
    exposed: int
    failures: int


class Backtest(TypedDict):
    campaign_id: str
    name: str
    own_rules: bool
    rules: list[RuleAsked]
    left_out: list[str]
    false_halt_at_most: float
    halt: WouldHalt | None
    strata: list[StratumWouldHalt]
    spared: int
    actual: Actual
    assumption: str
    basis: Basis


class RanCount(TypedDict):
    hardware_model: str
    release_id: str | None
    version: str | None
    digest: str | None
    source: str
    devices: int


class CampaignAsOf(TypedDict):
    campaign_id: str
    name: str
    release_id: str
    state: str
    since: str
    position: int
    in_flight: int
    in_trial: int
    devices: dict[str, int]


class FleetAsOf(TypedDict):
    at: str
    devices: int
    ran: list[RanCount]
    other: int
    campaigns: list[CampaignAsOf]
    campaigns_left_out: int
    basis: Basis


class Ran(TypedDict):
    source: str
    release_id: str | None
    version: str | None
    digest: str | None


class AssignmentAsOf(TypedDict):
    campaign_id: str
    campaign_name: str
    release_id: str
    phase: int
    stratum: str
    attempt: int
    action_id: int
    state: str
    changed_at: str
    offered_at: str
    started_at: str | None
    failure_class: str | None
    reason: str | None


class DeviceAsOf(TypedDict):
    at: str
    device_no: int
    device_id: str
    hardware_model: str
    registered_at: str
    version: str | None
    version_at: str | None
    digest: str | None
    digest_at: str | None
    confirmed_campaign_id: str | None
    confirmed_at: str | None
    ran: Ran
    assignments: list[AssignmentAsOf]
    basis: Basis


class Condition(TypedDict):
    """One thing that holds a campaign, or a device in it."""

    code: str
    detail: str
    data: dict[str, Any]
    remedy: str | None
    until: str | None


class EtaSample(TypedDict):
    confirmed: int
    low: int
    """Milliseconds, as all three."""
    median: int
    high: int


class PhaseEta(TypedDict):
    phase: int
    name: str
    remaining: int
    under_way: int
    low: str
    likely: str
    high: str
    open_ended: list[str]


class Eta(TypedDict):
    none_because: str | None
    low: str | None
    likely: str | None
    high: str | None
    open_ended: list[str]
    phases: list[PhaseEta]
    basis: str
    sample: EtaSample


class CampaignWhy(TypedDict):
    campaign_id: str
    state: str
    phase: int
    at: str
    why: Condition
    further: list[Condition]
    eta: Eta


class CampaignEta(TypedDict):
    campaign_id: str
    state: str
    at: str
    eta: Eta


class Place(TypedDict):
    """A device in one campaign."""

    campaign_id: str
    state: str
    member: bool
    why: Condition
    further: list[Condition]


class DeviceWhy(TypedDict):
    device_id: str
    last_seen_at: str | None
    at: str
    campaigns: list[Place]
