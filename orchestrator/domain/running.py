"""Running time: time with the breaker's pauses left out.

Offers and started devices have their time in which the way between them and us works. A pause is an interval that the log of
decisions names, so the same records give the same deadlines at any later look.

Not here: when a pause begins and ends (:mod:`orchestrator.domain.breaker`).
"""

from __future__ import annotations

from typing import Final

Pauses = tuple[tuple[int, int], ...]
"""``(from, until)`` in ms, in order and without overlap; ``until`` is :data:`FOREVER` of one that has not ended."""

FOREVER: Final = 2**62
"""In place of a moment that is not known yet, ms."""


def paused(pauses: Pauses, at: int) -> bool:
    """Whether time stands still at that moment (ms)."""
    return any(begin <= at < end for begin, end in pauses)


def elapsed(pauses: Pauses, start: int, now: int) -> int:
    """Running time from ``start`` to ``now``, ms; zero if ``now`` is earlier."""
    left_out = sum(max(0, min(end, now) - max(begin, start)) for begin, end in pauses)
    return max(0, now - start - left_out)


def deadline(pauses: Pauses, start: int, duration: int) -> int:
    """The first moment at which ``duration`` ms of running time have passed since ``start``; beyond FOREVER while a pause lasts."""
    at, left = start, duration
    for begin, end in pauses:
        if end <= at:
            continue
        if at + left <= begin:
            break
        left -= max(0, begin - at)
        at = end
    return at + left


def cut(pauses: Pauses, now: int, duration: int) -> int:
    """The last moment since which at least ``duration`` ms of running time have passed until ``now``."""
    at, left = now, duration
    for begin, end in reversed(pauses):
        if begin >= at:
            continue
        if at - left >= end:
            break
        left -= max(0, at - end)
        at = begin
    return at - left
