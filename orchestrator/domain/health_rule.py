"""Halt rules on health after the update: what devices report of themselves, period by period, once a release runs on them.

- **exposure**: a signal comes more often than ``per_hour`` in the device time since the devices' first start
  (:mod:`orchestrator.domain.exposure`). All events count, so a crash loop counts as often as it crashes.
- **canary-vs-holdback**: treated devices show a signal sooner than devices held back (:mod:`orchestrator.domain.versus`). Here a
  failure is a *device's first event since the gate epoch opened*, in whichever arm it is then, and it is watched until then: a device
  that always crashes must not count again and again for the arm it happens to be in, and one that crashed before its start has left
  both arms alike. Equal rates therefore mean: of the devices without an event since the launch, those of one stratum that have started
  show their first one in the same span of time at most as often, per hour, as those held back.

Both only look at whole periods: one that began before the device's first start says nothing about the release.

They halt the campaign, after the update, on evidence that has no bound in devices: so they give no blast bound, and a plan has to have
a rule that does. Their verdict compares floats; it is an event, and is never taken again.

Not here: who is treated and what was reported (the projection's rows), and when it is looked at (the process manager).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import log
from typing import Annotated, Final, Literal

import msgspec
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from orchestrator.domain.exposure import HOUR_MS, log_e_exposure
from orchestrator.domain.plan_fields import Duration, Integer, Name, Number, PlanModel, Rate, Scope, between
from orchestrator.domain.sequential import NotConvergedError
from orchestrator.domain.versus import Score, log_e_versus, scored, total
from schemas.device_events import SIGNAL

MIN_EVENTS: Final = 3
"""Default of an exposure rule: fewer events never halt. It only makes the rule slower, so its promise stays intact."""

HIGHEST_RATE: Final = 1_000.0
"""Most events per hour that a rule may call acceptable; and one in as many million hours is the least."""

SPAN_MS: Final = 900_000
"""Default span within which the arms are compared: long enough that a small holdback reports in it, short against an incident."""

SPANS: Final = (1_000, 7 * 24 * HOUR_MS)
"""Shortest and longest span, ms."""

HELD: Final = -1
"""Phase of a cell of devices held back, as in the ledger."""


def _per_hour(value: float) -> float:
    if not 1e-6 / HIGHEST_RATE <= value <= HIGHEST_RATE:
        raise PydanticCustomError(
            "plan.halt.per_hour", "A rate per hour lies above 0 and up to {most}.", {"most": HIGHEST_RATE}
        )
    return value


Signal = Annotated[str, Field(strict=True, pattern=SIGNAL)]


class ExposureRule(PlanModel):
    """Halts when a signal comes more often than ``per_hour``. One process per phase or stratum shares ``alpha`` evenly."""

    test: Literal["exposure"]
    name: Name
    signal: Signal
    scope: Scope
    per_hour: Annotated[Number, AfterValidator(_per_hour)]
    """Acceptable events per hour of one device."""
    alpha: Rate
    min_events: Annotated[Integer, between("plan.field.value", 1, 1_000)] = MIN_EVENTS


class VersusRule(PlanModel):
    """Halts when treated devices show a signal sooner than those held back; over the whole campaign, compared by stratum."""

    test: Literal["canary-vs-holdback"]
    name: Name
    signal: Signal
    alpha: Rate
    span: Annotated[Duration, between("plan.duration.range", *SPANS)] = SPAN_MS
    """Time within which the arms are compared, ms: about the period in which devices report, or longer."""


class HealthGate(PlanModel):
    """A health rule as the dossier freezes it. ``alpha`` is that of one process; ``per_hour`` or ``span`` is that of its test."""

    name: str
    test: Literal["exposure", "canary-vs-holdback"]
    signal: str
    scope: Scope
    alpha: float
    processes: int
    per_hour: float | None = None
    min_events: int = 0
    span: int | None = None

    @property
    def limit(self) -> float:
        """The evidence that halts, as log E."""
        return -log(self.alpha)


def health_gate(rule: ExposureRule | VersusRule, phases: int, strata_sizes: Mapping[str, int]) -> HealthGate:
    """Work a rule out for so many phases and these strata."""
    if isinstance(rule, VersusRule):
        return HealthGate(
            name=rule.name,
            test=rule.test,
            signal=rule.signal,
            scope="campaign",
            alpha=rule.alpha,
            processes=1,
            span=rule.span,
        )
    strata = sum(1 for size in strata_sizes.values() if size)
    processes = {"campaign": 1, "phase": phases, "stratum": strata}[rule.scope]
    return HealthGate(
        name=rule.name,
        test=rule.test,
        signal=rule.signal,
        scope=rule.scope,
        alpha=rule.alpha / processes,
        processes=processes,
        per_hour=rule.per_hour,
        min_events=rule.min_events,
    )


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """What devices of a phase and stratum reported: events and the device time in which they were counted.

    For a comparison the events are failures, the time that of devices without one so far, all of one span.
    """

    phase: int
    """``HELD`` for devices held back."""
    stratum: str
    events: int
    exposure_ms: int
    span: int = 0


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one rule has counted in a gate epoch."""

    until: int
    """Reports recorded up to here are in it, ms."""
    cells: tuple[Cell, ...] = ()
    """By phase and stratum, spans summed up."""
    scores: dict[str, Score] = {}
    """Of a comparison, by stratum."""


def counted(gate: HealthGate, reading: Reading, cells: Sequence[Cell], until: int) -> Reading:
    """The reading after what was reported up to ``until``; of a comparison, whole spans only."""
    sums = {(cell.phase, cell.stratum): (cell.events, cell.exposure_ms) for cell in reading.cells}
    for cell in cells:
        events, exposure = sums.get((cell.phase, cell.stratum), (0, 0))
        sums[cell.phase, cell.stratum] = events + cell.events, exposure + cell.exposure_ms
    return Reading(
        until=until,
        cells=tuple(
            Cell(phase=phase, stratum=stratum, events=events, exposure_ms=exposure)
            for (phase, stratum), (events, exposure) in sorted(sums.items())
        ),
        scores=_scores(reading.scores, cells) if gate.test == "canary-vs-holdback" else {},
    )


def _scores(scores: Mapping[str, Score], cells: Iterable[Cell]) -> dict[str, Score]:
    arms: dict[tuple[int, str], list[int]] = {}
    for cell in cells:
        sums = arms.setdefault((cell.span, cell.stratum), [0, 0, 0, 0])
        arm = 1 if cell.phase == HELD else 0
        sums[arm] += cell.events
        sums[2 + arm] += cell.exposure_ms
    found = dict(scores)
    for (_, stratum), (treated, held, treated_ms, held_ms) in sorted(arms.items()):
        found[stratum] = scored(found.get(stratum, Score()), treated, held, treated_ms, held_ms)
    return found


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How one process of a rule stands, with everything needed to say why it halts."""

    rule: str
    test: str
    signal: str
    scope_key: str
    events: int
    """Of treated devices; in a comparison, those of them that failed while both arms were watched."""
    exposure_ms: int
    held_events: int | None
    """Of devices held back; None where they are not asked."""
    held_exposure_ms: int | None
    expected: float
    """Events that would just be acceptable."""
    log_e: float | None
    """None where it could not be computed: then the rule holds."""
    limit: float
    alpha: float
    min_events: int
    until: int

    @property
    def halts(self) -> bool:
        return self.log_e is not None and self.log_e >= self.limit and self.events >= self.min_events

    @property
    def detail(self) -> str:
        """The reason as a sentence."""
        hours = self.exposure_ms / HOUR_MS
        if self.held_events is None:
            return (
                f"{self.events} times '{self.signal}' in {hours:.1f} device hours after the start in {self.scope_key};"
                f" rule '{self.rule}' accepts {self.expected:.1f}."
            )
        return (
            f"{self.events} of {self.events + self.held_events} devices that showed '{self.signal}' were treated;"
            f" {self.expected:.1f} would be if the release did nothing (rule '{self.rule}')."
        )


def standings(gate: HealthGate, reading: Reading, halted: Collection[str]) -> list[Standing]:
    """Every process of a rule that has counted something. Strata that were halted alone do not speak for the others."""
    cells = [cell for cell in reading.cells if cell.stratum not in halted]
    if gate.test == "canary-vs-holdback":
        return [_compared(gate, reading, cells, halted)] if cells else []
    sums: dict[str, tuple[int, int]] = {}
    for cell in cells:
        if cell.phase != HELD:
            key = _scope_key(gate.scope, cell)
            events, exposure = sums.get(key, (0, 0))
            sums[key] = events + cell.events, exposure + cell.exposure_ms
    return [_exposed(gate, reading, key, *sums[key]) for key in sorted(sums)]


def _exposed(gate: HealthGate, reading: Reading, key: str, events: int, exposure_ms: int) -> Standing:
    assert gate.per_hour is not None
    try:
        log_e = log_e_exposure(events, exposure_ms, gate.per_hour)
    except NotConvergedError:
        log_e = None
    return Standing(
        rule=gate.name,
        test=gate.test,
        signal=gate.signal,
        scope_key=key,
        events=events,
        exposure_ms=exposure_ms,
        held_events=None,
        held_exposure_ms=None,
        expected=gate.per_hour * exposure_ms / HOUR_MS,
        log_e=log_e,
        limit=gate.limit,
        alpha=gate.alpha,
        min_events=gate.min_events,
        until=reading.until,
    )


def _compared(gate: HealthGate, reading: Reading, cells: Sequence[Cell], halted: Collection[str]) -> Standing:
    score = total(score for stratum, score in sorted(reading.scores.items()) if stratum not in halted)
    return Standing(
        rule=gate.name,
        test=gate.test,
        signal=gate.signal,
        scope_key="campaign",
        events=score.treated,
        exposure_ms=sum(cell.exposure_ms for cell in cells if cell.phase != HELD),
        held_events=score.failures - score.treated,
        held_exposure_ms=sum(cell.exposure_ms for cell in cells if cell.phase == HELD),
        expected=score.expected,
        log_e=log_e_versus(score),
        limit=gate.limit,
        alpha=gate.alpha,
        min_events=gate.min_events,
        until=reading.until,
    )


def _scope_key(scope: Scope, cell: Cell) -> str:
    return {"campaign": "campaign", "phase": f"phase/{cell.phase}", "stratum": f"stratum/{cell.stratum}"}[scope]
