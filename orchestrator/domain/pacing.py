"""How fast offers go out: the in-flight cap, a token bucket, the grant that obeys both, and the spread of starts.

The in-flight cap is part of the statistical test, not a courtesy: it bounds how many devices can fail before the
gate can act (:mod:`orchestrator.domain.blast`). The rate is a courtesy to networks. All arithmetic is on integers,
so a bucket that is stored and read back grants the same.

Not here: what a plan says of these (:mod:`orchestrator.domain.plan`) and who may slow it down (:mod:`orchestrator.domain.brake`).
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

BURST_MS: Final = 10_000
"""How long an idle bucket saves up, in milliseconds: several pauses between two slices, far less than a phase."""

_MINUTE_MS: Final = 60_000
_MAX_DOUBLINGS: Final = 62


@dataclass(frozen=True, slots=True)
class Bucket:
    """Tokens saved up by ``at_ms``, each worth 60,000 of ``credit``: per minute and millisecond stay whole numbers."""

    credit: int
    at_ms: int


def in_flight_cap(
    initial: int,
    maximum: int,
    promoted_phases: int,
    phase_cap: int | None = None,
    *,
    growth: int = 0,
    setbacks: int = 0,
) -> int:
    """Offers outstanding or started and not yet ended, at most.

    It doubles with each promoted phase, grows by what the open phase has confirmed, and is halved by each setback; it
    never rises with harm, never exceeds the plan, and setbacks never lower it below its start.

    Args:
        initial: the start.
        maximum: the plan's limit.
        promoted_phases: counted from the last halt, which puts the cap back to its start.
        phase_cap: the phase's own limit.
        growth: what the open phase has added (``InFlight.growth``), from 0 again after a halt.
        setbacks: times that the infrastructure gave way since the last promotion.
    """
    most = lowest(maximum, phase_cap)
    grown = min(most, (initial << min(promoted_phases, _MAX_DOUBLINGS)) + growth)
    return max(min(most, initial), grown >> setbacks)


def lowest(limit: int, *others: int | None) -> int:
    """The strictest of some limits; None is no limit."""
    return min([limit, *(other for other in others if other is not None)])


def full_bucket(per_minute: int, now_ms: int) -> Bucket:
    """The bucket of a phase that opens now."""
    return Bucket(credit=_capacity(per_minute), at_ms=now_ms)


def tokens(bucket: Bucket, per_minute: int, now_ms: int) -> int:
    """Whole tokens in the bucket now."""
    return _refilled(bucket, per_minute, now_ms).credit // _MINUTE_MS


def next_token(bucket: Bucket, per_minute: int, now_ms: int) -> int:
    """When the bucket holds a token (ms): now, if it does."""
    missing = max(0, _MINUTE_MS - _refilled(bucket, per_minute, now_ms).credit)
    return now_ms + -(-missing // per_minute)


def spend(bucket: Bucket, per_minute: int, now_ms: int, granted: int) -> Bucket:
    """The bucket after ``granted`` devices were offered now.

    Raises:
        ValueError: the bucket does not hold so many tokens.
    """
    refilled = _refilled(bucket, per_minute, now_ms)
    if not 0 <= granted * _MINUTE_MS <= refilled.credit:
        raise ValueError(f"cannot take {granted} tokens out of {refilled.credit // _MINUTE_MS}")
    return Bucket(refilled.credit - granted * _MINUTE_MS, refilled.at_ms)


def grant(*, cap: int, in_flight: int, available: int | None, slice_size: int) -> int:
    """Devices to offer in this slice.

    Args:
        cap: the in-flight cap.
        in_flight: offers outstanding or started and not yet ended.
        available: tokens in the bucket; None for a phase without a rate.
        slice_size: most devices that one transaction handles.
    """
    room = min(cap - in_flight, slice_size)
    return max(0, room if available is None else min(room, available))


def _capacity(per_minute: int) -> int:
    # One token on top: a slow rate would otherwise lose what it earns between a full token and the next slice.
    return _MINUTE_MS + per_minute * BURST_MS


def _refilled(bucket: Bucket, per_minute: int, now_ms: int) -> Bucket:
    # Transactions of several workers do not commit in the order of their clocks: time never runs backwards here.
    now = max(now_ms, bucket.at_ms)
    earned = bucket.credit + per_minute * (now - bucket.at_ms)
    return Bucket(min(earned, _capacity(per_minute)), now)


def start_offset(salt: str, device_no: int, attempt: int, jitter_ms: int) -> int:
    """Milliseconds in [0, jitter_ms) that a device waits from its offer, so that a slice does not download at once.

    The first 8 bytes of sha256(salt, NUL, device number, NUL, attempt), so each attempt has a place of its own.
    """
    digest = sha256(f"{salt}\0{device_no}\0{attempt}".encode()).digest()
    return int.from_bytes(digest[:8]) % jitter_ms


def may_start(salt: str, device_no: int, attempt: int, offered_at: int, jitter_ms: int | None, now_ms: int) -> bool:
    """Whether the wait of an offer of ``offered_at`` is over; without jitter there is none."""
    return jitter_ms is None or now_ms >= offered_at + start_offset(salt, device_no, attempt, jitter_ms)
