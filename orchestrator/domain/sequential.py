"""Anytime-valid tests of a failure rate: the evidence that halts and promotes a campaign.

Every test returns ``log E`` of an e-process: a non-negative process whose mean is at most 1 while its hypothesis
holds. By Ville's inequality (1939) the chance that it *ever* reaches ``1 / error`` is then at most ``error``, so a
gate may look after every event, and a campaign may be paused, slowed or extended at will, without spending more of
its error. The processes are Beta mixtures (Robbins 1970) truncated to the side of the limit that is tested for.

Invariants that callers rely on:

* ``log_e_harm`` rises with ``failures`` and falls with ``devices``: only a failure can make it cross.
* ``log_e_safe`` falls with ``failures`` and rises with ``devices``: only a success can make it cross.
* Everything is computed in logs; E itself overflows a double at ``log E = 709``.

Not done here: which failures count, which devices have started or matured, what the limits are. ``lgamma`` belongs
to the platform, so the last bits may differ between machines: verdicts compare integers
(:mod:`orchestrator.domain.boundary`).
"""

from __future__ import annotations

from functools import lru_cache
from math import exp, inf, lgamma, log, log1p
from typing import Final

from orchestrator.errors import OtaError

PRIOR: Final = 0.5
"""Both parameters of the Beta mixture: Jeffreys' prior, which favours no rate over another."""

MAX_TERMS: Final = 20_000
"""Terms of the continued fraction; it takes about sqrt(n) near the mean: 218 at 10^6 devices, 923 at 10^7."""

_EPSILON: Final = 1e-14
_TINY: Final = 1e-300
_BISECTIONS: Final = 100


class NotConvergedError(OtaError):
    """A special function did not converge, so there is no number to decide on."""

    code = "statistics.not_converged"
    status = 500
    remedy = "Report the counts and the rates in the message; the gate holds until they change."


def log_e_harm(failures: int, devices: int, p0: float) -> float:
    """Evidence against "the failure rate is at most ``p0``", from ``failures`` among ``devices`` started.

    Raises:
        NotConvergedError: the incomplete beta function did not converge.
        ValueError: the counts or the rate make no sense.
    """
    _check(failures, devices, p0)
    good = devices - failures
    return (
        _log_beta(PRIOR + failures, PRIOR + good)
        # Never 1 - I_{p0}(...): that is exactly 0 once the observed rate has fallen well below p0.
        + log_beta_inc(PRIOR + good, PRIOR + failures, 1.0 - p0)
        - _harm_normaliser(p0)
        - failures * log(p0)
        - good * log1p(-p0)
    )


def log_e_safe(failures: int, devices: int, p1: float) -> float:
    """Evidence against "the failure rate is at least ``p1``", from ``failures`` among ``devices`` matured.

    Raises:
        NotConvergedError: the incomplete beta function did not converge.
        ValueError: the counts or the rate make no sense.
    """
    _check(failures, devices, p1)
    good = devices - failures
    return (
        _log_beta(PRIOR + failures, PRIOR + good)
        + log_beta_inc(PRIOR + failures, PRIOR + good, p1)
        - _safe_normaliser(p1)
        - failures * log(p1)
        - good * log1p(-p1)
    )


def confidence_sequence(failures: int, devices: int, alpha: float) -> tuple[float, float]:
    """Interval that holds the true rate at all times at once with probability ``1 - alpha``; for display."""
    _check(failures, devices, alpha)
    if devices == 0:
        return 0.0, 1.0
    good = devices - failures
    limit = -log(alpha)
    base = _log_beta(PRIOR + failures, PRIOR + good) - _log_beta(PRIOR, PRIOR)

    def edge(outside: float, inside: float) -> float:
        for _ in range(_BISECTIONS):
            middle = (outside + inside) / 2.0
            if base - failures * log(middle) - good * log1p(-middle) > limit:
                outside = middle
            else:
                inside = middle
        return inside

    observed = failures / devices
    low = 0.0 if failures == 0 else edge(1e-15, observed)
    high = 1.0 if good == 0 else edge(1.0 - 1e-15, observed)
    return low, high


def devices_to_promote(failures: int, p1: float, beta: float) -> int:
    """Fewest matured devices that promote with so many failures among them."""
    limit = -log(beta)

    def promotes(devices: int) -> bool:
        return log_e_safe(failures, devices, p1) >= limit

    low, step = failures, 1
    while not promotes(low + step):
        low += step
        step *= 2
    high = low + step
    while high - low > 1:
        middle = (low + high) // 2
        if promotes(middle):
            high = middle
        else:
            low = middle
    return high


@lru_cache(maxsize=256)
def clean_devices_needed(p1: float, beta: float) -> int:
    """Fewest matured devices that promote without a single failure: the floor for a phase's size."""
    return devices_to_promote(0, p1, beta)


def log_beta_inc(a: float, b: float, x: float) -> float:
    """Log of the regularised incomplete beta function ``I_x(a, b)``, accurate in the lower tail.

    Raises:
        NotConvergedError: the continued fraction did not settle within :data:`MAX_TERMS`.
    """
    if x <= 0.0:
        return -inf
    if x >= 1.0:
        return 0.0
    front = a * log(x) + b * log1p(-x) - _log_beta(a, b)
    if x < (a + 1.0) / (a + b + 2.0):
        return front + log(_beta_fraction(a, b, x) / a)
    complement = front + log(_beta_fraction(b, a, 1.0 - x) / b)
    return log1p(-exp(complement)) if complement < 0.0 else -inf


@lru_cache(maxsize=256)
def _harm_normaliser(p0: float) -> float:
    return _log_beta(PRIOR, PRIOR) + log_beta_inc(PRIOR, PRIOR, 1.0 - p0)


@lru_cache(maxsize=256)
def _safe_normaliser(p1: float) -> float:
    return _log_beta(PRIOR, PRIOR) + log_beta_inc(PRIOR, PRIOR, p1)


def _check(failures: int, devices: int, rate: float) -> None:
    if not 0 <= failures <= devices:
        raise ValueError(f"need 0 <= failures <= devices, got {failures} of {devices}")
    if not 0.0 < rate < 1.0:
        raise ValueError(f"a rate lies strictly between 0 and 1, got {rate}")


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def _beta_fraction(a: float, b: float, x: float) -> float:
    """Continued fraction of the incomplete beta function (modified Lentz, Numerical Recipes 6.4)."""
    c = 1.0
    d = 1.0 / _away_from_zero(1.0 - (a + b) * x / (a + 1.0))
    value = d
    for m in range(1, MAX_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1.0 / _away_from_zero(1.0 + even * d)
        c = _away_from_zero(1.0 + even / c)
        value *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1.0 / _away_from_zero(1.0 + odd * d)
        c = _away_from_zero(1.0 + odd / c)
        value *= d * c
        if abs(d * c - 1.0) < _EPSILON:
            return value
    raise NotConvergedError(f"The incomplete beta function did not converge: a={a} b={b} x={x}.")
