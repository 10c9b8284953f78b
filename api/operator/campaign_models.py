"""Campaigns over the operator API: what people order, and how things stand. See ``models`` for what holds of all."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from api.operator.models import EvidenceUrl, Input, Output, Text, Time
from orchestrator.domain.plan_fields import MAX_COUNT


class CampaignInput(Input):
    name: Text
    plan: dict[str, Any] = Field(description="The plan; its `release` is a release_id.")


class RemediationInput(Input):
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


class DigestInput(Input):
    digest: Text = Field(description="What was reviewed: the campaign's `digest`.")


class ReasonInput(Input):
    reason: Text


class VerdictInput(Input):
    verdict: Literal["promote", "hold", "halt"]
    reason: Text
    evidence_url: EvidenceUrl | None = None
    gate_epoch: int | None = Field(
        None, description="Epoch that was asked; a verdict other than halt for an earlier one is refused."
    )


class AnswerInput(Input):
    """What a signature vouches for is the body alone, so it says what it is about."""

    campaign_id: Text
    phase: int
    gate: Text
    gate_epoch: int = Field(description="As in the notification.")
    verdict: Literal["promote", "hold", "halt"]
    reason: Text
    evidence_url: EvidenceUrl | None = None


class GivenVerdict(Output):
    campaign_id: str
    phase: int
    gate: str
    verdict: str
    gate_epoch: int
    state: str = Field(description="Of the campaign, after it.")


Limit = Annotated[int, Field(ge=1, le=MAX_COUNT)]


class BrakeInput(Input):
    """At least one limit; what is not named stays as it is."""

    per_minute: Limit | None = Field(None, description="Offers a minute, at most.")
    max_in_flight: Limit | None = Field(None, description="Offers outstanding or started and not yet ended, at most.")
    reason: Text


class BrakeReleaseInput(Input):
    """What is left of the brake; without a limit it is off."""

    per_minute: Limit | None = None
    max_in_flight: Limit | None = None
    reason: Text


class RevisionInput(Input):
    changes: dict[str, Any] = Field(
        description="`max_in_flight` of the plan, and `phases`: by a phase's name its new `rate`, `max_in_flight`, `jitter`;"
        " null takes a value out."
    )
    reason: Text


class CampaignSummary(Output):
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


class ExternalStatus(Output):
    name: str
    verdict: str | None = Field(description="The last one in the running gate epoch.")
    reason: str | None
    evidence: str | None
    actor: str | None
    at: Time | None


class HoldStatus(Output):
    reason: str
    gate: str | None
    detail: str
    since: Time
    at: Time


class PhaseStatus(Output):
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


class GateStatus(Output):
    rule: str
    scope: str
    gate_epoch: int
    n: int
    f: int
    bound: int | None
    verdict: str
    evaluated_at: Time


class HealthStatus(Output):
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


class HaltStatus(Output):
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


class Fleet(Output):
    stopped: bool
    by: str | None
    reason: str | None
    at: Time | None
    position: int | None = Field(description="Head of the ledger at the stop: nothing is offered or started beyond it.")
    offers_after: int
    starts_after: int


class StratumHaltStatus(Output):
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


class BreakerStatus(Output):
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


class BrakeStatus(Output):
    per_minute: int | None
    max_in_flight: int | None
    by: str
    reason: str
    at: Time
    position: int = Field(description="Head of the ledger then: offers beyond it obey these limits.")


class PaceChange(Output):
    pointer: str
    before: Any
    after: Any


class RevisionStatus(Output):
    digest: str = Field(description="What its approvers approve.")
    by: str
    reason: str
    at: Time
    approvals: list[str]
    changes: list[PaceChange]


class Enrolment(Output):
    members: int
    holdback: int
    strata: dict[str, int]
    phases: list[int]
    joined: int = Field(description="Members that joined while the campaign runs, among them.")
    refused: dict[str, int] = Field(description="Devices that match and may not join, by reason.")


class RemediationDraft(Output):
    campaign_id: str
    release_id: str
    devices: int
    previously: str | None = Field(description="Of a revert: the release that its devices had confirmed before.")


class RemediationGap(Output):
    reason: str = Field(description="unknown_release, hardware_model, security_counter or silent.")
    hardware_model: str
    devices: int
    samples: list[str] = Field(description="Some of their ids.")
    release_id: str | None


class Remediation(Output):
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


class CampaignEvent(Output):
    position: int
    stream: str
    version: int
    event_id: str
    type: str
    data: dict[str, Any]
    meta: dict[str, Any]
    recorded_at: Time
