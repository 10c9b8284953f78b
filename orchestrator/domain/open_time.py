"""Open time: how long it takes until so much time has passed in which a campaign may offer.

Counted in whole slots, aligned to the clock: a slot is open if the schedule is open at its beginning. So the answer is off by under
one slot at each opening and closing, and never goes back when more time is asked for. Beyond :data:`MOST_SLOTS` the share of open
time so far stands for what follows.

Not here: what is done in that time (:mod:`orchestrator.domain.eta`).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from datetime import tzinfo
from typing import Final

from orchestrator.domain.window import Schedule

SLOT_MS: Final = 900_000
"""Windows are written to the minute, but they begin and end on quarters of an hour nearly always."""

MOST_SLOTS: Final = 700
"""Slots that are looked at, each some 10 us: a week without a pause, a month of nights."""


class OpenTime:
    """Open time of a schedule from ``now`` (ms) on.

    Windows of each device's own zone are not counted: there is one for every device.
    """

    def __init__(self, schedule: Schedule, zone: tzinfo, now: int) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []
        self._before: list[int] = []
        """Open time before each of them."""
        self._total = 0
        self._over = False
        self._now = at = now - now % SLOT_MS
        windows = bool(schedule.windows) and not schedule.per_device
        self._always = not (windows or schedule.freezes or schedule.start_at or schedule.end_at)
        for _ in range(0 if self._always else MOST_SLOTS):
            closed = schedule.shut(at) or (schedule.outside(at, zone) if windows else None)
            if closed is None:
                self._add(at)
                at += SLOT_MS
            elif closed.until is None:
                self._over = True
                break
            else:
                at = -(-closed.until // SLOT_MS) * SLOT_MS
        self._end = at

    def _add(self, at: int) -> None:
        if self._ends and self._ends[-1] == at:
            self._ends[-1] += SLOT_MS
        else:
            self._begins.append(at)
            self._ends.append(at + SLOT_MS)
            self._before.append(self._total)
        self._total += SLOT_MS

    def after(self, start: int, duration: int) -> int | None:
        """The moment (ms) at which ``duration`` ms of open time have passed since ``start``; None if the campaign ends before."""
        if self._always or duration <= 0:
            return start + duration
        wanted = self._passed(start) + duration
        if wanted <= self._total:
            place = bisect_right(self._before, wanted - 1) - 1
            return self._begins[place] + wanted - self._before[place]
        if self._over or not self._total:
            return None
        return self._end + (wanted - self._total) * (self._end - self._now) // self._total

    def _passed(self, at: int) -> int:
        """Open time until ``at``."""
        if at > self._end:
            return self._total + (at - self._end) * self._total // (self._end - self._now)
        place = bisect_left(self._begins, at) - 1
        return 0 if place < 0 else self._before[place] + min(at, self._ends[place]) - self._begins[place]
