"""One simulated campaign: devices start at a steady rate under an in-flight cap and resolve after random delays."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf
from typing import Literal

from tests.bench.policies.policy import DEADLINE, PER_MINUTE, SOAK, Policy


@dataclass(frozen=True, slots=True)
class Release:
    """A release to try.

    Attributes:
        p: its failure rate.
        fail_minutes: mean of the exponential time to a failure; 0 for one whose failures are silence, known at the deadline.
    """

    p: float
    fail_minutes: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a campaign ended: ``held`` means that nothing is under way and its gate waits for evidence, so for people."""

    end: Literal["completed", "halted", "held"]
    started: int
    failures: int
    minutes: float


def campaign(policy: Policy, release: Release, cap: int, rng: random.Random) -> Outcome:
    """Run one campaign to its end.

    One loop over the next of three things: a start, a resolution, a device that matures. Kept in one function because it runs ten
    million times.
    """
    draw, p = rng.random, release.p
    fail_rate = 1.0 / release.fail_minutes if release.fail_minutes else 0.0
    campaign_bound, phase_bound, naive = policy.campaign, policy.phase, policy.naive
    gap = 1.0 / PER_MINUTE
    pending: list[tuple[float, int, bool]] = []  # when, phase, failed
    now, tokens_at = 0.0, 0.0
    started = failures = done = 0
    for number, phase in enumerate(policy.phases):
        left, own_started, own_failures = phase.size, 0, 0
        maturing: deque[tuple[float, bool]] = deque()  # when, good
        matured = matured_bad = 0
        emptied = inf
        while True:
            at = pending[0][0] if pending else inf
            ripe = maturing[0][0] if maturing else inf
            start = max(now, tokens_at) if left and len(pending) < cap else inf
            if start <= at and start <= ripe and start < inf:
                now = start
                tokens_at = start + gap
                left -= 1
                started += 1
                own_started += 1
                failed = draw() < p
                if failed:
                    delay = min(rng.expovariate(fail_rate), DEADLINE) if fail_rate else DEADLINE
                else:
                    delay = 20.0 + rng.expovariate(0.05)
                    if delay >= DEADLINE:
                        delay, failed = DEADLINE, True
                heappush(pending, (now + delay, number, failed))
                if phase.promotes:
                    maturing.append((now + DEADLINE, not failed))
                if not left:
                    emptied = now
                continue
            if at <= ripe and at < inf:
                now, of, failed = heappop(pending)
                done += 1
                if failed:
                    failures += 1
                    if of == number:
                        own_failures += 1
                    if failures >= campaign_bound[started] or own_failures >= phase_bound[own_started]:
                        return Outcome("halted", started, failures, now)
                    if naive and done >= naive[1] and failures >= naive[0] * done:
                        return Outcome("halted", started, failures, now)
                elif naive and done == naive[1] and failures >= naive[0] * done:
                    return Outcome("halted", started, failures, now)
            elif ripe < inf:
                now = ripe
                matured += 1
                matured_bad += not maturing.popleft()[1]
            elif phase.promotes:
                break
            if left:
                continue
            if phase.promotes:
                if now >= emptied + SOAK and _promotes(phase.promotes, matured, matured_bad):
                    break
            elif not pending:
                now = max(now, emptied + SOAK)
                break
        if phase.promotes and not _promotes(phase.promotes, matured, matured_bad):
            return Outcome("held", started, failures, now)
    return Outcome("completed", started, failures, now)


def _promotes(needed: tuple[int, ...], matured: int, bad: int) -> bool:
    return bad < len(needed) and matured >= needed[bad]
