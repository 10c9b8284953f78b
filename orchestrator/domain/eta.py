"""When a campaign will be done: a range from pure rules, and what the range rests on.

Three runs of one model: at best, likely, at worst. A phase lasts until its devices are offered (no faster than the rate, and than the
in-flight cap lets devices through), then until it has soaked, until enough devices have matured for its test, and, without a test and
in the last phase, until nobody is under way. How long a device takes is measured on this campaign's own confirmed devices; before
there are :data:`FEW` of them, the plan's deadlines are the worst case, nothing the best, and half of them is called likely.

Invariants
- low <= likely <= high, for every phase and for the whole.
- More devices, or a lower pace, never end earlier.
- What waits for people has no end: their phases say "at the earliest", and name whom they wait for.
- A campaign that does not run has none, and says why.

Not here: failures to come. A halt, a breaker that opens and evidence that gets worse are no part of any estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final

from msgspec import Struct

FEW: Final = 10
"""Confirmed devices from which on their times count: a median of fewer says little."""

_MINUTE_MS: Final = 60_000


class Range(Struct, frozen=True, kw_only=True):
    """At best, likely, at worst."""

    low: int
    likely: int
    high: int


class Measured(Struct, frozen=True, kw_only=True):
    """From the offer to the confirmation, over a sample of confirmed devices; ms."""

    confirmed: int = 0
    """Devices in the sample. Quantiles are of those that confirmed: whoever is still under way is not in them."""
    low: int = 0
    """A tenth took no longer."""
    median: int = 0
    high: int = 0
    """Nine tenths took no longer."""


def measured(times: Sequence[int]) -> Measured:
    """Quantiles of so many times (ms)."""
    if not times:
        return Measured()
    found, last = sorted(times), len(times) - 1
    return Measured(
        confirmed=len(found), low=found[last // 10], median=found[last // 2], high=found[-(-last * 9 // 10)]
    )


class Load(Struct, frozen=True, kw_only=True):
    """What is left of a phase."""

    phase: int
    name: str
    remaining: int
    """Devices that wait for an offer."""
    under_way: int = 0
    cap: Range
    """The in-flight cap: ``low`` is the largest, because it ends earliest."""
    per_minute: Range | None = None
    """None without a rate; ``low`` is the fastest."""
    soak: int = 0
    soak_until: int | None = None
    """Of a phase that soaks."""
    ripening: int = 0
    """Devices that have started and may still mature."""
    wanted: int = 0
    """Further matured devices that the test or the soak needs; 0 if neither does."""
    waits_for_all: bool = False
    """Nobody may be under way at its end."""
    people: tuple[str, ...] = ()
    """Whom it waits for."""


class Times(Struct, frozen=True, kw_only=True):
    """How long devices take, ms."""

    offer_ttl: int
    confirm_deadline: int
    longest: int
    """From a device's first offer to the end of its last attempt, at most."""
    sample: Measured = Measured()

    @property
    def known(self) -> bool:
        return self.sample.confirmed >= FEW


class PhaseEta(Struct, frozen=True, kw_only=True):
    """When a phase will be promoted, ms."""

    phase: int
    name: str
    remaining: int
    under_way: int
    low: int
    likely: int
    high: int
    open_ended: tuple[str, ...] = ()
    """Whom it waits for, of this phase and those before: then the times are the earliest ones."""


class Eta(Struct, frozen=True, kw_only=True):
    """When the campaign will be done."""

    none_because: str | None = None
    """Why there is no estimate."""
    low: int | None = None
    likely: int | None = None
    high: int | None = None
    open_ended: tuple[str, ...] = ()
    phases: tuple[PhaseEta, ...] = ()
    basis: str = ""
    """What it rests on, as a sentence."""
    sample: Measured = Measured()


Clock = Callable[[int, int], int | None]
"""``(start, duration)``: when so much time in which offers may go out has passed; None if it never does."""


def estimate(
    loads: Sequence[Load], times: Times, clock: Clock, now: int, *, schedule: str = "", owners: int = 0
) -> Eta:
    """The campaign's ETA at ``now`` (ms).

    Args:
        loads: the phases that are not promoted, in order; none of a campaign that only has to complete.
        times: of its devices.
        clock: open time, by the campaign's schedule.
        now: ms.
        schedule: what the clock counts, as a sentence.
        owners: how long the end may wait for devices that are withheld, ms: at best they are let go at once.
    """
    low = likely = high = now
    phases: list[PhaseEta] = []
    people: tuple[str, ...] = ()
    for load in loads:
        ends = [_end(load, times, clock, *run) for run in ((low, "low"), (likely, "likely"), (high, "high"))]
        if None in ends:
            return Eta(none_because="The campaign's schedule ends before it can be done.", sample=times.sample)
        # The runs are ordered part by part; rounding must not say otherwise.
        low, likely, high = accumulate((end for end in ends if end is not None), _later)
        people += tuple(each for each in load.people if each not in people)
        phases.append(
            PhaseEta(
                phase=load.phase,
                name=load.name,
                remaining=load.remaining,
                under_way=load.under_way,
                low=low,
                likely=likely,
                high=high,
                open_ended=people,
            )
        )
    return Eta(
        low=low,
        likely=likely + owners,
        high=high + owners,
        open_ended=people,
        phases=tuple(phases),
        basis=" ".join(filter(None, (_basis(times), schedule))),
        sample=times.sample,
    )


def _later(one: int, other: int) -> int:
    return max(one, other)


def _end(load: Load, times: Times, clock: Clock, start: int, which: str) -> int | None:
    """When the phase is over in one of the runs; None if the schedule ends before."""
    out = clock(start, _dispatch(load, load.remaining, times, which))
    if out is None:
        return None
    soaked = load.soak_until if load.soak_until is not None and not load.remaining else out + load.soak
    end = max(start, soaked)
    if load.wanted:
        ripe = _ripe(load, times, clock, start, out, which)
        if ripe is None:
            return None
        end = max(end, ripe)
    if load.waits_for_all and (load.remaining or load.under_way):
        tail = {"low": _taken(times, "low"), "likely": _late(times), "high": max(times.longest, _late(times))}
        end = max(end, out + tail[which])
    return end


def _dispatch(load: Load, devices: int, times: Times, which: str) -> int:
    """Open time (ms) until so many are offered: by the rate, and by the cap once its room is used up. It takes some for anybody."""
    if not devices:
        return 0
    by_rate = 0
    if load.per_minute is not None:
        by_rate = -(-devices * _MINUTE_MS // max(1, getattr(load.per_minute, which)))
    cap = max(1, getattr(load.cap, which))
    beyond = max(0, devices - max(0, cap - load.under_way))
    return max(1, by_rate, -(-beyond * _taken(times, which) // cap))


def _ripe(load: Load, times: Times, clock: Clock, start: int, out: int, which: str) -> int | None:
    """When enough devices have matured: one confirm deadline after the last of them has started."""
    if which == "high":
        return out + times.offer_ttl + times.confirm_deadline
    further = max(0, load.wanted - load.ripening)
    if not further:
        return start if which == "low" else start + times.confirm_deadline
    begun = clock(start, _dispatch(load, min(further, load.remaining), times, which))
    return None if begun is None else begun + times.confirm_deadline


def _taken(times: Times, which: str) -> int:
    """How long a device keeps its place in flight."""
    if times.known:
        return {"low": times.sample.low, "likely": times.sample.median, "high": times.sample.high}[which]
    most = times.offer_ttl + times.confirm_deadline
    return {"low": 0, "likely": most // 2, "high": most}[which]


def _late(times: Times) -> int:
    """How long the last of many devices takes."""
    return times.sample.high if times.known else _taken(times, "likely")


def _basis(times: Times) -> str:
    n = times.sample.confirmed
    if times.known:
        return f"Measured on {n} confirmed devices of this campaign; the last ones may take all their attempts."
    return (
        f"Only {n} devices have confirmed: the plan's deadlines are the worst case, and half of them is called likely."
    )
