"""Estimates: a range that is one, that more devices never make earlier, and open time that never runs back."""

from __future__ import annotations

from datetime import UTC

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orchestrator.domain.eta import FEW, Load, Measured, Range, Times, estimate, measured
from orchestrator.domain.open_time import OpenTime
from orchestrator.domain.window import Schedule

T0 = 1_790_000_000_000
DAY = 86_400_000
ALWAYS = Schedule()
NIGHTS = Schedule.model_validate({"windows": [{"from": "22:00", "to": "04:00"}]})

counts = st.integers(0, 100_000)
durations = st.integers(0, 2 * DAY)


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    high, likely, low = sorted(draw(st.lists(st.integers(1, 5_000), min_size=3, max_size=3)))
    return Range(low=low, likely=likely, high=high)


@st.composite
def samples(draw: st.DrawFn) -> Measured:
    return measured(draw(st.lists(st.integers(0, DAY), max_size=3 * FEW)))


@st.composite
def loads(draw: st.DrawFn) -> Load:
    return Load(
        phase=0,
        name="p",
        remaining=draw(counts),
        under_way=draw(st.integers(0, 5_000)),
        cap=draw(ranges()),
        per_minute=draw(st.none() | ranges()),
        soak=draw(durations),
        soak_until=draw(st.none() | st.integers(T0 - DAY, T0)),
        ripening=draw(st.integers(0, 100)),
        wanted=draw(st.integers(0, 200)),
        waits_for_all=draw(st.booleans()),
    )


@st.composite
def times(draw: st.DrawFn) -> Times:
    ttl, deadline = draw(st.integers(1, DAY)), draw(st.integers(1, DAY))
    return Times(offer_ttl=ttl, confirm_deadline=deadline, longest=ttl + deadline, sample=draw(samples()))


EVERY_HOUR = OpenTime(ALWAYS, UTC, T0)
AT_NIGHT = OpenTime(NIGHTS, UTC, T0)
clocks = st.sampled_from([EVERY_HOUR.after, AT_NIGHT.after])


@given(st.lists(loads(), max_size=4), times(), clocks)
def test_an_estimate_is_a_range_in_every_phase(parts, taken, clock):
    found = estimate(parts, taken, clock, T0)
    for each in (*found.phases, found):
        assert T0 <= each.low <= each.likely <= each.high
    ends = [each.high for each in found.phases]
    assert ends == sorted(ends)


@given(loads(), times(), clocks, st.integers(1, 10_000))
def test_more_devices_never_end_earlier(part, taken, clock, more):
    fewer = estimate([part], taken, clock, T0)
    greater = estimate([replace(part, remaining=part.remaining + more)], taken, clock, T0)
    assert (fewer.low, fewer.likely, fewer.high) <= (greater.low, greater.likely, greater.high)
    assert fewer.low <= greater.low
    assert fewer.likely <= greater.likely
    assert fewer.high <= greater.high


@given(loads(), times())
def test_a_narrower_cap_never_ends_earlier(part, taken):
    clock = EVERY_HOUR.after
    half = replace(
        part, cap=Range(low=-(-part.cap.low // 2), likely=-(-part.cap.likely // 2), high=-(-part.cap.high // 2))
    )
    wide, narrow = estimate([part], taken, clock, T0), estimate([half], taken, clock, T0)
    assert wide.low <= narrow.low
    assert wide.likely <= narrow.likely
    assert wide.high <= narrow.high


@given(st.integers(0, 400 * DAY), st.integers(0, 400 * DAY), st.integers(0, 7 * DAY))
def test_open_time_never_runs_back(one, other, start):
    short, long = sorted((one, other))
    first, second = AT_NIGHT.after(T0 + start, short), AT_NIGHT.after(T0 + start, long)
    assert first is not None
    assert second is not None
    assert T0 + start + short <= first
    assert first <= second


@given(st.integers(0, 60 * DAY), st.integers(0, 60 * DAY), st.integers(0, 60 * DAY))
def test_who_begins_later_is_not_done_earlier(one, other, duration):
    early, late = sorted((one, other))
    first, second = AT_NIGHT.after(T0 + early, duration), AT_NIGHT.after(T0 + late, duration)
    assert first is not None
    assert second is not None
    assert first <= second


def test_only_open_time_counts():
    midnight = T0 - T0 % DAY
    assert AT_NIGHT.after(midnight + 12 * 3_600_000, 3_600_000) == midnight + 23 * 3_600_000
    assert AT_NIGHT.after(midnight + 12 * 3_600_000, 6 * 3_600_000) == midnight + 28 * 3_600_000
    assert AT_NIGHT.after(midnight + 12 * 3_600_000, 7 * 3_600_000) == midnight + (24 + 23) * 3_600_000


def test_a_schedule_that_ends_before_gives_no_estimate():
    schedule = Schedule.model_validate({"end_at": T0 + DAY})
    part = Load(phase=0, name="p", remaining=100, cap=Range(low=1, likely=1, high=1), per_minute=None)
    taken = Times(offer_ttl=DAY, confirm_deadline=DAY, longest=2 * DAY)
    found = estimate([part], taken, OpenTime(schedule, UTC, T0).after, T0)
    assert found.none_because == "The campaign's schedule ends before it can be done."
    assert found.low is None


def test_what_waits_for_people_says_whom_from_there_on():
    part = Load(phase=0, name="p", remaining=0, cap=Range(low=1, likely=1, high=1), people=("p: an approval",))
    taken = Times(offer_ttl=1, confirm_deadline=1, longest=2)
    found = estimate([part, replace(part, phase=1, people=())], taken, EVERY_HOUR.after, T0)
    assert [each.open_ended for each in found.phases] == [("p: an approval",), ("p: an approval",)]


def test_measured_times_replace_the_deadlines():
    part = Load(phase=0, name="p", remaining=100, cap=Range(low=10, likely=10, high=10), waits_for_all=True)
    guessed = Times(offer_ttl=DAY, confirm_deadline=DAY, longest=2 * DAY)
    known = replace(guessed, sample=measured([60_000] * FEW))
    clock = EVERY_HOUR.after
    before, since = estimate([part], guessed, clock, T0), estimate([part], known, clock, T0)
    assert since.likely is not None
    assert before.likely is not None
    assert since.likely < before.likely
    assert since.likely - T0 == 9 * 60_000 + 60_000
    assert "Only 0 devices" in before.basis
    assert f"Measured on {FEW}" in since.basis
