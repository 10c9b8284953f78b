"""Canary against holdback: evidence that devices of a campaign fail more often than those held back from it.

No rate is assumed: what hits the whole fleet hits both arms and says nothing. A *cell* is a stratum in a span of time in which both
arms were watched; ``rho`` is the treated arm's share of the exposure in it. While the treated fail no more often than the held-back
ones of the same stratum at the same time, each failure of the cell is a treated device's with probability at most ``rho``.

If the treated failed ``r`` times as often, that probability would be ``q = r rho / (1 + rho (r - 1))``. The ratio of the two is
``1 + lambda (X - rho)`` for a failure, with ``lambda = (r - 1) / (1 + rho (r - 1))`` fixed by the cell's exposures before any failure
of it is looked at, so for every ``r > 1`` the product over all failures, ``r^K / prod (1 + rho (r - 1))``, K of them treated, is an
e-process; and so is the mean over a few ``r``. It depends on sums alone: the order of the cells does not matter.

Not here: who is treated, and what a failure is (:mod:`orchestrator.domain.health_rule`).
"""

from __future__ import annotations

from collections.abc import Iterable
from math import exp, log, log1p
from typing import Final

import msgspec

RATIOS: Final = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
"""How many times as often the treated may fail: the mixture has equal shares of these. Between them little is lost."""


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """What the cells of a stratum add up to."""

    treated: int = 0
    """Failures of treated devices, in cells in which both arms were watched."""
    failures: int = 0
    """All failures in those cells."""
    expected: float = 0.0
    """Sum of ``rho`` over the failures: how many would be treated if the arms were alike."""
    costs: tuple[float, ...] = (0.0,) * len(RATIOS)
    """Sum of ``log(1 + rho (r - 1))`` over the failures, by ratio."""


def scored(score: Score, treated: int, held: int, treated_ms: int, held_ms: int) -> Score:
    """The score after one more cell: failures and exposure (ms) of both arms. A cell without one of the arms says nothing."""
    if min(treated, held, treated_ms, held_ms) < 0:
        raise ValueError(f"need counts, got {treated} and {held} in {treated_ms} and {held_ms} ms")
    failures = treated + held
    if not failures or not treated_ms or not held_ms:
        return score
    rho = treated_ms / (treated_ms + held_ms)
    return Score(
        treated=score.treated + treated,
        failures=score.failures + failures,
        expected=score.expected + failures * rho,
        costs=tuple(
            cost + failures * log1p(rho * (ratio - 1.0)) for cost, ratio in zip(score.costs, RATIOS, strict=True)
        ),
    )


def total(scores: Iterable[Score]) -> Score:
    """The score of several strata."""
    whole = Score()
    for score in scores:
        whole = Score(
            treated=whole.treated + score.treated,
            failures=whole.failures + score.failures,
            expected=whole.expected + score.expected,
            costs=tuple(one + other for one, other in zip(whole.costs, score.costs, strict=True)),
        )
    return whole


def log_e_versus(score: Score) -> float:
    """Evidence against "the treated fail at most as often as those held back"."""
    logs = [score.treated * log(ratio) - cost for ratio, cost in zip(RATIOS, score.costs, strict=True)]
    top = max(logs)
    return top + log(sum(exp(each - top) for each in logs) / len(logs))


def failures_to_halt(rho: float, alpha: float) -> int:
    """Fewest failures that halt if all of them are treated, at a share of exposure ``rho`` below 1.

    It is the floor of the rule's delay: with a small holdback many failures are needed, because most would be treated anyway.
    """
    limit = -log(alpha)

    def halts(failures: int) -> bool:
        costs = tuple(failures * log1p(rho * (ratio - 1.0)) for ratio in RATIOS)
        return log_e_versus(Score(treated=failures, failures=failures, costs=costs)) >= limit

    low, high = 0, 1
    while not halts(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if halts(middle):
            high = middle
        else:
            low = middle
    return high
