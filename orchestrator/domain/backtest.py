"""A halt policy, asked what it would have done with a campaign that has already happened.

The campaign's first starts and first release failures are told in the order of the time at which they were recorded; of one moment
starts come before failures, so that an n is never older than its f, which would make the evidence look stronger than it was. After
each moment with a failure the policy's rules are judged as the live gate judges them. The assumption: until the policy halts,
offers and reports went as they really went. So the replay ends at the first halt of the campaign, and gate epochs are those that were
recorded.

Not here: reading the logs, and a policy's effect on devices, which nobody can know.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Annotated, Final, cast

from msgspec import Struct
from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from orchestrator.domain.dossier import Dossier, strata_problems
from orchestrator.domain.gate import Cell, HaltVerdict, judge
from orchestrator.domain.halt_rule import EProcessRule, HaltRule, HaltTable, ThresholdRule, halt_table
from orchestrator.domain.plan import MAX_RULES, duplicates, problems_of
from orchestrator.domain.plan_fields import PlanError, PlanModel, filled
from orchestrator.errors import InvalidInputError

REPLAYED: Final = frozenset({"e-process", "threshold"})
"""Tests that can be asked about the past: they count started devices and release failures."""


class UnsupportedRuleError(InvalidInputError):
    """A rule of this kind cannot be asked about the past."""

    code = "backtest.rule.unsupported"
    remedy = f"A backtest knows the tests {' and '.join(sorted(REPLAYED))} only; leave rules on health out."


def _named_once(rules: tuple[HaltRule, ...]) -> tuple[HaltRule, ...]:
    for problem in duplicates("/halt", "halt rule", [rule.name for rule in rules]):
        raise PydanticCustomError("plan.name.duplicate", "{text}", {"text": problem.detail})
    return rules


class Policy(PlanModel):
    """Halt rules as in a plan, and nothing else of it."""

    halt: Annotated[
        tuple[HaltRule, ...], Field(max_length=MAX_RULES), AfterValidator(filled), AfterValidator(_named_once)
    ]


def parse_policy(data: object) -> Policy:
    """The policy in plain data.

    Raises:
        UnsupportedRuleError: a rule whose test is none of those that can be replayed.
        PlanError: with every problem found.
    """
    for test in _tests(data):
        if not isinstance(test, str) or test not in REPLAYED:
            raise UnsupportedRuleError(f"A backtest does not know the test {str(test)[:64]!r}.")
    try:
        return Policy.model_validate(data)
    except ValidationError as error:
        raise PlanError(problems_of(error)) from error


def _tests(data: object) -> Iterator[object]:
    rules = cast("Mapping[str, object]", data).get("halt") if isinstance(data, Mapping) else None
    if isinstance(rules, list | tuple):
        for rule in cast("Sequence[object]", rules):
            if isinstance(rule, Mapping):
                yield cast("Mapping[str, object]", rule).get("test", "e-process")


def policy_tables(policy: Policy, dossier: Dossier) -> tuple[HaltTable, ...]:
    """The policy worked out for the phases and strata of the dossier: the integers that it would have obeyed.

    A million devices at p0 = 2 % take about a second per rule.

    Raises:
        PlanError: a rule halts single strata of too many.
        UnsupportedRuleError: a rule whose test is none of those that can be replayed.
    """
    problems = list(strata_problems(policy.halt, dossier.strata))
    if problems:
        raise PlanError(problems)
    phases = len(dossier.plan.phases)
    return tuple(halt_table(rule, phases, dossier.strata) for rule in map(_replayable, policy.halt))


def _replayable(rule: HaltRule) -> EProcessRule | ThresholdRule:
    if isinstance(rule, EProcessRule | ThresholdRule):
        return rule
    raise UnsupportedRuleError(f"A backtest does not know the test of the rule '{rule.name}'.")


# --------------------------------------------------------------------------- what happened


class Tally(Struct, frozen=True, gc=False):
    """First starts and first release failures that were recorded at one moment in one cell."""

    at: int
    """Milliseconds since the epoch."""
    phase: int
    stratum: str
    gate_epoch: int
    """Of the device's first start."""
    started: int
    failed: int


class Line:
    """What changed at some moments and held from each to the next; before the first, what the first says."""

    def __init__(self, points: Iterable[tuple[int, int]]) -> None:
        """Take (moment in ms, value) in order."""
        self._points = list(points)
        self._times = [at for at, _ in self._points]

    def at(self, moment: int) -> int:
        return self._points[max(0, bisect_right(self._times, moment) - 1)][1]


class Course(Struct, frozen=True, kw_only=True):
    """How the campaign went, as far as a judgement depends on it."""

    strata: tuple[str, ...]
    """Those that have devices."""
    epochs: tuple[tuple[int, int], ...]
    """(moment, gate epoch) of the launch and of each resume after a halt."""
    phases: tuple[tuple[int, int], ...]
    """(moment, phase) of each opening; empty if none was opened."""
    ended_at: int | None
    """Nothing is judged after the campaign was completed or aborted."""


class WouldHalt(Struct, frozen=True, kw_only=True):
    """A halt that the policy would have ordered, with the numbers that it would have stood on."""

    at: int
    """When the crossing failure was recorded, ms."""
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
    """Devices of the campaign that had started by then, in all epochs."""
    failures: int
    """Release failures among them that had been recorded."""


class StratumWouldHalt(Struct, frozen=True, kw_only=True):
    """A stratum that would have been halted alone."""

    stratum: str
    halt: WouldHalt
    started_after: int
    """Devices of the stratum that started later, up to the end of the replay."""


class Exposure(Struct, frozen=True):
    exposed: int = 0
    failures: int = 0


class Replay:
    """Judges tallies as they come. Memory: a counter per phase, stratum and epoch, whatever the size of the fleet."""

    def __init__(self, tables: Sequence[HaltTable], course: Course, watched: Iterable[int] = ()) -> None:
        """Take the policy, and moments (ms) for which :meth:`exposure` will be asked."""
        self._tables = tables
        self._course = course
        self._epochs, self._phases = Line(course.epochs), Line(course.phases or ((0, -1),))
        self._cells: defaultdict[int, dict[tuple[int, str], list[int]]] = defaultdict(dict)
        self._started = self._failed = 0
        self._by_stratum: defaultdict[str, int] = defaultdict(int)
        self._watched: dict[int, Exposure] = dict.fromkeys(watched, Exposure())
        self._alone: list[tuple[str, WouldHalt, int]] = []
        self._held: list[Tally] = []
        self.halt: WouldHalt | None = None
        """The first halt of the campaign."""

    def take(self, tallies: Iterable[Tally]) -> None:
        """The next tallies, in the order of their moments."""
        pending = [*self._held, *tallies]
        self._held = []
        for at, group in groupby(pending, lambda tally: tally.at):
            moment = list(group)
            if at == pending[-1].at:
                self._held = moment  # there may be more of this moment
            else:
                self._take(at, moment)

    def finish(self) -> None:
        """There are no more."""
        if self._held:
            moment, self._held = self._held, []
            self._take(moment[0].at, moment)

    def _take(self, at: int, moment: Sequence[Tally]) -> None:
        for tally in moment:
            cell = self._cells[tally.gate_epoch].setdefault((tally.phase, tally.stratum), [0, 0])
            cell[0] += tally.started
            cell[1] += tally.failed
            self._started += tally.started
            self._failed += tally.failed
            if self.halt is None:
                self._by_stratum[tally.stratum] += tally.started
        for watched in self._watched:
            if at <= watched:
                self._watched[watched] = Exposure(self._started, self._failed)
        ended = self._course.ended_at
        if self.halt is None and any(tally.failed for tally in moment) and (ended is None or at < ended):
            self._judge(at)

    def _judge(self, at: int) -> None:
        epoch = self._epochs.at(at)
        cells = [Cell(phase, stratum, n, f) for (phase, stratum), (n, f) in self._cells[epoch].items()]
        alone = {stratum for stratum, _, _ in self._alone}
        judged = judge(self._tables, cells, alone, self._course.strata)
        for verdict in judged.strata:
            stratum = verdict.scope_key.removeprefix("stratum/")
            self._alone.append((stratum, self._would(at, epoch, verdict), self._by_stratum[stratum]))
        if judged.campaign is not None:
            self.halt = self._would(at, epoch, judged.campaign)

    def _would(self, at: int, epoch: int, verdict: HaltVerdict) -> WouldHalt:
        phase = self._phases.at(at)
        return WouldHalt(
            at=at,
            phase=None if phase < 0 else phase,
            gate_epoch=epoch,
            rule=verdict.rule,
            scope=verdict.scope_key,
            n=verdict.n,
            f=verdict.f,
            bound=verdict.f_star,
            log_e=verdict.log_e,
            p0=verdict.p0,
            alpha=verdict.alpha,
            reason=verdict.detail,
            exposed=self._started,
            failures=self._failed,
        )

    @property
    def strata(self) -> list[StratumWouldHalt]:
        """Strata that would have been halted alone before the campaign's halt, in that order."""
        return [
            StratumWouldHalt(stratum=stratum, halt=halt, started_after=self._by_stratum[stratum] - started)
            for stratum, halt, started in self._alone
        ]

    @property
    def total(self) -> Exposure:
        """All that was told, whatever the policy said of it."""
        return Exposure(self._started, self._failed)

    def exposure(self, moment: int) -> Exposure:
        """What had been recorded up to a watched moment, that moment included."""
        return self._watched[moment]
