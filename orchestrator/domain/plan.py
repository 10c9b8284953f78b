"""The plan of a campaign: everything people decide before it runs.

A :class:`Plan` exists only if it is right in itself: types, ranges, names, the order of its phases. Whether it suits
a fleet, and every number that follows from it, is the dossier's matter (:mod:`orchestrator.domain.dossier`).

Not done here: reading YAML or JSON (data comes in as plain objects) and resolving the release or the cohort.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import ceil, floor
from typing import Annotated, Any, Final, Literal, Self, cast

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.domain.breaker import BreakerField, BreakerSpec
from orchestrator.domain.budget import MAX_LABELS, BudgetRule
from orchestrator.domain.conflict import DEFAULT_PRIORITY, Priority, Supersede
from orchestrator.domain.external import MAX_EXTERNAL, ExternalGate
from orchestrator.domain.halt_rule import TAGS, EProcessRule, HaltRule, ThresholdRule
from orchestrator.domain.health_rule import VersusRule
from orchestrator.domain.owner import OwnerPolicy
from orchestrator.domain.plan_fields import (
    Count,
    Deadline,
    Dimension,
    Duration,
    Flag,
    InFlightCap,
    Integer,
    Line,
    Name,
    Number,
    Percent,
    PlanError,
    PlanModel,
    Problem,
    Rate,
    Text,
    between,
    exact,
    filled,
    pointer_part,
)
from orchestrator.domain.query import Query, QueryError, parse
from orchestrator.domain.rate import Pace
from orchestrator.domain.remediation import RemediationSpec
from orchestrator.domain.retry import RetryPolicy
from orchestrator.domain.window import Schedule

MAX_HOLDBACK_PERCENT: Final = 50.0
"""Equal arms compare best; a larger holdback would only keep devices from the release."""

MAX_PHASES: Final = 50
"""Phases of a plan: each is a workflow and a row of every view."""

MAX_RULES: Final = 20
"""Halt rules of a plan: each is evaluated with every batch that holds a failure."""

MAX_LISTED_DEVICES: Final = 100_000
"""Device ids that a plan may name; larger selections belong into attributes."""

MAX_GROUPS: Final = 50
"""Groups of a cohort: as many as there can be phases to use them."""

MAX_APPROVALS: Final = 20
"""People who must approve: more than any organisation asks for."""


def _selector(value: str) -> str:
    try:
        parse(value)
    except QueryError as error:
        raise PydanticCustomError("plan.cohort.selector", "{text}", {"text": error.detail}) from error
    return value


def _preconditions(value: str) -> str:
    try:
        parse(value)
    except QueryError as error:
        raise PydanticCustomError("plan.preconditions", "{text}", {"text": error.detail}) from error
    return value


Selector = Annotated[str, Field(strict=True), AfterValidator(_selector)]
Preconditions = Annotated[str, Field(strict=True), AfterValidator(_preconditions)]


class CohortSpec(PlanModel):
    """Which devices a campaign is about, and how they are divided."""

    hardware_models: tuple[Line, ...] = ()
    """Only these; empty means every model that the release supports."""
    include: Annotated[tuple[Line, ...], Field(max_length=MAX_LISTED_DEVICES)] = ()
    """Only these device ids; empty means no such restriction."""
    exclude: Annotated[tuple[Line, ...], Field(max_length=MAX_LISTED_DEVICES)] = ()
    selector: Selector | None = None
    """Only devices that it matches: ``attribute.region=in=(eu,us);version=lt=2.0`` (:mod:`orchestrator.domain.query`)."""
    updated_by: Line | None = None
    """Only devices that this campaign updated and no other has confirmed on since (:mod:`orchestrator.domain.remediation`)."""
    previously: Line | None = None
    """Of those, only devices whose release before was this one."""
    groups: dict[Name, Selector] = Field(default_factory=dict[str, str], max_length=MAX_GROUPS)
    """Selectors by name, for phases to take whom they match: ``lab: "attribute.site==lab"``."""
    skip_current: Flag = True
    """Leave out devices that run the release already, by the version or digest that they reported."""
    membership: Literal["snapshot", "continuous"] = "snapshot"
    """``continuous``: devices that are registered, or begin to match, while the campaign runs join it."""
    max_members: Count | None = None
    """Most members of a continuous campaign, ever: its halt tables are made for so many."""
    stratify_by: Annotated[tuple[Dimension, ...], Field(max_length=8)] = ("hardware_model",)
    holdback_percent: Annotated[Number, Field(ge=0.0, le=MAX_HOLDBACK_PERCENT)] = 0.0
    salt: Line | None = None
    """Seed of the order; without one the release is, so that every release has canaries of its own."""

    @property
    def leaves_out_current(self) -> bool:
        """Whether devices that say they run the release are left out. Of what another campaign updated, its log knows better."""
        return self.skip_current and self.updated_by is None


class PromoteTest(PlanModel):
    """What must be ruled out before a phase promotes: a failure rate of ``p1`` or more, at error ``beta``."""

    p1: Rate
    beta: Rate = 0.05


class Phase(PlanModel):
    """An ordered slice of the cohort. ``percent`` and ``count`` are cumulative: this phase *and* those before it.

    ``group`` and ``devices`` take all members that they name and that no phase before them took by name.
    """

    name: Name
    percent: Percent | None = None
    count: Count | None = None
    min_count: Count | None = None
    group: Name | None = None
    devices: Annotated[tuple[Line, ...], Field(max_length=MAX_LISTED_DEVICES), AfterValidator(filled)] | None = None
    soak: Duration
    soak_devices: Count | None = None
    """The soak also waits for so many matured devices of the phase, or for all that it has, if fewer."""
    approval: Flag = False
    external: Annotated[tuple[ExternalGate, ...], Field(max_length=MAX_EXTERNAL)] = ()
    """Parties outside that must each say promote."""
    patience: Deadline | None = None
    """How long the gate may hold the phase after its soak before people are told. It never decides."""
    promote: PromoteTest | None = None
    rate: Pace | None = None
    max_in_flight: InFlightCap | None = None
    jitter: Deadline | None = None
    """A device may start only after a time of its own in [0, jitter) from its offer."""

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        sizes = (self.percent, self.count, self.group, self.devices)
        if sum(size is not None for size in sizes) != 1:
            raise PydanticCustomError(
                "plan.phase.size", "A phase has exactly one of 'percent', 'count', 'group' and 'devices'."
            )
        if self.percent is None and self.min_count is not None:
            raise PydanticCustomError("plan.phase.size", "'min_count' goes with 'percent' only.")
        return self

    @property
    def names(self) -> bool:
        """Whether the phase takes devices by name instead of by number."""
        return self.group is not None or self.devices is not None

    def reached(self, treated: int) -> int:
        """Devices reached at the end of this phase, out of ``treated`` (the cohort without its holdback), if it goes by number."""
        if self.percent is None:
            return min(self.count or 0, treated)
        return min(max(ceil(exact(self.percent) * treated / 100), self.min_count or 0), treated)


class InFlight(PlanModel):
    """Cap on offers that are outstanding or started and not yet ended.

    It doubles with every promoted phase; with ``add`` and ``per_confirmed`` it also grows inside a phase.
    """

    initial: InFlightCap
    maximum: InFlightCap
    add: InFlightCap | None = None
    per_confirmed: InFlightCap | None = None
    """The cap grows by ``add`` for every so many devices that the open phase has confirmed."""

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if (self.add is None) != (self.per_confirmed is None):
            raise PydanticCustomError("plan.in_flight.growth", "'add' and 'per_confirmed' go together.")
        return self

    def growth(self, confirmed: int) -> int:
        """What so many confirmed devices of the open phase add to the cap."""
        if self.add is None or self.per_confirmed is None:
            return 0
        return self.add * (confirmed // self.per_confirmed)


class Approvals(PlanModel):
    """Who must agree. With ``separation`` neither the author nor the last editor may approve."""

    required: Annotated[Integer, between("plan.field.value", 1, MAX_APPROVALS)] = 1
    separation: Flag = True


class Advisory(PlanModel):
    """What operators and devices are told about the release."""

    text: Text
    url: Annotated[str, Field(strict=True, max_length=2_000, pattern=r"^https?://[^\s]+$")] | None = None
    cves: tuple[Annotated[str, Field(strict=True, pattern=r"^CVE-\d{4}-\d{4,19}$")], ...] = ()


class Plan(PlanModel):
    """Everything people decide about a campaign before it runs. Durations are in milliseconds."""

    release: Line
    cohort: CohortSpec = CohortSpec()
    phases: Annotated[tuple[Phase, ...], Field(max_length=MAX_PHASES), AfterValidator(filled)]
    confirm_deadline: Deadline
    """From a device's start: silence beyond it is failure."""
    offer_ttl: Deadline
    """From the offer: not started by then, the attempt expires and its place in flight is free."""
    halt: Annotated[tuple[HaltRule, ...], Field(max_length=MAX_RULES), AfterValidator(filled)]
    max_in_flight: InFlight
    approvals: Approvals = Approvals()
    retry: RetryPolicy = RetryPolicy()
    schedule: Schedule = Schedule()
    breaker: BreakerField = BreakerSpec()
    """Holds offers while the infrastructure fails; None for a plan without one."""
    budget: Annotated[tuple[BudgetRule, ...], Field(max_length=MAX_LABELS)] = ()
    """Most devices in flight per value of a label, over all campaigns."""
    priority: Priority = DEFAULT_PRIORITY
    supersede: Supersede = "never"
    owner: OwnerPolicy = OwnerPolicy()
    preconditions: Preconditions | None = None
    """What a device must have reported when it is offered and when it starts: ``attribute.battery=ge=30``."""
    remediation: RemediationSpec = RemediationSpec()
    advisory: Advisory | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems = tuple(_inner_problems(self))
        if problems:
            raise PydanticCustomError(_SEVERAL, "The parts of the plan do not fit together.", {"problems": problems})
        return self

    @property
    def query(self) -> Query | None:
        """The cohort's selector."""
        return None if self.cohort.selector is None else parse(self.cohort.selector)

    @property
    def condition(self) -> Query | None:
        """The preconditions."""
        return None if self.preconditions is None else parse(self.preconditions)

    @property
    def salt(self) -> str:
        """Seed of the cohort's order."""
        return self.cohort.salt or self.release

    def holdback_count(self, total: int) -> int:
        """Devices held back out of a cohort of ``total``."""
        return floor(exact(self.cohort.holdback_percent) * total / 100)

    def phase_counts(self, treated: int) -> tuple[int, ...]:
        """Devices reached at the end of each phase, out of ``treated`` (the cohort without its holdback); 0 if it goes by name."""
        return tuple(phase.reached(treated) for phase in self.phases)

    def canonical(self) -> dict[str, Any]:
        """Plain data with every default written out; reads back as the same plan."""
        return self.model_dump(mode="json", by_alias=True)


def parse_plan(data: object) -> Plan:
    """The plan in plain data, as YAML or JSON gives it.

    Raises:
        PlanError: with every problem found.
    """
    try:
        return Plan.model_validate(data)
    except ValidationError as error:
        raise PlanError(problems_of(error)) from error


_SEVERAL: Final = "plan.problems"
_OWN_CODE: Final = re.compile(r"plan\.")


def _inner_problems(plan: Plan) -> Iterator[Problem]:
    yield from duplicates("/phases", "phase", [phase.name for phase in plan.phases])
    for index, phase in enumerate(plan.phases):
        pointer = f"/phases/{index}/external"
        yield from duplicates(pointer, "external gate", [gate.name for gate in phase.external])
    yield from duplicates("/halt", "halt rule", [rule.name for rule in plan.halt])
    yield from duplicates("/cohort/stratify_by", "dimension", plan.cohort.stratify_by)
    yield from duplicates("/budget", "label", [rule.label for rule in plan.budget])
    both = sorted(set(plan.cohort.include) & set(plan.cohort.exclude))
    if both:
        detail = f"{len(both)} devices are both included and excluded, '{both[0]}' among them."
        yield Problem("/cohort/exclude", "plan.cohort.overlap", detail)
    if plan.max_in_flight.maximum < plan.max_in_flight.initial:
        yield Problem(
            "/max_in_flight/maximum", "plan.in_flight.range", "The maximum in flight is below the initial cap."
        )
    for index, phase in enumerate(plan.phases):
        if phase.jitter is not None and phase.jitter >= plan.offer_ttl:
            detail = f"The jitter of '{phase.name}' must be shorter than the offer's time to live."
            yield Problem(f"/phases/{index}/jitter", "plan.jitter.range", detail)
    yield from _rule_problems(plan)
    if plan.remediation.release == plan.release:
        detail = "A campaign's own release cannot be its fallback."
        yield Problem("/remediation/release", "plan.remediation.release", detail)
    if plan.cohort.previously is not None and plan.cohort.updated_by is None:
        detail = "'previously' divides the devices of 'updated_by', so it needs that."
        yield Problem("/cohort/previously", "plan.cohort.previously", detail)
    yield from _order_problems(plan.phases)
    yield from _name_problems(plan)
    yield from _membership_problems(plan.cohort)


def _rule_problems(plan: Plan) -> Iterator[Problem]:
    if not any(isinstance(rule, EProcessRule | ThresholdRule) for rule in plan.halt):
        detail = (
            "Rules on health come after the update and bound no harm: a plan needs an 'e-process' or 'threshold' too."
        )
        yield Problem("/halt", "plan.halt.bound", detail)
    for index, rule in enumerate(plan.halt):
        if isinstance(rule, VersusRule) and not plan.cohort.holdback_percent:
            detail = f"The rule '{rule.name}' compares with a holdback: 'cohort.holdback_percent' must be above 0."
            yield Problem(f"/halt/{index}", "plan.halt.holdback", detail)


def _order_problems(phases: Sequence[Phase]) -> Iterator[Problem]:
    if phases[-1].percent != 100.0:
        detail = f"The last phase must reach 100 percent of the cohort; '{phases[-1].name}' does not say so."
        yield Problem(f"/phases/{len(phases) - 1}", "plan.phases.sum", detail)
    percents = [(index, phase.percent) for index, phase in enumerate(phases) if phase.percent is not None]
    counts = [(index, phase.count) for index, phase in enumerate(phases) if phase.count is not None]
    for (_, before), (index, after) in [*pairwise(percents), *pairwise(counts)]:
        if after <= before:
            detail = f"Phase sizes are cumulative and must rise: '{phases[index].name}' has {after:g} after {before:g}."
            yield Problem(f"/phases/{index}", "plan.phases.sum", detail)


def _membership_problems(cohort: CohortSpec) -> Iterator[Problem]:
    if (cohort.membership == "continuous") != (cohort.max_members is not None):
        detail = "A continuous membership needs 'max_members', and only that: halt tables are made for so many devices."
        yield Problem("/cohort/max_members", "plan.cohort.max_members", detail)
    if cohort.membership == "continuous" and cohort.updated_by is not None:
        detail = "Whom another campaign updated is settled: 'updated_by' goes with a snapshot."
        yield Problem("/cohort/membership", "plan.cohort.membership", detail)


def _name_problems(plan: Plan) -> Iterator[Problem]:
    for index, phase in enumerate(plan.phases):
        if phase.group is not None and phase.group not in plan.cohort.groups:
            detail = f"Phase '{phase.name}' takes the group '{phase.group}', which the cohort does not have."
            yield Problem(f"/phases/{index}/group", "plan.phase.group", detail)
    listed = sum(len(phase.devices or ()) for phase in plan.phases)
    if listed > MAX_LISTED_DEVICES:
        detail = f"The phases list {listed} devices together; at most {MAX_LISTED_DEVICES} are allowed."
        yield Problem("/phases", "plan.phase.devices", detail)


def duplicates(pointer: str, what: str, names: Sequence[str]) -> Iterator[Problem]:
    """Names that are there more than once."""
    for name, times in Counter(names).items():
        if times > 1:
            yield Problem(pointer, "plan.name.duplicate", f"There are {times} entries for the {what} '{name}'.")


def problems_of(error: ValidationError) -> Iterator[Problem]:
    """What is wrong, in the words of a plan."""
    for item in error.errors(include_url=False, include_input=False):
        kind, context = item["type"], item.get("ctx", {})
        pointer = "".join(f"/{pointer_part(part)}" for part in item["loc"] if part not in TAGS)
        if kind == _SEVERAL:
            yield from cast("tuple[Problem, ...]", context["problems"])
        elif _OWN_CODE.match(kind):
            yield Problem(pointer, kind, item["msg"])
        elif kind == "missing":
            yield Problem(pointer, "plan.field.missing", f"The field '{item['loc'][-1]}' is required.")
        elif kind == "extra_forbidden":
            yield Problem(pointer, "plan.field.unknown", f"There is no field '{item['loc'][-1]}' here.")
        else:
            code = "plan.field.type" if kind.endswith("_type") else "plan.field.value"
            # What Python keeps as a tuple is a list to whoever wrote the plan.
            yield Problem(pointer, code, f"{item['msg']}.".replace("Tuple", "List").replace("tuple", "list"))
