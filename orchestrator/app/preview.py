"""What a plan means for a fleet: devices, failures at most, and everything that may hold it, without the dossier's long tables.

Not here: counting the fleet, and whose campaign it is (``campaigns``).
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from orchestrator.app.inspection import NOTHING_FOUND, Conflict, Inspection, NotApplicable
from orchestrator.domain import campaign as c
from orchestrator.domain.blast import phase_bounds
from orchestrator.domain.boundary import f_star
from orchestrator.domain.breaker import failures_that_reopen
from orchestrator.domain.budget import BudgetLimits
from orchestrator.domain.coverage import coverage
from orchestrator.domain.dossier import Dossier
from orchestrator.domain.exposure import HOUR_MS, events_to_halt
from orchestrator.domain.halt_rule import HaltTable
from orchestrator.domain.health_rule import HealthGate
from orchestrator.domain.plan import Plan
from orchestrator.domain.plan_fields import Problem
from orchestrator.domain.retry import Outcome
from orchestrator.domain.revision import PaceChange, pace_changes
from orchestrator.domain.versus import failures_to_halt


class PhasePreview(Struct, frozen=True, kw_only=True):
    """A phase in devices: those it adds, those reached with it, and at most how many fail before offers stop."""

    name: str
    size: int
    reached: int
    strata: dict[str, int]
    in_flight_start: int
    """In-flight cap when the phase opens."""
    in_flight: int
    """The largest that it can grow to."""
    jitter: int | None
    """A device may start within this long from its offer at a time of its own, ms; None for at once."""
    failures_at_most: int
    soak_devices: int | None
    """Matured devices that the soak waits for: as asked, or all that the phase has, if fewer."""
    soak_devices_asked: int | None
    external: list[str]
    """External gates whose verdict it needs."""


class RulePreview(Struct, frozen=True, kw_only=True):
    """A halt rule: fewest failures that halt at some counts of started devices."""

    name: str
    scope: str
    test: str
    halts: str
    """``campaign``, or ``stratum`` for a rule that lets the other strata go on."""
    p0: float
    """Acceptable failure rate; of a threshold, the share that halts."""
    alpha: float | None
    """Of one process; None for a threshold, which promises nothing."""
    processes: int
    min_failures: int
    false_alarms: dict[str, float]
    """Of a threshold: true failure rate to the probability that it halts a release of that rate."""
    bounds: dict[str, int]
    """Started devices to fewest failures that halt; counts at which nothing can halt are left out."""


class RetryPreview(Struct, frozen=True, kw_only=True):
    """How often devices are tried again after one kind of outcome."""

    outcome: str
    max_attempts: int
    pauses: list[int]
    """Milliseconds between the attempts, at most."""


class BreakerPreview(Struct, frozen=True, kw_only=True):
    """When the breaker holds offers, and how it lets go. Durations in ms."""

    share: float
    minimum: int
    window: int
    cool_down: int
    probes: int
    reopens_at: int
    """Failures among the probes that open it again."""
    stale: int


class RevisionPreview(Struct, frozen=True, kw_only=True):
    """What the revision that waits for approval would change, and what the phases would then mean."""

    digest: str
    changes: list[PaceChange]
    phases: list[PhasePreview]


class PlacePreview(Struct, frozen=True, kw_only=True):
    """A value of a label: how many devices have it, and how many of them may be in flight at once."""

    value: str
    devices: int
    at_once: int


class BudgetPreview(Struct, frozen=True, kw_only=True):
    """A label of the budget: the values with most and with fewest devices."""

    label: str
    values: int
    other: int
    """Devices at once of a value that no registered device has yet."""
    largest: list[PlacePreview]
    smallest: list[PlacePreview]
    """Without those that are among the largest."""


class HealthPreview(Struct, frozen=True, kw_only=True):
    """A rule on health after the update: what it takes to halt. It bounds no harm, so it is in no phase's ``failures_at_most``."""

    name: str
    scope: str
    test: str
    signal: str
    alpha: float
    """Of one process."""
    processes: int
    min_events: int
    per_hour: float | None
    """Acceptable events per device hour; None of a comparison."""
    span: int | None
    """Of a comparison: time within which the arms are compared, ms."""
    bounds: dict[str, int]
    """Device hours to fewest events that halt. Of a comparison: the treated share of the exposure at the end of each phase to the
    fewest failures that halt if all of them are treated."""


class RemediationPreview(Struct, frozen=True, kw_only=True):
    """What a plan has to do with taking devices back."""

    kind: str
    """What is foreseen for its own devices: none, revert or fallback."""
    release: str | None
    updated_by: str | None
    """The campaign whose devices it takes back itself."""
    previously: str | None
    """Only those whose release before was this one."""


class UntriedStratum(Struct, frozen=True, kw_only=True):
    """A stratum without a device in the first phase."""

    stratum: str
    devices: int
    first_phase: str | None
    """None if all of it is held back."""


class UnjudgedStratum(Struct, frozen=True, kw_only=True):
    """A stratum that a rule over strata could not halt if its last device failed."""

    rule: str
    stratum: str
    devices: int


class Preview(Struct, frozen=True, kw_only=True):
    """What a plan means for the fleet: as approved, or, for a draft, as it would be submitted now."""

    digest: str | None
    frozen: bool
    devices: int
    holdback: int
    strata: dict[str, int]
    phases: list[PhasePreview]
    rules: list[RulePreview]
    retries: list[RetryPreview]
    """Only of outcomes after which there is another attempt."""
    breaker: BreakerPreview | None
    """None for a plan without one."""
    budget: list[BudgetPreview]
    health: list[HealthPreview]
    remediation: RemediationPreview
    problems: list[Problem]
    """Why it cannot be submitted; then there are no phases and rules."""
    revision: RevisionPreview | None = None
    withheld: dict[str, int] = {}
    """Devices of the cohort that their owners' will or the preconditions withhold now, by reason; empty once it is launched."""
    untried: list[UntriedStratum] = []
    unjudged: list[UnjudgedStratum] = []
    conflicts: list[Conflict] = []
    """Of the fleet as it is now, like ``not_applicable``; both are empty once the campaign is launched."""
    not_applicable: list[NotApplicable] = []


_HOURS: Final = (10, 100, 1_000, 10_000, 100_000)
"""Device hours at which a preview shows a health rule's bound."""

_SHOWN: Final = (10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
"""Counts of devices at which a preview shows a rule's bound."""

SHOWN_VALUES: Final = 5
"""Values of a budget's label that a preview shows from either end: there may be thousands."""


def summarize(dossier: Dossier, *, digest: str, frozen: bool, found: Inspection = NOTHING_FOUND) -> Preview:
    """The dossier without its long tables, with what it leaves in the dark."""
    dark = coverage(dossier)
    phases = [
        PhasePreview(
            name=share.name,
            size=share.size,
            reached=share.reached,
            strata=share.strata,
            in_flight_start=bound.in_flight_start,
            in_flight=bound.in_flight,
            jitter=phase.jitter,
            failures_at_most=bound.failures,
            soak_devices=None if phase.soak_devices is None else min(phase.soak_devices, share.size),
            soak_devices_asked=phase.soak_devices,
            external=[gate.name for gate in phase.external],
        )
        for phase, share, bound in zip(dossier.plan.phases, dossier.phases, phase_bounds(dossier), strict=True)
    ]
    return Preview(
        digest=digest,
        frozen=frozen,
        devices=sum(dossier.strata.values()),
        holdback=sum(dossier.holdback.values()),
        strata=dossier.strata,
        phases=phases,
        rules=[_rule(table) for table in dossier.rules],
        retries=retries(dossier.plan),
        breaker=breaker_preview(dossier.plan),
        budget=[_budget(limits) for limits in dossier.budget],
        health=[_health(gate, dossier) for gate in dossier.health],
        remediation=remediation_preview(dossier.plan),
        problems=[],
        untried=[
            UntriedStratum(stratum=key, devices=dossier.strata[key], first_phase=first)
            for key, first in dark.untried.items()
        ],
        unjudged=[
            UnjudgedStratum(rule=rule, stratum=key, devices=dossier.strata[key])
            for rule, keys in dark.unjudged.items()
            for key in keys
        ],
        conflicts=found.conflicts,
        not_applicable=found.not_applicable,
    )


def retries(plan: Plan) -> list[RetryPreview]:
    """What the plan says of further attempts."""
    found = ((str(outcome), plan.retry.pauses(outcome, plan.offer_ttl)) for outcome in Outcome)
    return [RetryPreview(outcome=name, max_attempts=len(pauses) + 1, pauses=pauses) for name, pauses in found if pauses]


def breaker_preview(plan: Plan) -> BreakerPreview | None:
    spec = plan.breaker
    return spec and BreakerPreview(**spec.model_dump(), reopens_at=failures_that_reopen(spec))


def revision_preview(campaign: c.Campaign) -> RevisionPreview | None:
    waiting = campaign.revision
    if waiting is None:
        return None
    return RevisionPreview(
        digest=waiting.digest,
        changes=pace_changes(campaign.plan, waiting.dossier["plan"]),
        phases=summarize(Dossier.model_validate(waiting.dossier), digest=waiting.digest, frozen=True).phases,
    )


def remediation_preview(plan: Plan) -> RemediationPreview:
    return RemediationPreview(
        kind=plan.remediation.kind,
        release=plan.remediation.release,
        updated_by=plan.cohort.updated_by,
        previously=plan.cohort.previously,
    )


def _rule(table: HaltTable) -> RulePreview:
    last = table.horizons[-1]
    counts = [n for n in _SHOWN if n < last] + ([last] if last else [])
    bounds = {n: f_star(table.horizons, n) for n in counts}
    return RulePreview(
        name=table.name,
        scope=table.scope,
        test=table.test,
        halts=table.halts,
        p0=table.p0,
        alpha=table.alpha,
        processes=table.processes,
        min_failures=table.min_failures,
        false_alarms=table.false_alarms,
        bounds={str(n): max(f, table.min_failures) for n, f in bounds.items() if f is not None},
    )


def _budget(limits: BudgetLimits) -> BudgetPreview:
    order = sorted(limits.devices, key=lambda value: (-limits.devices[value], value))
    places = [
        PlacePreview(value=value, devices=limits.devices[value], at_once=limits.limits[value])
        for value in (*order[:SHOWN_VALUES], *order[max(SHOWN_VALUES, len(order) - SHOWN_VALUES) :])
    ]
    return BudgetPreview(
        label=limits.label,
        values=len(order),
        other=limits.other,
        largest=places[:SHOWN_VALUES],
        smallest=places[SHOWN_VALUES:],
    )


def _health(gate: HealthGate, dossier: Dossier) -> HealthPreview:
    if gate.per_hour is not None:
        rate = gate.per_hour
        bounds = {str(h): events_to_halt(h * HOUR_MS, rate, gate.alpha, gate.min_events) for h in _HOURS}
    else:
        held = sum(dossier.holdback.values())
        shares = [share.reached / (share.reached + held) for share in dossier.phases]
        bounds = {f"{share:.4g}": failures_to_halt(share, gate.alpha) for share in shares}
    return HealthPreview(
        name=gate.name,
        scope=gate.scope,
        test=gate.test,
        signal=gate.signal,
        alpha=gate.alpha,
        processes=gate.processes,
        min_events=gate.min_events,
        per_hour=gate.per_hour,
        span=gate.span,
        bounds=bounds,
    )
