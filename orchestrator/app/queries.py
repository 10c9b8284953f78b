"""What people ask: reads without side effects, each of one snapshot.

Lists go by keyset: a page says after which key the next one begins, and never how many there are. Times are milliseconds since the
epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, Protocol, TypeVar

from msgspec import Struct

from orchestrator.app.owners import WillStatus
from orchestrator.app.ports import Recorded
from orchestrator.app.registry import Artifact, HardwareModel, Release
from orchestrator.domain.revision import PaceChange

T = TypeVar("T")

Key = tuple[int | str, ...]
"""Where a page ended: the sort key of its last item."""


class Page(Struct, Generic[T], frozen=True, kw_only=True):
    """A part of a list. ``after`` is None at its end; a filtered page may be short, or empty, before that."""

    items: list[T]
    after: Key | None


class CampaignSummary(Struct, frozen=True, kw_only=True):
    campaign_id: str
    name: str
    release_id: str
    state: str
    version: int
    """Of the stream: the ETag."""
    author: str
    phase: int
    """Index of the latest opened phase, -1 before the first."""
    phase_count: int
    created_at: int
    updated_at: int


class PhaseStatus(Struct, frozen=True, kw_only=True):
    phase: int
    name: str
    state: str
    """waiting, open, soaking or promoted."""
    devices: int | None
    """Devices that the phase adds; None before the campaign is submitted."""
    counts: dict[str, int]
    """Devices by assignment state; those without an offer yet are not among them."""
    approved: bool
    soak_until: int | None
    soak_ended_at: int | None
    """Of a soak that waits for devices: when they had matured."""
    external: list[ExternalStatus]
    outlasted: list[HoldStatus]
    """Holds of the running gate epoch that people were told of."""


class ExternalStatus(Struct, frozen=True, kw_only=True):
    """An external gate and its last verdict in the running gate epoch, if it has spoken."""

    name: str
    verdict: str | None
    reason: str | None
    evidence: str | None
    actor: str | None
    at: int | None


class HoldStatus(Struct, frozen=True, kw_only=True):
    """A hold that has outlasted the plan's patience."""

    reason: str
    gate: str | None
    detail: str
    since: int
    at: int


class GateStatus(Struct, frozen=True, kw_only=True):
    """The last evaluation of one halt rule in one scope."""

    rule: str
    scope: str
    gate_epoch: int
    n: int
    f: int
    bound: int | None
    """Fewest failures that halt among ``n`` devices; None where none can."""
    verdict: str
    evaluated_at: int


class HealthStatus(Struct, frozen=True, kw_only=True):
    """How one process of a rule on health stands in the running gate epoch."""

    rule: str
    test: str
    signal: str
    scope: str
    events: int
    """Of treated devices; in a comparison, devices that failed while both arms were watched."""
    exposure_ms: int
    held_events: int | None
    """Of devices held back; None where they are not compared with."""
    held_exposure_ms: int | None
    expected: float
    """Events that would just be acceptable."""
    log_e: float | None
    limit: float
    """It halts from this ``log_e`` on."""
    alpha: float
    until: int
    """Reports recorded up to here were counted."""


class HaltStatus(Struct, frozen=True, kw_only=True):
    """The latest halt, with every number it was decided on."""

    by: str
    reason: str
    at: int
    phase: int | None
    gate_epoch: int
    position: int
    """Head of the ledger at the halt: no offer and no start beyond it."""
    offers_after: int
    """Devices offered beyond ``position``, up to a resume: counted, not assumed."""
    starts_after: int
    rule: str | None
    scope: str | None
    n: int | None
    f: int | None
    bound: int | None
    log_e: float | None
    p0: float | None
    alpha: float | None
    strata: list[dict[str, Any]]
    """Stratum, started, failures and evidence; the likely culprit first."""
    failed_at: int | None
    fact: dict[str, Any] | None
    signal: str | None
    """Of a rule on health, as the five that follow."""
    events: int | None
    exposure_ms: int | None
    held_events: int | None
    held_exposure_ms: int | None
    expected: float | None


class StratumHaltStatus(Struct, frozen=True, kw_only=True):
    """A stratum that was halted alone, with the numbers it was decided on."""

    stratum: str
    reason: str
    at: int
    phase: int
    position: int
    """Head of the ledger at the halt: no offer to this stratum and no start in it beyond."""
    rule: str
    n: int
    f: int
    bound: int
    log_e: float | None
    p0: float
    alpha: float | None
    failed_at: int | None
    fact: dict[str, Any] | None


class BreakerStatus(Struct, frozen=True, kw_only=True):
    """The infrastructure breaker, with the numbers of its last opening."""

    stage: str
    """closed, open or probing."""
    cause: str | None
    """Of the last change: why it opened or closed; None before the first opening."""
    openings: int
    setbacks: int
    """Since the last promotion or halt."""
    changed_at: int | None
    until: int | None
    """While open: no probe goes out before."""
    outcomes: int | None
    failures: int | None
    classes: dict[str, int]
    share: float
    """The share of failures that opens it."""
    minimum: int


class BrakeStatus(Struct, frozen=True, kw_only=True):
    """Limits beside the plan's that are in force: the last event about them."""

    per_minute: int | None
    max_in_flight: int | None
    by: str
    reason: str
    at: int
    position: int
    """Head of the ledger then: offers beyond it obeyed these limits."""


class RevisionStatus(Struct, frozen=True, kw_only=True):
    """Another pace that waits for approval."""

    digest: str
    by: str
    reason: str
    at: int
    approvals: list[str]
    changes: list[PaceChange]


class Enrolment(Struct, frozen=True, kw_only=True):
    members: int
    holdback: int
    strata: dict[str, int]
    phases: list[int]
    joined: int = 0
    """Late members among them."""
    refused: dict[str, int] = {}
    """Devices that match and may not join, by reason."""


class RemediationStatus(Struct, frozen=True, kw_only=True):
    """A campaign that was drafted to take devices back."""

    campaign_id: str
    state: str
    kind: str
    """``revert`` or ``fallback``."""
    release_id: str
    previously: str | None
    devices: int
    """When it was drafted."""
    at: int


class CampaignStatus(CampaignSummary, frozen=True, kw_only=True):
    """Everything about one campaign."""

    release_name: str
    release_version: str
    digest: str | None
    plan: dict[str, Any]
    gate_epoch: int
    false_halt_at_most: float
    """Probability of a false halt so far, all gate epochs together."""
    false_halt_after_resume: float
    """The same once a further halt was resumed."""
    approvals: list[str]
    approvals_required: int
    resume_approvals: list[str]
    """Of the halt that it is in."""
    release_halted_in: list[str]
    """Other campaigns in which its release was halted: what approvers should look at first."""
    enrolment: Enrolment | None
    exposed: int
    """Devices that started."""
    spared: int | None
    """Devices of the cohort that did not and are not held back; None before the enrolment."""
    counts: dict[str, int]
    phases: list[PhaseStatus]
    gate: list[GateStatus]
    health: list[HealthStatus]
    halt: HaltStatus | None
    breaker: BreakerStatus | None
    """None for a plan without one."""
    halted_strata: list[StratumHaltStatus]
    """Strata that were halted alone; the campaign goes on without them."""
    withheld: dict[str, int]
    """Devices that their owners' will or the preconditions keep from being offered, by reason, as they were last looked at; of a
    completed campaign those that it ended without."""
    components: dict[str, dict[str, int]]
    """Component to devices by its outcome, for releases with several; of a device that has not spoken of it there is none."""
    remediates: str | None
    """The campaign whose updated devices it takes back."""
    remediated_by: list[RemediationStatus]
    brake: BrakeStatus | None
    revision: RevisionStatus | None


class DeviceSummary(Struct, frozen=True, kw_only=True):
    device_no: int
    device_id: str
    hardware_model: str
    attributes: dict[str, str]
    version: str | None
    digest: str | None
    registered_at: int
    reported_at: int | None
    last_seen_at: int | None


class AssignmentStatus(Struct, frozen=True, kw_only=True):
    """A device in one campaign."""

    campaign_id: str
    campaign_name: str
    release_id: str
    phase: int
    stratum: str
    attempt: int
    action_id: int
    state: str
    changed_at: int
    offered_at: int
    started_at: int | None
    cancel_requested_at: int | None
    failure_class: str | None
    reason: str | None
    next_attempt_at: int | None
    """When the next attempt may be offered; None if none is decided."""
    current: bool
    """It holds the device's slot."""


class ComponentStatus(Struct, frozen=True, kw_only=True):
    """What became of a component in the latest campaign in which the device spoke of it, and what of it is in."""

    name: str
    outcome: str
    campaign_id: str
    attempt: int
    changed_at: int
    failure_class: str | None
    version: str | None
    """Of the last release that put it in; None if the device never said that one did."""
    digest: str | None
    """Its artifact's sha256."""


class DeviceStatus(DeviceSummary, frozen=True, kw_only=True):
    """The twin, and what the device was assigned to, latest campaign first."""

    token_issued: bool
    will: WillStatus
    """What its owner wants."""
    assignment: AssignmentStatus | None
    """The one that holds the device's slot."""
    assignments: list[AssignmentStatus]
    components: list[ComponentStatus]
    """By name."""


class TimelineEntry(Struct, frozen=True, kw_only=True):
    """A fact that the device stated, as it was applied."""

    event_id: str
    type: str
    recorded_at: int
    campaign_id: str | None
    attempt: int | None
    failure_class: str | None
    reason: str | None
    detail: str | None
    components: dict[str, str] | None
    """Component to outcome, where the report named some."""
    version: str | None
    """Of a report of attributes: what the device said that it runs."""
    digest: str | None
    partition: int
    offset: int


class Queries(Protocol):
    """Reads for people. ``after`` is the key of the page before."""

    async def campaign(self, campaign_id: str) -> CampaignStatus:
        """Raises NotFoundError."""
        ...

    async def campaigns(self, limit: int, after: Key | None, *, state: str | None = None) -> Page[CampaignSummary]:
        """The newest first."""
        ...

    async def campaign_events(self, campaign_id: str, limit: int, after: Key | None) -> Page[Recorded]:
        """A campaign's stream, the oldest first. Raises NotFoundError."""
        ...

    async def devices(
        self,
        limit: int,
        after: Key | None,
        *,
        hardware_model: str | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> Page[DeviceSummary]:
        """In the order of registration. A filtered page may be short: each looks at a bounded number of devices."""
        ...

    async def device(self, device_id: str) -> DeviceStatus:
        """Raises DeviceNotFoundError."""
        ...

    async def timeline(self, device_id: str, limit: int, after: Key | None) -> Page[TimelineEntry]:
        """What a device stated, the newest first. Raises DeviceNotFoundError."""
        ...

    async def releases(self, limit: int, after: Key | None) -> Page[Release]:
        """The newest first."""
        ...

    async def release(self, release_id: str) -> Release:
        """Raises ReleaseNotFoundError."""
        ...

    async def artifacts(self, limit: int, after: Key | None) -> Page[Artifact]:
        """By digest."""
        ...

    async def hardware_models(self, limit: int, after: Key | None) -> Page[HardwareModel]:
        """By name."""
        ...
