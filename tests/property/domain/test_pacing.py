from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.pacing import (
    BURST_MS,
    full_bucket,
    grant,
    in_flight_cap,
    may_start,
    spend,
    start_offset,
    tokens,
)

untimed = settings(deadline=None)  # a busy machine is no defect


@untimed
@given(
    per_minute=st.integers(1, 100_000),
    steps=st.lists(st.tuples(st.integers(0, 120_000), st.integers(0, 5_000)), max_size=40),
)
def test_no_span_of_time_grants_more_than_its_rate_and_one_burst(per_minute, steps):
    now, bucket, grants = 0, full_bucket(per_minute, 0), []
    for pause, wanted in steps:
        now += pause
        granted = min(wanted, tokens(bucket, per_minute, now))
        bucket = spend(bucket, per_minute, now, granted)
        grants.append((now, granted))
    for first, (begin, _) in enumerate(grants):
        total = 0
        for end, granted in grants[first:]:
            total += granted
            assert total <= 1 + per_minute * (end - begin + BURST_MS) / 60_000


@untimed
@given(
    per_minute=st.integers(1, 100_000),
    pauses=st.lists(st.integers(0, BURST_MS), max_size=60),
)
def test_slices_in_good_time_lose_nothing_of_the_rate(per_minute, pauses):
    now, bucket = 0, full_bucket(per_minute, 0)
    granted = tokens(bucket, per_minute, 0)
    bucket = spend(bucket, per_minute, 0, granted)
    for pause in pauses:
        now += pause
        available = tokens(bucket, per_minute, now)
        bucket = spend(bucket, per_minute, now, available)
        granted += available
    assert granted == (60_000 + per_minute * (BURST_MS + now)) // 60_000


@untimed
@given(
    initial=st.integers(1, 1_000),
    growth=st.integers(0, 10_000),
    promoted=st.integers(0, 100),
    phase_cap=st.none() | st.integers(1, 1_000),
    added=st.integers(0, 10_000),
    setbacks=st.integers(0, 50),
)
def test_the_cap_stays_within_the_plan(initial, growth, promoted, phase_cap, added, setbacks):
    cap = in_flight_cap(initial, initial + growth, promoted, phase_cap, growth=added, setbacks=setbacks)
    assert min(initial, phase_cap or initial) <= cap <= initial + growth
    assert phase_cap is None or cap <= phase_cap


CAPS = st.tuples(st.integers(0, 20), st.integers(0, 5_000), st.integers(0, 12))
"""Promoted phases, growth, setbacks."""


@untimed
@given(
    initial=st.integers(1, 100),
    room=st.integers(0, 5_000),
    phase_cap=st.none() | st.integers(1, 1_000),
    one=CAPS,
    more=CAPS,
)
def test_the_cap_rises_with_what_went_well_and_falls_with_harm(initial, room, phase_cap, one, more):
    def cap(promoted, growth, setbacks):
        return in_flight_cap(initial, initial + room, promoted, phase_cap, growth=growth, setbacks=setbacks)

    promoted, growth, setbacks = one
    base = cap(*one)
    assert cap(promoted + more[0], growth + more[1], setbacks) >= base
    assert cap(promoted, growth, setbacks + more[2]) <= base
    floor = min(initial, phase_cap or initial)
    assert cap(promoted, growth, setbacks + 1) in {base // 2, floor}
    assert cap(0, 0, 0) == cap(0, 0, setbacks) == floor, "a halt puts it back to its start, which no setback lowers"


@untimed
@given(salt=st.text(), device=st.integers(1, 2**31), attempt=st.integers(1, 10), jitter=st.integers(1, 86_400_000))
def test_a_device_waits_for_less_than_the_jitter_and_always_as_long(salt, device, attempt, jitter):
    offset = start_offset(salt, device, attempt, jitter)
    assert 0 <= offset < jitter
    assert not may_start(salt, device, attempt, 5_000, jitter, 5_000 + offset - 1)
    assert may_start(salt, device, attempt, 5_000, jitter, 5_000 + offset)
    assert may_start(salt, device, attempt, 5_000, None, 5_000)


@untimed
@given(
    cap=st.integers(1, 1_000),
    in_flight=st.integers(0, 2_000),
    available=st.none() | st.integers(0, 1_000),
    slice_size=st.integers(1, 1_000),
)
def test_a_grant_never_lifts_what_is_in_flight_above_the_cap(cap, in_flight, available, slice_size):
    granted = grant(cap=cap, in_flight=in_flight, available=available, slice_size=slice_size)
    assert granted == 0 or in_flight + granted <= cap
    assert 0 <= granted <= slice_size
    assert available is None or granted <= available
