"""The halt rule as a table of integers, frozen in a campaign's dossier.

A halt compares integers only, so it comes out the same on every machine and in every rebuild. The table holds, for
every count of failures, the *horizon*: the largest number of started devices among which so many failures halt. It
has one entry per failure (20,681 for a million devices at 2 %) where a table over devices would have a million.

Horizons never fall as failures are added. The last entry is the number of devices the table was made for, or 0 when
no count of failures can halt so few devices.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from math import log

from orchestrator.domain.sequential import log_e_harm
from orchestrator.errors import OtaError


class BoundaryExceededError(OtaError):
    """More devices started than the halt table was made for."""

    code = "gate.boundary.exceeded"
    status = 500
    remedy = "Abort the campaign and submit it again: its dossier does not describe the cohort that runs."


def halt_horizons(p0: float, alpha: float, min_failures: int, max_devices: int) -> tuple[int, ...]:
    """Entry ``f``: the largest ``n <= max_devices`` at which ``f`` failures halt, 0 where they never do.

    Args:
        p0: highest acceptable failure rate.
        alpha: probability of a false halt of this one process, over its whole life.
        min_failures: fewer failures than this never halt; a guard, which leaves ``alpha`` intact.
        max_devices: the table ends with the first entry that reaches this many.
    """
    limit = -log(alpha)
    horizons: list[int] = []
    previous, stride = 0, 1
    for failures in range(max_devices + 1):
        if failures < max(1, min_failures) or log_e_harm(failures, failures, p0) < limit:
            horizons.append(0)
            continue
        # One more failure only raises E: what halted before halts now.
        low = max(previous, failures)
        horizon = _last_halting(failures, p0, limit, low=low, stride=stride, end=max_devices)
        horizons.append(horizon)
        if horizon == max_devices:
            break
        if previous:
            stride = horizon - previous
        previous = horizon
    return tuple(horizons)


def f_star(horizons: Sequence[int], n: int) -> int | None:
    """Fewest failures that halt among ``n`` started devices; None where even ``n`` failures do not.

    Raises:
        BoundaryExceededError: the table was made for fewer than ``n`` devices.
    """
    if n <= 0 or not horizons[-1]:
        return None
    if n > horizons[-1]:
        raise BoundaryExceededError(f"{n} devices started, but the halt table ends at {horizons[-1]}.")
    needed = bisect_left(horizons, n)
    return needed if needed <= n else None


def crosses(horizons: Sequence[int], n: int, f: int) -> bool:
    """Whether ``f`` failures among ``n`` started devices halt."""
    needed = f_star(horizons, n)
    return needed is not None and f >= needed


def _last_halting(failures: int, p0: float, limit: float, *, low: int, stride: int, end: int) -> int:
    """Largest ``n`` in ``[low, end]`` with enough evidence, knowing that ``low`` has it.

    Horizons grow almost evenly, so the first step is a little shorter than the last stride and most entries cost about
    three evaluations.
    """

    def halts(devices: int) -> bool:
        return log_e_harm(failures, devices, p0) >= limit

    high = end + 1
    step, following = max(1, stride - 1), 1
    while low + step < high:
        if halts(low + step):
            low, step, following = low + step, following, 2 * following
        else:
            high = low + step
    while high - low > 1:
        middle = (low + high) // 2
        if halts(middle):
            low = middle
        else:
            high = middle
    return low
