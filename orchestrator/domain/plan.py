"""The plan of a campaign, and the dossier that is frozen, digested and approved.

A :class:`Plan` exists only if it is right in itself: types, ranges, names, the order of its phases. Whether it
suits a fleet (phases that resolve to devices, promote tests that can pass) is a question to
:func:`validate_against`, asked when it is submitted. :func:`freeze` then works out every number the campaign will
obey, so that an approval is bound to them and not to a formula: device counts per phase and stratum, and the
integer tables of the halt rules.

All problems are collected; nobody corrects a plan one error at a time. Not done here: reading YAML or JSON (data
comes in as plain objects) and resolving the release or the cohort.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import pairwise
from math import ceil, floor
from typing import Annotated, Any, Final, Literal, LiteralString, Self, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.domain.boundary import halt_horizons
from orchestrator.domain.cohort import allot
from orchestrator.domain.digest import digest_of
from orchestrator.domain.durations import DurationError, parse_duration
from orchestrator.domain.sequential import clean_devices_needed
from orchestrator.errors import InvalidInputError

ALPHA_TOTAL: Final = 0.01
"""Default of the setting: probability of a false halt over the whole life of a campaign, shared out among its rules."""

MIN_FAILURES: Final = 3
"""Default of a halt rule: fewer failures never halt. It only makes a rule slower, so its promise stays intact."""

RATE_STEP: Final = 1e-6
"""Closest that a rate may come to 0 or 1. Beyond it a promote test would need millions of clean devices."""

MAX_HOLDBACK_PERCENT: Final = 50.0
"""Equal arms compare best; a larger holdback would only keep devices from the release."""

MAX_PHASES: Final = 50
"""Phases of a plan: each is a workflow and a row of every view."""

MAX_RULES: Final = 20
"""Halt rules of a plan: each is evaluated with every batch that holds a failure."""

MAX_LISTED_DEVICES: Final = 100_000
"""Device ids that a plan may name; larger selections belong into attributes."""

MAX_COUNT: Final = 10_000_000
"""Upper end of every count of devices in a plan: ten times the fleet this is built for."""

MAX_ATTEMPTS: Final = 10
"""Attempts per device: what has not worked by then needs a person."""

MAX_APPROVALS: Final = 20
"""People who must approve: more than any organisation asks for."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a plan: where (a JSON pointer), which kind, and a sentence."""

    pointer: str
    code: str
    detail: str


class PlanError(InvalidInputError):
    """The plan is not valid."""

    code = "plan.invalid"
    remedy = "Correct the plan at the given pointers and send it again."

    def __init__(self, problems: Iterable[Problem]) -> None:
        """Take all problems; if they are of one kind, its code is the error's code."""
        found = list(problems)
        self.errors = [asdict(problem) for problem in found]
        super().__init__(" ".join(problem.detail for problem in found[:3]), errors=self.errors)
        kinds = {problem.code for problem in found}
        if len(kinds) == 1:
            self.code = kinds.pop()


# --------------------------------------------------------------------------- field types


def _rate(value: float) -> float:
    if not RATE_STEP <= value <= 1.0 - RATE_STEP:
        raise PydanticCustomError(
            "plan.rate.range", "A rate lies strictly between 0 and 1, got {value}.", {"value": value}
        )
    return value


def _percent(value: float) -> float:
    if not 0.0 < value <= 100.0:
        raise PydanticCustomError("plan.phase.size", "A percentage lies in (0, 100], got {value}.", {"value": value})
    return value


def _duration(value: object) -> int:
    try:
        return parse_duration(value)
    except DurationError as error:
        text = f"{error.detail} {error.remedy}"
        raise PydanticCustomError("plan.duration", "{text}", {"text": text}) from error


def _positive(value: int) -> int:
    if value < 1:
        raise PydanticCustomError("plan.duration.range", "This duration must be longer than zero.")
    return value


def _between(code: LiteralString, low: int, high: int) -> AfterValidator:
    def check(value: int) -> int:
        if not low <= value <= high:
            raise PydanticCustomError(
                code,
                "A whole number from {low} to {high} is needed, got {value}.",
                {"low": low, "high": high, "value": value},
            )
        return value

    return AfterValidator(check)


def _filled(value: tuple[Any, ...]) -> tuple[Any, ...]:
    # Not a minimum length of the field: that also counts entries that are there and wrong as missing.
    if not value:
        raise PydanticCustomError("plan.field.value", "At least one entry is needed.")
    return value


_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Integer = Annotated[int, Field(strict=True)]
_Flag = Annotated[bool, Field(strict=True)]
_Text = Annotated[str, Field(strict=True, min_length=1, max_length=2_000, pattern=r"^[^\x00]*$")]
_Line = Annotated[str, Field(strict=True, min_length=1, max_length=256, pattern=r"^[^\x00-\x1f]*$")]
_Name = Annotated[str, Field(strict=True, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
_Dimension = Annotated[str, Field(strict=True, pattern=r"^(hardware_model|attribute\.[A-Za-z0-9_.-]{1,64})$")]
_Rate = Annotated[_Number, AfterValidator(_rate)]
_Count = Annotated[_Integer, _between("plan.phase.size", 1, MAX_COUNT)]
_InFlight = Annotated[_Integer, _between("plan.in_flight.range", 1, MAX_COUNT)]
_Duration = Annotated[int, BeforeValidator(_duration, json_schema_input_type=str | int)]
_Deadline = Annotated[_Duration, AfterValidator(_positive)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


# --------------------------------------------------------------------------- the plan


class CohortSpec(_Model):
    """Which devices a campaign is about, and how they are divided."""

    hardware_models: tuple[_Line, ...] = ()
    """Only these; empty means every model that the release supports."""
    include: Annotated[tuple[_Line, ...], Field(max_length=MAX_LISTED_DEVICES)] = ()
    """Only these device ids; empty means no such restriction."""
    exclude: Annotated[tuple[_Line, ...], Field(max_length=MAX_LISTED_DEVICES)] = ()
    stratify_by: Annotated[tuple[_Dimension, ...], Field(max_length=8)] = ("hardware_model",)
    holdback_percent: Annotated[_Number, Field(ge=0.0, le=MAX_HOLDBACK_PERCENT)] = 0.0
    salt: _Line | None = None
    """Seed of the order; without one the release is, so that every release has canaries of its own."""


class PromoteTest(_Model):
    """What must be ruled out before a phase promotes: a failure rate of ``p1`` or more, at error ``beta``."""

    p1: _Rate
    beta: _Rate = 0.05


class Pace(_Model):
    """Devices offered per minute at most, as a steady rate."""

    per_minute: Annotated[_Integer, _between("plan.field.value", 1, MAX_COUNT)]


class Phase(_Model):
    """An ordered slice of the cohort. ``percent`` and ``count`` are cumulative: this phase *and* those before it."""

    name: _Name
    percent: Annotated[_Number, AfterValidator(_percent)] | None = None
    count: _Count | None = None
    min_count: _Count | None = None
    soak: _Duration
    approval: _Flag = False
    promote: PromoteTest | None = None
    rate: Pace | None = None
    max_in_flight: _InFlight | None = None

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.percent is None) == (self.count is None):
            raise PydanticCustomError("plan.phase.size", "A phase has exactly one of 'percent' and 'count'.")
        if self.count is not None and self.min_count is not None:
            raise PydanticCustomError("plan.phase.size", "'min_count' goes with 'percent', not with 'count'.")
        return self

    def reached(self, treated: int) -> int:
        """Devices reached at the end of this phase, out of ``treated`` (the cohort without its holdback)."""
        if self.percent is None:
            return min(self.count or 0, treated)
        return min(max(ceil(_exact(self.percent) * treated / 100), self.min_count or 0), treated)


class HaltRule(_Model):
    """A beta-binomial e-process against "the failure rate is at most ``p0``".

    ``alpha`` is this rule's share of the campaign's error. A rule with one process per phase or per stratum divides
    it evenly among them, because every process may err once.
    """

    name: _Name
    scope: Literal["campaign", "phase", "stratum"]
    p0: _Rate
    alpha: _Rate
    min_failures: Annotated[_Integer, _between("plan.field.value", 1, 1_000)] = MIN_FAILURES


class InFlight(_Model):
    """Cap on offers that are outstanding or started and not yet ended; doubles with every promoted phase."""

    initial: _InFlight
    maximum: _InFlight


class Approvals(_Model):
    """Who must agree. With ``separation`` neither the author nor the last editor may approve."""

    required: Annotated[_Integer, _between("plan.field.value", 1, MAX_APPROVALS)] = 1
    separation: _Flag = True


class Retry(_Model):
    """Attempts per device, the first one included; a new attempt follows an offer that expired."""

    max_attempts: Annotated[_Integer, _between("plan.field.value", 1, MAX_ATTEMPTS)] = 1


class Advisory(_Model):
    """What operators and devices are told about the release."""

    text: _Text
    url: Annotated[str, Field(strict=True, max_length=2_000, pattern=r"^https?://[^\s]+$")] | None = None
    cves: tuple[Annotated[str, Field(strict=True, pattern=r"^CVE-\d{4}-\d{4,19}$")], ...] = ()


class Plan(_Model):
    """Everything people decide about a campaign before it runs. Durations are in milliseconds."""

    release: _Line
    cohort: CohortSpec = CohortSpec()
    phases: Annotated[tuple[Phase, ...], Field(max_length=MAX_PHASES), AfterValidator(_filled)]
    confirm_deadline: _Deadline
    """From a device's start: silence beyond it is failure."""
    offer_ttl: _Deadline
    """From the offer: not started by then, the attempt expires and its place in flight is free."""
    halt: Annotated[tuple[HaltRule, ...], Field(max_length=MAX_RULES), AfterValidator(_filled)]
    max_in_flight: InFlight
    approvals: Approvals = Approvals()
    retry: Retry = Retry()
    advisory: Advisory | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems = tuple(_inner_problems(self))
        if problems:
            raise PydanticCustomError(_SEVERAL, "The parts of the plan do not fit together.", {"problems": problems})
        return self

    @property
    def salt(self) -> str:
        """Seed of the cohort's order."""
        return self.cohort.salt or self.release

    def holdback_count(self, total: int) -> int:
        """Devices held back out of a cohort of ``total``."""
        return floor(_exact(self.cohort.holdback_percent) * total / 100)

    def phase_counts(self, treated: int) -> tuple[int, ...]:
        """Devices reached at the end of each phase, out of ``treated`` (the cohort without its holdback)."""
        return tuple(phase.reached(treated) for phase in self.phases)

    def canonical(self) -> dict[str, Any]:
        """Plain data with every default written out; reads back as the same plan."""
        return self.model_dump(mode="json")


def parse_plan(data: object) -> Plan:
    """The plan in plain data, as YAML or JSON gives it.

    Raises:
        PlanError: with every problem found.
    """
    try:
        return Plan.model_validate(data)
    except ValidationError as error:
        raise PlanError(_problems_of(error)) from error


def validate_against(
    plan: Plan,
    *,
    strata_sizes: Mapping[str, int],
    release_models: Collection[str],
    alpha_total: float = ALPHA_TOTAL,
) -> list[Problem]:
    """What keeps this plan from running on this fleet; empty if nothing does.

    Args:
        plan: the plan.
        strata_sizes: devices of the cohort per stratum, the holdback included.
        release_models: hardware models that the release supports.
        alpha_total: highest sum of the rules' ``alpha``.
    """
    problems: list[Problem] = []
    for index, model in enumerate(plan.cohort.hardware_models):
        if model not in release_models:
            detail = f"The release does not support the hardware model '{model}'."
            problems.append(Problem(f"/cohort/hardware_models/{index}", "plan.cohort.hardware_model", detail))
    spent = sum(_exact(rule.alpha) for rule in plan.halt)
    if spent > _exact(alpha_total):
        detail = f"The halt rules spend {float(spent):g} of alpha together; at most {alpha_total:g} is allowed."
        problems.append(Problem("/halt", "plan.halt.alpha", detail))
    total = sum(strata_sizes.values())
    if not total:
        problems.append(Problem("/cohort", "plan.cohort.empty", "No device matches the cohort."))
        return problems

    treated = total - plan.holdback_count(total)
    reached = 0
    for index, (phase, count) in enumerate(zip(plan.phases, plan.phase_counts(treated), strict=True)):
        own, reached = count - reached, max(count, reached)
        if own < 1:
            detail = (
                f"Phase '{phase.name}' adds no device: it reaches {count} of {treated} devices, "
                "and the phases before it already do."
            )
            problems.append(Problem(f"/phases/{index}", "plan.phase.size", detail))
        elif phase.promote and (needed := clean_devices_needed(phase.promote.p1, phase.promote.beta)) > own:
            detail = (
                f"Phase '{phase.name}' adds {own} devices, but ruling out a failure rate of {phase.promote.p1:g} at "
                f"beta {phase.promote.beta:g} takes at least {needed} devices without a single failure. "
                "Enlarge the phase, raise p1, or leave its promote test out."
            )
            problems.append(Problem(f"/phases/{index}/promote", "plan.promote.impossible", detail))
    return problems


# --------------------------------------------------------------------------- the dossier


class PhaseShare(_Model):
    """A phase in devices: how many it adds, how many are reached with it, and the added ones per stratum."""

    name: str
    size: int
    reached: int
    strata: dict[str, int]


class HaltTable(_Model):
    """A halt rule as integers. ``alpha`` is that of one process: the rule's share divided by ``processes``."""

    name: str
    scope: Literal["campaign", "phase", "stratum"]
    p0: float
    alpha: float
    processes: int
    min_failures: int
    horizons: tuple[int, ...]


class Dossier(_Model):
    """What an approval is bound to: the plan, and every number that follows for this release and this cohort."""

    release_digest: str
    plan: Plan
    strata: dict[str, int]
    holdback: dict[str, int]
    phases: tuple[PhaseShare, ...]
    rules: tuple[HaltTable, ...]

    def canonical(self) -> dict[str, Any]:
        """Plain data to store; reads back as the same dossier, with the same digest."""
        return self.model_dump(mode="json")


def freeze(plan: Plan, *, strata_sizes: Mapping[str, int], release_digest: str) -> Dossier:
    """Work out the dossier of a plan that :func:`validate_against` has nothing against.

    A million devices at p0 = 2 % take about a second per rule.
    """
    allotment = allot(strata_sizes, plan)
    phases: list[PhaseShare] = []
    reached = 0
    for phase, added in zip(plan.phases, allotment.phases, strict=True):
        size = sum(added.values())
        reached += size
        phases.append(PhaseShare(name=phase.name, size=size, reached=reached, strata=added))
    return Dossier(
        release_digest=release_digest,
        plan=plan,
        strata=allotment.strata,
        holdback=allotment.holdback,
        phases=tuple(phases),
        rules=tuple(_halt_table(rule, len(plan.phases), strata_sizes) for rule in plan.halt),
    )


def dossier_digest(dossier: Dossier) -> str:
    """The digest that approvals are bound to: ``sha256:...`` of the dossier's canonical JSON."""
    return digest_of(dossier.canonical())


def _halt_table(rule: HaltRule, phases: int, strata_sizes: Mapping[str, int]) -> HaltTable:
    sizes = [size for size in strata_sizes.values() if size]
    processes = {"campaign": 1, "phase": phases, "stratum": len(sizes)}[rule.scope]
    alpha = rule.alpha / processes
    most = max(sizes) if rule.scope == "stratum" else sum(sizes)
    return HaltTable(
        name=rule.name,
        scope=rule.scope,
        p0=rule.p0,
        alpha=alpha,
        processes=processes,
        min_failures=rule.min_failures,
        horizons=halt_horizons(rule.p0, alpha, rule.min_failures, most),
    )


# --------------------------------------------------------------------------- problems

_SEVERAL: Final = "plan.problems"
_POINTER_ESCAPES: Final = str.maketrans({"~": "~0", "/": "~1"})
_OWN_CODE: Final = re.compile(r"plan\.")


def _exact(value: float) -> Fraction:
    """The decimal number that was written: 0.006 + 0.002 + 0.002 must not exceed 0.01."""
    return Fraction(repr(value))


def _inner_problems(plan: Plan) -> Iterator[Problem]:
    yield from _duplicates("/phases", "phase", [phase.name for phase in plan.phases])
    yield from _duplicates("/halt", "halt rule", [rule.name for rule in plan.halt])
    yield from _duplicates("/cohort/stratify_by", "dimension", plan.cohort.stratify_by)
    both = sorted(set(plan.cohort.include) & set(plan.cohort.exclude))
    if both:
        detail = f"{len(both)} devices are both included and excluded, '{both[0]}' among them."
        yield Problem("/cohort/exclude", "plan.cohort.overlap", detail)
    if plan.max_in_flight.maximum < plan.max_in_flight.initial:
        yield Problem(
            "/max_in_flight/maximum", "plan.in_flight.range", "The maximum in flight is below the initial cap."
        )
    yield from _order_problems(plan.phases)


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


def _duplicates(pointer: str, what: str, names: Sequence[str]) -> Iterator[Problem]:
    for name, times in Counter(names).items():
        if times > 1:
            yield Problem(pointer, "plan.name.duplicate", f"There are {times} entries for the {what} '{name}'.")


def _problems_of(error: ValidationError) -> Iterator[Problem]:
    for item in error.errors(include_url=False, include_input=False):
        kind, context = item["type"], item.get("ctx", {})
        pointer = "".join(f"/{str(part).translate(_POINTER_ESCAPES)}" for part in item["loc"])
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
