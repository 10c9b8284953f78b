"""The gate: halt, promote or hold, as a pure function of integers.

Halting compares failures *observed so far* with devices *started so far*; promoting looks only at *matured* devices
(started at least one confirm deadline ago), where silence is failure. Whatever is neither is hold: missing data is
no verdict on a release. Adding a failure never turns a halt into anything else.

Not done here: counting (callers read n and f of one snapshot), remembering (a halt is sticky because the campaign
is), and acting. The order of the reasons to hold is part of the contract: the first one that applies is the one
that is shown.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import log

from orchestrator.domain.boundary import f_star
from orchestrator.domain.halt_rule import HaltTable
from orchestrator.domain.sequential import NotConvergedError, devices_to_promote, log_e_harm, log_e_safe


class Verdict(StrEnum):
    """What a gate says."""

    HALT = "halt"
    PROMOTE = "promote"
    HOLD = "hold"


class Hold(StrEnum):
    """Why a gate keeps watching, in the order in which the reasons are asked for."""

    STALE = "stale"
    INFRASTRUCTURE = "infrastructure"
    SOAK = "soak"
    APPROVAL = "approval"
    EXTERNAL = "external"
    EVIDENCE = "evidence"


@dataclass(frozen=True, slots=True)
class Cell:
    """Counters of one phase and stratum in the running gate epoch: devices started, release failures among them."""

    phase: int
    stratum: str
    n: int
    f: int


@dataclass(frozen=True, slots=True)
class RuleCount:
    """The counts that one process of a halt rule sees."""

    table: HaltTable
    scope_key: str
    n: int
    f: int

    def __post_init__(self) -> None:
        _check_counts(self.n, self.f)


@dataclass(frozen=True, slots=True)
class HaltVerdict:
    """A rule that crossed, with everything needed to say why.

    ``log_e`` and ``limit`` are for display (it crosses where ``log_e >= limit``); the verdict itself compared ``f``
    with ``f_star``. ``log_e`` is None where it cannot be computed: a halt never waits for a number that is only
    shown. A threshold has no ``log_e``, ``limit`` and ``alpha``; its ``p0`` is the share that halts.
    """

    rule: str
    scope: str
    scope_key: str
    n: int
    f: int
    f_star: int
    log_e: float | None
    limit: float | None
    p0: float
    alpha: float | None

    @property
    def detail(self) -> str:
        """The reason as a sentence."""
        rate = f"acceptable rate {self.p0:g}" if self.alpha is not None else f"a share of {self.p0:g}"
        return (
            f"{self.f} of {self.n} started devices failed in {self.scope_key}; rule '{self.rule}' halts from "
            f"{self.f_star} failures on ({rate})."
        )


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """Whether a phase promotes. ``log_e`` and ``limit`` are None for a phase without a promote test."""

    verdict: Verdict
    reason: Hold | None
    n: int
    f: int
    log_e: float | None
    limit: float | None
    detail: str


@dataclass(frozen=True, slots=True)
class Suspect:
    """A stratum with failures, and the evidence that its own failure rate is above p0."""

    stratum: str
    n: int
    f: int
    log_e: float


def scope_key(scope: str, phase: int, stratum: str) -> str:
    """Names the process of a rule that a device counts in: ``campaign``, ``phase/0`` or ``stratum/<key>``."""
    match scope:
        case "campaign":
            return "campaign"
        case "phase":
            return f"phase/{phase}"
        case "stratum":
            return f"stratum/{stratum}"
        case _:
            raise ValueError(f"no such scope: {scope}")


def tally(tables: Sequence[HaltTable], cells: Iterable[Cell]) -> list[RuleCount]:
    """Sum the counters up for every process of every rule, in the order of the rules."""
    counters = list(cells)
    counts: list[RuleCount] = []
    for table in tables:
        sums: dict[str, tuple[int, int]] = {}
        for cell in counters:
            key = scope_key(table.scope, cell.phase, cell.stratum)
            n, f = sums.get(key, (0, 0))
            sums[key] = n + cell.n, f + cell.f
        counts.extend(RuleCount(table, key, n, f) for key, (n, f) in sorted(sums.items()))
    return counts


def evaluate_halt(counts: Iterable[RuleCount]) -> HaltVerdict | None:
    """The first process that halts the campaign, in the order given; None if none does.

    Raises:
        BoundaryExceededError: more devices started than a rule's table was made for.
    """
    for count in counts:
        if count.table.halts == "campaign":
            needed = _needed(count.table.horizons, count)
            if needed is not None:
                return _verdict(count, needed, count.table.alpha)
    return None


def evaluate_strata(counts: Sequence[RuleCount]) -> list[HaltVerdict]:
    """The strata that rules which halt single strata halt now, by e-BH over all strata of a rule.

    Of m strata the k most incriminated halt, k the largest number such that k of them reach ``m / (alpha k)``. A
    stratum that has halted stays in the count, so that what halted before never keeps another one from halting.

    Raises:
        BoundaryExceededError: more devices started than a rule's table was made for.
    """
    halted: list[HaltVerdict] = []
    for name in dict.fromkeys(count.table.name for count in counts if count.table.halts == "stratum"):
        own = [count for count in counts if count.table.name == name]
        table = own[0].table
        for k in range(table.processes, 0, -1):
            horizons = table.horizons if k == 1 else table.levels[k - 2]
            crossed = [(count, needed) for count in own if (needed := _needed(horizons, count)) is not None]
            if len(crossed) >= k:
                alpha = None if table.alpha is None else table.alpha * k
                halted.extend(_verdict(count, needed, alpha) for count, needed in crossed)
                break
    return halted


@dataclass(frozen=True, slots=True)
class Judgement:
    """What all halt rules of a campaign say together: strata to halt alone, and whether the campaign halts."""

    campaign: HaltVerdict | None
    strata: tuple[HaltVerdict, ...]
    counts: tuple[RuleCount, ...]
    """What every process saw."""


def judge(
    tables: Sequence[HaltTable], cells: Sequence[Cell], halted: Collection[str], strata: Collection[str]
) -> Judgement:
    """Evaluate every halt rule. Strata come first, as if the failures were heard of one by one.

    A stratum that was halted alone no longer speaks for the release in the others: rules that halt the campaign run as
    if they had counted the others from the start, so their error is theirs over the others. When no stratum is left
    that could go on, the campaign halts instead.

    Args:
        tables: the rules.
        cells: counters of one snapshot.
        halted: strata that were halted alone before.
        strata: all strata that have devices.
    """
    single = [count for table in tables if table.halts == "stratum" for count in tally([table], cells)]
    found = [each for each in evaluate_strata(single) if _stratum(each) not in halted]
    stopped = {*halted, *map(_stratum, found)}
    rest = [cell for cell in cells if cell.stratum not in stopped]
    whole = [count for table in tables if table.halts == "campaign" for count in tally([table], rest)]
    verdict = evaluate_halt(whole)
    if found and verdict is None and stopped.issuperset(strata):
        verdict, found = found[0], []
    return Judgement(verdict, tuple(found), (*single, *whole))


def _stratum(verdict: HaltVerdict) -> str:
    return verdict.scope_key.removeprefix("stratum/")


def _needed(horizons: Sequence[int], count: RuleCount) -> int | None:
    """Failures that halt so many devices, if there are as many."""
    crossing = f_star(horizons, count.n)
    if crossing is None:
        return None
    needed = max(crossing, count.table.min_failures)
    return needed if count.f >= needed else None


def _verdict(count: RuleCount, needed: int, alpha: float | None) -> HaltVerdict:
    table = count.table
    return HaltVerdict(
        rule=table.name,
        scope=table.scope,
        scope_key=count.scope_key,
        n=count.n,
        f=count.f,
        f_star=needed,
        log_e=None if alpha is None else _shown(count.f, count.n, table.p0),
        limit=None if alpha is None else -log(alpha),
        p0=table.p0,
        alpha=alpha,
    )


def soak_goal(asked: int | None, matured: int, outstanding: int) -> int:
    """Matured devices that a soak waits for: as many as asked for, or all that the phase has, if fewer.

    Args:
        asked: by the plan; None if the soak is only a time.
        matured: devices of the phase that have matured.
        outstanding: those that may still: waiting, offered, or started less than a confirm deadline ago.
    """
    return 0 if asked is None else min(asked, matured + outstanding)


def evaluate_promote(
    matured_n: int,
    matured_f: int,
    p1: float | None,
    beta: float | None,
    *,
    soaked: bool,
    approval_missing: bool,
    stale: bool,
    strata_covered: bool,
    breaker_open: bool = False,
    soak_devices: int = 0,
    external_missing: str = "",
) -> GateVerdict:
    """Whether the phase promotes now. Halt rules are asked before this, always.

    Args:
        matured_n: matured devices of this phase.
        matured_f: those of them that failed or did not confirm by their deadline.
        p1: rate to rule out; None (with ``beta``) for a phase without a promote test.
        beta: error of the test.
        soaked: the phase's soak is over.
        approval_missing: the phase waits for people.
        stale: facts lag behind by more than the limit, or there are none.
        strata_covered: every stratum that this phase has devices of has a matured one.
        breaker_open: infrastructure trouble holds offers.
        soak_devices: matured devices that the soak still waits for in all; 0 once they were there.
        external_missing: what an external gate is waited for, as a sentence; empty if none is.

    Raises:
        NotConvergedError: the evidence could not be computed; nothing is promoted.
    """
    _check_counts(matured_n, matured_f)
    log_e = None if p1 is None else log_e_safe(matured_f, matured_n, p1)
    limit = None if beta is None else -log(beta)

    def hold(reason: Hold, detail: str) -> GateVerdict:
        return GateVerdict(Verdict.HOLD, reason, matured_n, matured_f, log_e, limit, detail)

    def promote(detail: str) -> GateVerdict:
        return GateVerdict(Verdict.PROMOTE, None, matured_n, matured_f, log_e, limit, detail)

    if stale:
        return hold(Hold.STALE, "Facts from devices are too old to decide on.")
    if breaker_open:
        return hold(Hold.INFRASTRUCTURE, "Infrastructure trouble holds offers; the release is not blamed.")
    if not soaked:
        return hold(Hold.SOAK, "The phase is still soaking.")
    if matured_n < soak_devices:
        return hold(Hold.SOAK, f"The phase is still soaking: {matured_n} of {soak_devices} devices have matured.")
    if approval_missing:
        return hold(Hold.APPROVAL, "The phase waits for an approval.")
    if external_missing:
        return hold(Hold.EXTERNAL, external_missing)
    if not strata_covered:
        return hold(Hold.EVIDENCE, "Some strata of this phase have no matured device yet.")
    counted = f"{matured_f} of {matured_n} matured devices failed"
    if p1 is None or beta is None or log_e is None or limit is None:
        return promote(f"{counted}; the phase has no promote test.")
    if log_e >= limit:
        return promote(f"{counted}; a failure rate of {p1:g} is ruled out.")
    needed = devices_to_promote(matured_f, p1, beta)
    return hold(
        Hold.EVIDENCE,
        f"{counted}; ruling out a failure rate of {p1:g} takes {needed} matured devices if no more fail.",
    )


def suspects(strata: Mapping[str, tuple[int, int]], p0: float) -> list[Suspect]:
    """Strata with failures, the most incriminated first: names the hardware revision that a halt is about.

    Args:
        strata: (devices started, release failures) by stratum.
        p0: highest acceptable failure rate.
    """
    found = [Suspect(key, n, f, log_e_harm(f, n, p0)) for key, (n, f) in strata.items() if f]
    return sorted(found, key=lambda suspect: (-suspect.log_e, suspect.stratum))


def _check_counts(n: int, f: int) -> None:
    # An n that is older than f would inflate E: such counts are a defect, not evidence.
    if not 0 <= f <= n:
        raise ValueError(f"need 0 <= f <= n of one snapshot, got {f} failures among {n} devices")


def _shown(failures: int, devices: int, p0: float) -> float | None:
    try:
        return log_e_harm(failures, devices, p0)
    except NotConvergedError:
        return None
