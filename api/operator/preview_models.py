"""What a plan means, over the operator API. See ``models`` for what holds of all."""

from __future__ import annotations

from pydantic import Field

from api.operator.campaign_models import PaceChange
from api.operator.models import Output


class PhasePreview(Output):
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


class RulePreview(Output):
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


class RetryPreview(Output):
    outcome: str = Field(description="How an attempt ends that another one follows.")
    max_attempts: int
    pauses: list[int] = Field(description="Milliseconds between the attempts, at most.")


class BreakerPreview(Output):
    share: float
    minimum: int
    window: int
    cool_down: int
    probes: int
    reopens_at: int = Field(description="Failures among the probes that open it again.")
    stale: int


class PlacePreview(Output):
    value: str
    devices: int
    at_once: int = Field(description="Devices of the value that may be in flight at once, over all campaigns.")


class BudgetPreview(Output):
    label: str
    values: int
    other: int = Field(description="Devices at once of a value that no registered device has yet.")
    largest: list[PlacePreview]
    smallest: list[PlacePreview] = Field(description="Without those that are among the largest.")


class HealthPreview(Output):
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


class RemediationPreview(Output):
    kind: str = Field(description="What is foreseen for its own devices: none, revert or fallback.")
    release: str | None
    updated_by: str | None = Field(description="The campaign whose updated devices it takes back itself.")
    previously: str | None = Field(description="Only those that had confirmed this release before.")


class PlanProblem(Output):
    pointer: str
    code: str
    detail: str


class RevisionPreview(Output):
    digest: str
    changes: list[PaceChange]
    phases: list[PhasePreview]


class UntriedStratum(Output):
    stratum: str
    devices: int
    first_phase: str | None = Field(description="The first phase with a device of it; null if all of it is held back.")


class UnjudgedStratum(Output):
    rule: str
    stratum: str
    devices: int


class Conflict(Output):
    campaign_id: str
    name: str
    state: str
    in_flight: int
    waiting: int = Field(description="In the other campaign's queue.")
    samples: list[str]


class NotApplicable(Output):
    reason: str
    detail: str | None
    devices: int
    enrolled: bool = Field(description="True: members all the same. False: left out, and in no denominator.")
    samples: list[str]


class Preview(Output):
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
