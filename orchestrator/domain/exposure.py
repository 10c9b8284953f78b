"""Events per exposure: evidence that devices crash more often than a rate that is acceptable, from N events in T hours.

With ``m = rate * T``, the events that would just be acceptable, and ``r`` the true rate as a multiple of the acceptable one, the
likelihood ratio of ``r`` is ``r^N exp(-m (r - 1))``: an e-process for every ``r >= 1`` while the true rate is acceptable. Mixed over
``r = 1 + s`` with the density ``exp(-s/2) / 2`` (which favours moderate harm and excludes none) they are an e-process again::

    E = 1/2 * integral over r >= 1 of r^N exp(-(m + 1/2)(r - 1)) = 1/2 * Gamma(N + 1, x) e^x x^-(N + 1),    x = m + 1/2

So E rises with every event and falls with exposure: only an event can make it cross, and it may be looked at as often as one likes.

Not here: which events and which exposure count (:mod:`orchestrator.domain.health_rule`).
"""

from __future__ import annotations

from math import exp, lgamma, log, log1p
from typing import Final

from orchestrator.domain.sequential import MAX_TERMS, NotConvergedError

PRIOR: Final = 0.5
"""Rate of the mixture's density over the excess ``r - 1``: on average three times the acceptable rate."""

HOUR_MS: Final = 3_600_000

_EPSILON: Final = 1e-14
_TINY: Final = 1e-300


def log_e_exposure(events: int, exposure_ms: int, per_hour: float) -> float:
    """Evidence against "at most ``per_hour`` events an hour", from ``events`` in ``exposure_ms`` of device time.

    Raises:
        NotConvergedError: the incomplete gamma function did not converge.
        ValueError: the counts or the rate make no sense.
    """
    if events < 0 or exposure_ms < 0 or not per_hour > 0.0:
        raise ValueError(f"need counts and a rate above 0, got {events} in {exposure_ms} ms at {per_hour}")
    return log(PRIOR) + log_upper_gamma(events + 1, per_hour * exposure_ms / HOUR_MS + PRIOR)


def events_to_halt(exposure_ms: int, per_hour: float, alpha: float, min_events: int) -> int:
    """Fewest events that halt in so much exposure."""
    limit = -log(alpha)

    def halts(events: int) -> bool:
        return log_e_exposure(events, exposure_ms, per_hour) >= limit

    low, step = 0, 1
    while not halts(low + step):
        low += step
        step *= 2
    high = low + step
    while high - low > 1:
        middle = (low + high) // 2
        if halts(middle):
            high = middle
        else:
            low = middle
    return max(high, min_events)


def log_upper_gamma(a: float, x: float) -> float:
    """Log of the upper incomplete gamma function without its front, ``Gamma(a, x) e^x x^-a``, for a >= 1 and x > 0.

    The front is left out because it cancels in the evidence; with it, a million events would leave six digits.

    Raises:
        NotConvergedError: series or continued fraction did not settle within ``MAX_TERMS`` terms.
    """
    if x < a + 1.0:
        # Gamma(a, x) = Gamma(a) (1 - P(a, x)); P is at most about 0.7 here, so nothing cancels.
        front = lgamma(a) + x - a * log(x)
        return front + log1p(-exp(log(_lower_series(a, x)) - front))
    return log(_upper_fraction(a, x))


def _lower_series(a: float, x: float) -> float:
    """``gamma(a, x) e^x x^-a``: all its terms are positive."""
    term = total = 1.0 / a
    for k in range(1, MAX_TERMS):
        term *= x / (a + k)
        total += term
        if term < total * _EPSILON:
            return total
    raise NotConvergedError(f"The incomplete gamma series did not converge: a={a} x={x}.")


def _upper_fraction(a: float, x: float) -> float:
    """Continued fraction of ``Gamma(a, x) e^x x^-a`` (modified Lentz, Numerical Recipes 6.2)."""
    b = x + 1.0 - a
    c = 1.0 / _TINY
    d = 1.0 / b
    value = d
    for k in range(1, MAX_TERMS):
        term = -k * (k - a)
        b += 2.0
        d = 1.0 / _away_from_zero(term * d + b)
        c = _away_from_zero(b + term / c)
        value *= d * c
        if abs(d * c - 1.0) < _EPSILON:
            return value
    raise NotConvergedError(f"The incomplete gamma fraction did not converge: a={a} x={x}.")


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
