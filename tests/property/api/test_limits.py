from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.devices.limits import SHARES, DeviceLimits, Kind
from api.limits import STANDING_BEATS, Appointments, Capacity, ExemptListError, Sites, Standing, TokenBuckets
from orchestrator.config import Settings
from orchestrator.errors import OtaError

untimed = settings(deadline=None)  # a busy machine is no defect

# Sums of these are exact, so that the two kinds of bucket can be compared to the last bit.
rates = st.sampled_from([0.5, 1.0, 2.0, 64.0, 256.0])
pauses = st.integers(0, 4_096).map(lambda n: n / 1_024)
keeps = st.sampled_from([0.0, 1.0, 2.5])


class CountedBucket:
    """A bucket as one explains it: so many tokens, filled as time goes by."""

    def __init__(self, rate: float, burst: int) -> None:
        self.rate, self.burst = Fraction(rate), burst
        self.tokens, self.at = Fraction(burst), Fraction(0)

    def take(self, now: float, keep: float) -> bool:
        self.tokens = min(Fraction(self.burst), self.tokens + (Fraction(now) - self.at) * self.rate)
        self.at = Fraction(now)
        if self.tokens < 1 + Fraction(keep):
            return False
        self.tokens -= 1
        return True


# ---- buckets


@untimed
@given(rates, st.integers(4, 20), st.lists(st.tuples(st.sampled_from("ab"), pauses, keeps), max_size=120))
def test_a_bucket_lets_pass_what_a_counted_bucket_does(rate, burst, asked):
    ours, counted, now = TokenBuckets(rate, burst, 10), {key: CountedBucket(rate, burst) for key in "ab"}, 0.0
    for key, pause, keep in asked:
        now += pause
        assert (ours.take(key, now, keep=keep) == 0) == counted[key].take(now, keep)


@untimed
@given(rates, st.integers(4, 20), st.lists(st.tuples(pauses, keeps), min_size=1, max_size=60))
def test_who_waits_as_long_as_told_gets_a_token_and_not_before(rate, burst, asked):
    buckets, now = TokenBuckets(rate, burst, 10), 0.0
    for pause, keep in asked:
        now += pause
        wait = buckets.take("a", now, keep=keep)
        assert buckets.wait("a", now + wait * 0.99, keep=keep) > 0 or wait == 0 or wait < 0.001
        if wait:
            assert buckets.take("a", now + wait, keep=keep) == 0
            now += wait


@untimed
@given(rates, st.integers(4, 20), st.lists(st.tuples(pauses, keeps), max_size=60))
def test_looking_takes_nothing(rate, burst, asked):
    looked, untouched, now = TokenBuckets(rate, burst, 10), TokenBuckets(rate, burst, 10), 0.0
    for pause, keep in asked:
        now += pause
        assert looked.wait("a", now, keep=keep) == looked.wait("a", now, keep=keep)
        assert looked.take("a", now, keep=keep) == untouched.take("a", now, keep=keep)


@untimed
@given(st.integers(1, 20), st.lists(st.integers(0, 100), max_size=300))
def test_no_more_keys_are_remembered_than_allowed_and_the_one_used_last_is_among_them(keys, asked):
    buckets = TokenBuckets(0.001, 4, keys)
    for key in asked:
        before = buckets.wait(key, 0.0, keep=3)
        taken = buckets.take(key, 0.0)
        assert len(buckets) <= keys
        assert buckets.wait(key, 0.0, keep=3) >= before
        assert taken or buckets.wait(key, 0.0, keep=3) > 0


def test_a_client_that_insists_is_not_forgotten_for_quieter_ones():
    buckets = TokenBuckets(1.0, 1, 2)
    buckets.take("loud", 0.0)
    for number in range(10):
        buckets.take(f"quiet {number}", 0.0)
        assert buckets.take("loud", 0.0) > 0


# ---- what stands


@untimed
@given(st.lists(st.integers(0, 1_000), max_size=30))
def test_what_stands_is_the_least_of_the_last_readings(readings):
    standing = Standing()
    for number, reading in enumerate(readings, 1):
        standing.note(reading)
        assert standing.least == (min(readings[number - STANDING_BEATS : number]) if number >= STANDING_BEATS else 0)


# ---- capacity


@untimed
@given(st.floats(100, 10_000), st.lists(st.tuples(st.floats(0.05, 2), st.floats(0, 5_000)), min_size=1, max_size=30))
def test_what_was_seen_bounds_what_is_believed(guess, looks):
    capacity, seen = Capacity(guess, 2.0, 50.0), [guess, 50.0]
    for seconds, work in looks:
        capacity.did(work)
        capacity.look(seconds, saturated=True)
        seen.append(work / seconds)
        assert min(seen) - 1e-6 <= capacity.per_second <= max(seen) + 1e-6
        assert capacity.per_second >= 50.0


def test_a_storm_teaches_in_seconds_and_calm_teaches_nothing():
    capacity = Capacity(5_000.0, 2.0, 50.0)
    for _ in range(200):
        capacity.did(10.0)
        capacity.look(0.05, saturated=False)
    assert capacity.per_second == 5_000
    for _ in range(200):
        capacity.did(50.0)
        capacity.look(0.05, saturated=True)
    assert 1_000 < capacity.per_second < 1_100


# ---- appointments


@untimed
@given(st.floats(1, 1_000), st.lists(st.tuples(pauses, st.floats(0, 1)), min_size=1, max_size=200))
def test_an_appointment_is_within_its_bounds(rate, asked):
    appointments, now = Appointments(5, 60), 0.0
    for pause, chance in asked:
        now += pause
        assert 5 <= appointments.make(now, chance, rate) <= 60


@untimed
@given(st.integers(1, 100), st.integers(1, 2_000))
def test_no_second_is_promised_to_more_than_can_be_served(rate, count):
    appointments = Appointments(5, 10_000)
    told = [appointments.make(0.0, 0.0, rate) for _ in range(count)]
    assert all(told.count(second) <= rate + 1 for second in set(told) - {5})
    assert max(told) <= 5 + count / rate + 1
    assert told == sorted(told)


def test_a_queue_of_the_longest_wait_does_not_grow_and_spreads_over_its_later_half():
    appointments = Appointments(5, 60)
    told = [appointments.make(0.0, number % 100 / 100, 1.0) for number in range(1_000)]
    assert {30, 31, 45, 59} <= set(told[100:])
    assert min(told[100:]) == 30
    assert appointments.make(60.0, 0.0, 1.0) == 5, "what nobody was told is no wait for others"


def test_a_storm_is_over_when_the_last_appointment_has_passed():
    appointments = Appointments(5, 60)
    assert not appointments.busy(0.0, 10)
    for _ in range(20):
        appointments.make(100.0, 0.0, 1.0)
    assert appointments.busy(129.9, 10)
    assert not appointments.busy(130.0, 10)


# ---- addresses


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("203.0.113.7", "203.0.113.8", False),
        ("203.0.113.7", "::ffff:203.0.113.7", True),
        ("::ffff:203.0.113.7", "::ffff:203.0.113.8", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2", True),
    ],
)
def test_a_key_names_whoever_can_choose_the_address(one, other, same):
    sites = Sites("", 10)
    assert (sites.key(one) == sites.key(other)) == same


@pytest.mark.parametrize("host", ["127.0.0.1", "::ffff:127.0.0.1", "::1", "10.1.2.3", "", "/run/gateway.sock"])
def test_exempt_addresses_and_local_sockets_have_no_limit(host):
    assert Sites("127.0.0.1, ::1,10.0.0.0/8", 10).key(host) is None


@pytest.mark.parametrize("host", ["127.0.0.2", "11.0.0.1", "::2"])
def test_all_others_have_one(host):
    assert Sites("127.0.0.1, ::1,10.0.0.0/8", 10).key(host) is not None


def test_a_list_that_is_none_is_refused():
    with pytest.raises(ExemptListError):
        Sites("127.0.0.1,localhost", 10)


# ---- the order


class Gate:
    """Limits of a gateway whose time is a test's."""

    def __init__(self, **bounds) -> None:
        self.now = 0.0
        tight = {
            "address_rate": 1.0,
            "device_rate": 1.0,
            "address_burst": 12,
            "device_burst": 8,
            "overload_requests": 8,
        }
        self.limits = DeviceLimits(Settings(**(tight | bounds)), lambda: self.now, lambda: 0.5)
        self.entered = []

    def ask(self, host: str, device_no: int, kind: Kind, *, stays: bool) -> str | None:
        """None if it is let in, else the code."""
        passing = self.limits.admitted(host, kind)
        try:
            passing.__enter__()
        except OtaError as error:
            return error.code
        try:
            self.limits.identified(device_no, kind)
        except OtaError as error:
            passing.__exit__(None, None, None)
            return error.code
        if stays:
            self.entered.append(passing)
        else:
            passing.__exit__(None, None, None)
        return None

    def waiting(self, *, late: float = 0.0, queued: int = 0) -> None:
        """For long enough the heart has beaten late, and connections have waited."""
        for _ in range(STANDING_BEATS):
            self.limits.beat(late, queued)


steps = st.lists(
    st.tuples(
        st.sampled_from(["203.0.113.1", "203.0.113.2"]),
        st.integers(1, 3),
        st.sampled_from(list(Kind)),
        st.booleans(),
        st.sampled_from([0.0, 0.0, 0.5, 3.0]),
    ),
    max_size=60,
)


@untimed
@given(steps, st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.2]), st.integers(0, 9))
def test_where_a_report_is_refused_a_poll_is_refused_too(asked, late, queued):
    # Two gates with the same past: the one is then asked for a report, the other for a poll.
    reporting, polling = Gate(), Gate()
    for gate in (reporting, polling):
        for host, device, kind, stays, pause in asked:
            gate.now += pause
            gate.ask(host, device, kind, stays=stays)
        gate.waiting(late=late, queued=queued)
    for host in ("203.0.113.1", "203.0.113.2"):
        for device in (1, 2, 3):
            if reporting.ask(host, device, Kind.REPORT, stays=True) is not None:
                assert polling.ask(host, device, Kind.POLL, stays=True) is not None


@pytest.mark.parametrize(
    ("waiting", "refused"),
    [
        ({"late": 0.2}, 0),
        ({"late": 0.3}, 1),
        ({"late": 0.6}, 3),
        ({"late": 0.8}, 4),
        ({"late": 60.0}, 4),
        ({"queued": 1}, 0),
        ({"queued": 2}, 1),
        ({"queued": 4}, 3),
        ({"queued": 6}, 4),
        ({"queued": 4_096}, 4),
    ],
)
def test_the_more_is_waiting_the_fewer_kinds_are_let_in_and_reports_always(waiting, refused):
    gate = Gate()
    gate.waiting(**waiting)
    turned_away = [kind for kind in SHARES if gate.ask("203.0.113.1", 1, kind, stays=False) == "gateway.overloaded"]
    assert turned_away == list(SHARES)[:refused]


@pytest.mark.parametrize(("held", "refused"), [(1, 0), (2, 1), (4, 3), (6, 4), (8, 5)])
def test_the_more_is_in_hand_the_fewer_kinds_are_let_in(held, refused):
    gate = Gate(device_burst=100, address_burst=100)
    assert [gate.ask("203.0.113.1", 1, Kind.REPORT, stays=True) for _ in range(held)] == [None] * held
    turned_away = [kind for kind in SHARES if gate.ask("203.0.113.1", 1, kind, stays=False) == "gateway.overloaded"]
    assert turned_away == list(SHARES)[:refused]
    for passing in gate.entered:
        passing.__exit__(None, None, None)
    assert gate.ask("203.0.113.1", 1, Kind.POLL, stays=False) is None
