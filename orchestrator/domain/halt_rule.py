"""Halt rules: what people write into a plan, and the tables of integers that a campaign obeys.

Two tests here, both "this many failures among this many started devices"; those on health after the update are in
:mod:`orchestrator.domain.health_rule`:

- **e-process**: its false alarms over the whole life of the campaign are at most ``alpha``, however often it looks
  (:mod:`orchestrator.domain.sequential`). With ``scope: stratum, halts: stratum`` it halts single strata by e-BH
  (Wang, Ramdas 2022): of m strata the k that reach ``m / (alpha k)``, k as large as possible; the expected share of
  strata halted falsely is at most ``alpha``, whatever their outcomes have to do with each other.
- **threshold**: a plain share of the started devices, for people who insist. It spends no alpha because it promises
  nothing; its false alarms are worked out and shown with the plan.

Not here: counting, and what happens after a crossing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from math import ceil, floor
from typing import Annotated, Any, Final, Literal, Self, cast

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.domain.boundary import halt_horizons
from orchestrator.domain.health_rule import ExposureRule, VersusRule
from orchestrator.domain.plan_fields import MAX_COUNT, Integer, Name, PlanModel, Rate, Scope, between, exact

MIN_FAILURES: Final = 3
"""Default of a halt rule: fewer failures never halt. It only makes a rule slower, so its promise stays intact."""

MAX_LEVELS: Final = 24
"""Strata of a rule that halts single strata: each of its levels is a table in the dossier."""

ALARM_RATES: Final = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1)
"""True failure rates for which the false alarms of a threshold are shown, as far as they lie below it."""

ALARM_DEVICES: Final = 2_000
"""Started devices up to which they are counted: what has not crossed by then hardly ever does."""

_NEGLIGIBLE: Final = 1e-18

TAGS: Final = frozenset({"e-process", "threshold", "exposure", "canary-vs-holdback"})
"""Tests that there are; pydantic adds them to the location of an error, where they are no part of a plan."""


class EProcessRule(PlanModel):
    """A beta-binomial e-process against "the failure rate is at most ``p0``".

    ``alpha`` is this rule's share of the campaign's error. A rule with one process per phase or per stratum divides
    it evenly among them, because every process may err once; one that halts single strata leaves that to e-BH.
    """

    test: Literal["e-process"] = "e-process"
    name: Name
    scope: Scope
    p0: Rate
    alpha: Rate
    min_failures: Annotated[Integer, between("plan.field.value", 1, 1_000)] = MIN_FAILURES
    halts: Literal["campaign", "stratum"] = "campaign"
    """What stops: everything, or the stratum that crossed while the others go on."""

    @model_validator(mode="after")
    def _halts_what_it_counts(self) -> Self:
        if self.halts == "stratum" and self.scope != "stratum":
            raise PydanticCustomError(
                "plan.halt.scope", "A rule that halts single strata counts per stratum: 'scope: stratum'."
            )
        return self


class ThresholdRule(PlanModel):
    """Halts once ``share`` of the started devices failed, from ``after`` started devices on.

    Failures that would halt ``after`` devices halt fewer devices too: they are not going away, so waiting for more
    starts would only expose those.
    """

    test: Literal["threshold"]
    name: Name
    scope: Scope
    share: Rate
    after: Annotated[Integer, between("plan.field.value", 1, MAX_COUNT)]


def _test_of(value: object) -> str:
    test: object = getattr(value, "test", None)
    if isinstance(value, Mapping):
        test = cast("Mapping[str, object]", value).get("test")
    # What names no test of ours is reported by the e-process, whose field it is not.
    return test if isinstance(test, str) and test in TAGS else "e-process"


HaltRule = Annotated[
    Annotated[EProcessRule, Tag("e-process")]
    | Annotated[ThresholdRule, Tag("threshold")]
    | Annotated[ExposureRule, Tag("exposure")]
    | Annotated[VersusRule, Tag("canary-vs-holdback")],
    Discriminator(_test_of),
]


def false_halt_bound(rules: Iterable[Mapping[str, Any]], gate_epochs: int) -> float:
    """Probability of a false halt over so many gate epochs, at most; ``rules`` are a plan's, in plain data.

    Each resume after a halt begins a new process with fresh alpha, so r resumes cost (r + 1) alpha (Boole's inequality). Thresholds
    promise nothing and are left out.
    """
    spent = sum((exact(rule["alpha"]) for rule in rules if rule.get("alpha") is not None), Fraction())
    return float(min(Fraction(1), spent * max(1, gate_epochs)))


class HaltTable(PlanModel):
    """A halt rule as integers: entry f of ``horizons`` is the largest number of started devices that f failures halt.

    ``alpha`` is that of one process: the rule's share divided by ``processes``; None for a threshold, whose ``p0`` is
    its share. ``levels`` are the further tables of a rule that halts single strata: the one for k strata at once
    stands at k - 2, and ``horizons`` is that for one.
    """

    name: str
    scope: Scope
    p0: float
    alpha: float | None
    processes: int
    min_failures: int
    horizons: tuple[int, ...]
    test: Literal["e-process", "threshold"] = "e-process"
    halts: Literal["campaign", "stratum"] = "campaign"
    levels: tuple[tuple[int, ...], ...] = ()
    false_alarms: Annotated[dict[str, float], Field(default_factory=dict[str, float])]
    """Of a threshold: true failure rate to the probability that it halts one process within ``ALARM_DEVICES``."""


def halt_table(
    rule: EProcessRule | ThresholdRule, phases: int, strata_sizes: Mapping[str, int], room: int = 0
) -> HaltTable:
    """Work a rule out for so many phases and these strata, any of which ``room`` devices may join.

    A million devices at p0 = 2 % take about a second.
    """
    sizes = [size for size in strata_sizes.values() if size]
    processes = {"campaign": 1, "phase": phases, "stratum": len(sizes)}[rule.scope]
    most = (max(sizes) if rule.scope == "stratum" else sum(sizes)) + room
    if isinstance(rule, ThresholdRule):
        horizons = threshold_horizons(rule.share, rule.after, most)
        return HaltTable(
            name=rule.name,
            scope=rule.scope,
            p0=rule.share,
            alpha=None,
            processes=processes,
            min_failures=max(1, next((f for f, n in enumerate(horizons) if n), len(horizons))),
            horizons=horizons,
            test="threshold",
            false_alarms={
                f"{p:g}": false_alarm(horizons, p, min(most, ALARM_DEVICES)) for p in ALARM_RATES if p < rule.share
            },
        )
    levels = tuple(
        halt_horizons(rule.p0, rule.alpha * k / processes, rule.min_failures, most)
        for k in range(2, processes + 1 if rule.halts == "stratum" else 2)
    )
    alpha = rule.alpha / processes
    return HaltTable(
        name=rule.name,
        scope=rule.scope,
        p0=rule.p0,
        alpha=alpha,
        processes=processes,
        min_failures=rule.min_failures,
        horizons=halt_horizons(rule.p0, alpha, rule.min_failures, most),
        halts=rule.halts,
        levels=levels,
        false_alarms={},
    )


def threshold_horizons(share: float, after: int, most: int) -> tuple[int, ...]:
    """Entry f: the largest ``n <= most`` of which f failures are a ``share``, 0 below the failures that ``after`` needs."""
    part = exact(share)
    least = max(1, ceil(part * after))
    horizons: list[int] = []
    for failures in range(ceil(part * most) + 1):
        horizons.append(min(most, floor(Fraction(failures) / part)) if failures >= least else 0)
        if horizons[-1] == most:
            break
    return tuple(horizons)


def false_alarm(horizons: tuple[int, ...], p: float, devices: int) -> float:
    """Probability that ``devices`` starts cross somewhere if each fails with probability ``p`` and is heard at once.

    Exact, by dynamic programming over the failures not yet absorbed; later news only makes a crossing later.
    """
    alive, crossed, needed = [1.0], 0.0, 0
    for n in range(1, devices + 1):
        while needed < len(horizons) and horizons[needed] < n:
            needed += 1
        alive = [
            (alive[f] if f < len(alive) else 0.0) * (1.0 - p) + (alive[f - 1] if f else 0.0) * p
            for f in range(len(alive) + 1)
        ]
        if needed < len(horizons) and needed <= n:
            crossed += sum(alive[needed:])
            del alive[needed:]
        while len(alive) > 1 and alive[-1] < _NEGLIGIBLE:
            alive.pop()
    return crossed
