from __future__ import annotations

import pytest

from orchestrator.domain.pacing import Bucket, full_bucket, grant, in_flight_cap, spend, start_offset, tokens


@pytest.mark.parametrize(("promoted", "cap"), [(0, 50), (1, 100), (2, 200), (3, 300), (10**9, 300)])
def test_the_cap_doubles_with_each_promoted_phase_up_to_its_maximum(promoted, cap):
    assert in_flight_cap(50, 300, promoted) == cap


def test_a_phase_can_lower_the_cap_but_not_raise_it():
    assert in_flight_cap(50, 300, 2, phase_cap=80) == 80
    assert in_flight_cap(50, 300, 0, phase_cap=80) == 50


@pytest.mark.parametrize(("setbacks", "cap"), [(0, 200), (1, 100), (2, 50), (3, 50)])
def test_each_setback_halves_the_cap_down_to_its_start(setbacks, cap):
    assert in_flight_cap(50, 300, 2, setbacks=setbacks) == cap


def test_what_a_phase_confirms_adds_to_the_cap_before_it_is_limited_and_halved():
    assert in_flight_cap(50, 300, 1, growth=40) == 140
    assert in_flight_cap(50, 300, 1, growth=1_000) == 300
    assert in_flight_cap(50, 300, 1, phase_cap=120, growth=40, setbacks=1) == 60


def test_a_slice_is_spread_over_the_whole_jitter():
    quarters = [4 * start_offset("salt", device, 1, 600_000) // 600_000 for device in range(1, 501)]
    assert all(90 <= quarters.count(quarter) <= 160 for quarter in range(4))
    again = [4 * start_offset("salt", device, 2, 600_000) // 600_000 for device in range(1, 501)]
    assert again != quarters, "another attempt has another place"


def test_a_bucket_opens_full_and_refills_at_its_rate():
    bucket = full_bucket(60, now_ms=1_000)
    assert tokens(bucket, 60, now_ms=1_000) == 11
    bucket = spend(bucket, 60, 1_000, granted=11)
    assert tokens(bucket, 60, now_ms=1_999) == 0
    assert tokens(bucket, 60, now_ms=2_000) == 1
    assert tokens(bucket, 60, now_ms=4_500) == 3


def test_an_idle_bucket_saves_up_one_burst_and_no_more():
    bucket = spend(full_bucket(60, 0), 60, 0, granted=11)
    after_a_day = 86_400_000
    assert tokens(bucket, 60, after_a_day) == 11
    assert tokens(spend(bucket, 60, after_a_day, granted=11), 60, after_a_day) == 0


def test_a_slow_rate_still_grants_single_devices():
    bucket = spend(full_bucket(1, 0), 1, 0, granted=1)
    assert tokens(bucket, 1, 49_999) == 0
    assert tokens(bucket, 1, 50_000) == 1
    assert tokens(spend(bucket, 1, 50_000, granted=1), 1, 109_999) == 0


def test_fractions_of_tokens_are_not_lost_between_slices():
    bucket, granted = spend(full_bucket(7, 0), 7, 0, granted=2), 0
    for now in range(0, 600_001, 777):
        available = tokens(bucket, 7, now)
        bucket = spend(bucket, 7, now, available)
        granted += available
    assert granted == 70  # 7 a minute for ten minutes


def test_a_clock_that_steps_back_earns_nothing():
    bucket = Bucket(credit=0, at_ms=10_000)
    assert tokens(bucket, 60, 5_000) == 0
    assert spend(bucket, 60, 5_000, 0).at_ms == 10_000


@pytest.mark.parametrize("granted", [12, -1])
def test_more_than_there_is_cannot_be_spent(granted):
    with pytest.raises(ValueError):
        spend(full_bucket(60, 0), 60, 0, granted)


@pytest.mark.parametrize(
    ("cap", "in_flight", "available", "slice_size", "granted"),
    [
        (100, 30, 50, 500, 50),
        (100, 70, 50, 500, 30),
        (100, 30, None, 500, 70),
        (1_000, 0, None, 500, 500),
        (100, 120, 50, 500, 0),
        (100, 0, 0, 500, 0),
    ],
)
def test_a_grant_obeys_room_rate_and_slice(cap, in_flight, available, slice_size, granted):
    assert grant(cap=cap, in_flight=in_flight, available=available, slice_size=slice_size) == granted
