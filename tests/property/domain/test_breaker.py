"""The breaker: never on few outcomes, monotone in harm, and always closed again in the end."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from orchestrator.domain import breaker as b
from orchestrator.domain.running import FOREVER
from schemas import campaign_events as e

SPECS = st.builds(
    b.BreakerSpec,
    share=st.sampled_from([0.05, 0.1, 0.3, 0.5, 0.7, 1.0]),
    minimum=st.integers(1, 40),
    window=st.just(60_000),
    cool_down=st.just(10_000),
    probes=st.integers(1, 20),
    stale=st.just(20_000),
)
COUNTS = st.fixed_dictionaries(dict.fromkeys(("delivered", "transport", "integrity", "silence"), st.integers(0, 40)))
NOW = 1_000_000
TTL = 3_600_000


def moment(now: int = NOW, *, heard: int | None = None, running: bool = True, stopped: bool = False) -> b.Moment:
    return b.Moment(
        now=now,
        heard_until=now if heard is None else heard,
        listening_since=0,
        running=running and not stopped,
        stopped=stopped,
    )


@given(SPECS, COUNTS)
def test_it_opens_for_the_share_and_never_below_the_minimum(spec, counts):
    turn = b.judge(spec, b.Breaker(), b.Reading(counts=counts), moment(), TTL)
    outcomes = sum(counts.values())
    failures = outcomes - counts["delivered"]
    expected = outcomes >= spec.minimum and Fraction(failures) >= Fraction(str(spec.share)) * outcomes
    assert isinstance(turn, b.Open) == expected
    if isinstance(turn, b.Open):
        assert (turn.outcomes, turn.failures, sum(turn.classes.values())) == (outcomes, failures, failures)
        assert (turn.cause, turn.since) == ("failures", NOW)


@given(SPECS, COUNTS, st.sampled_from(["transport", "integrity", "silence"]))
def test_one_failure_more_never_keeps_it_closed(spec, counts, kind):
    if b.judge(spec, b.Breaker(), b.Reading(counts=counts), moment(), TTL) is not None:
        worse = counts | {kind: counts[kind] + 1}
        assert isinstance(b.judge(spec, b.Breaker(), b.Reading(counts=worse), moment(), TTL), b.Open)


@given(SPECS, COUNTS, st.integers(0, 100_000), st.integers(0, 100_000))
def test_silence_opens_it_only_when_somebody_listened(spec, counts, lag, listening):
    clean = {"delivered": counts["delivered"]}
    at = b.Moment(now=NOW, heard_until=NOW - lag, listening_since=NOW - listening, running=True, stopped=False)
    turn = b.judge(spec, b.Breaker(), b.Reading(counts=clean), at, TTL)
    assert isinstance(turn, b.Open) == (min(lag, listening) > spec.stale)
    if isinstance(turn, b.Open):
        assert (turn.cause, turn.since) == ("stale", NOW - min(lag, listening))


def test_stale_closes_when_facts_are_heard_again_and_gives_devices_their_time():
    spec = b.BreakerSpec()
    held = b.Breaker(stage=b.Stage.OPEN, openings=1, cause="stale", at=NOW, until=NOW + 1, pauses=((0, FOREVER),))
    deaf = moment(NOW + 10**9, heard=NOW)
    assert b.judge(spec, held, b.Reading(counts={}), deaf, TTL) is None
    turn = b.judge(spec, held, b.Reading(counts={}), moment(NOW + 10**9), TTL)
    assert turn == b.Close(cause=b.Cause.HEARD, delivered=0, failures=0, resumes_at=NOW + 10**9 + spec.stale)


@given(SPECS, st.integers(0, 20), st.integers(0, 20))
def test_probes_close_or_reopen_it_as_soon_as_it_is_certain(spec, delivered, failed):
    delivered = min(delivered, spec.probes)
    failed = min(failed, spec.probes - delivered)
    probes = b.Probes(offered=spec.probes, delivered=delivered, failed={"transport": failed}, pending=1)
    held = b.Breaker(stage=b.Stage.PROBING, openings=1, cause="failures", at=NOW, pauses=((0, FOREVER),))
    turn = b.judge(spec, held, b.Reading(counts={}, probes=probes), moment(), TTL)
    share = Fraction(str(spec.share))
    reopens = failed >= share * spec.probes
    certain = (spec.probes - delivered) < share * spec.probes
    assert isinstance(turn, b.Open) == reopens
    assert isinstance(turn, b.Close) == (certain and not reopens)


@pytest.mark.parametrize(
    ("probes", "waiting", "later", "cause"),
    [
        (b.Probes(), False, 0, "no_probes"),
        (b.Probes(), True, 300_000, "no_probes"),
        (b.Probes(offered=3, pending=3), True, TTL, "no_probes"),
        (b.Probes(offered=3, delivered=2, pending=1), True, TTL, "delivered"),
        (b.Probes(offered=3, delivered=3), False, 0, "delivered"),
        (b.Probes(offered=4, delivered=3, failed={"silence": 1}), False, 0, "delivered"),
        (b.Probes(offered=2, delivered=1, failed={"silence": 1}), False, 0, "failures"),
        (b.Probes(offered=1, failed={"transport": 1}, pending=1), True, TTL, "failures"),
        (b.Probes(offered=3, pending=3), True, TTL - 1, None),
        (b.Probes(), True, 299_999, None),
    ],
)
def test_a_probing_ends_when_nobody_is_left_to_show_anything(probes, waiting, later, cause):
    held = b.Breaker(stage=b.Stage.PROBING, openings=1, cause="failures", at=NOW, pauses=((0, FOREVER),))
    reading = b.Reading(counts={}, probes=probes, waiting=waiting)
    turn = b.judge(b.BreakerSpec(), held, reading, moment(NOW + later), TTL)
    assert (None if turn is None else turn.cause) == cause


@given(SPECS, st.sampled_from([b.Stage.OPEN, b.Stage.PROBING]), st.sampled_from(["failures", "stale"]))
def test_a_stopped_campaign_has_nothing_to_hold(spec, stage, cause):
    held = b.Breaker(stage=stage, openings=1, cause=cause, at=NOW, until=FOREVER, pauses=((0, FOREVER),))
    turn = b.judge(spec, held, b.Reading(counts={}), moment(heard=0, stopped=True), TTL)
    assert isinstance(turn, b.Close)
    assert turn.cause == "stopped"
    worst = b.Reading(counts={"transport": 10**6})
    assert b.judge(spec, b.Breaker(), worst, moment(heard=0, stopped=True), TTL) is None


class BreakerMachine(RuleBasedStateMachine):
    """Any outage, any silence, any order: the fold of its own events, and pauses that are in order."""

    @initialize(spec=SPECS)
    def begin(self, spec: b.BreakerSpec) -> None:
        self.spec, self.now, self.heard = spec, NOW, NOW
        self.breaker, self.events = b.Breaker(), []

    @rule(ms=st.integers(1, 200_000), hear=st.booleans())
    def time_passes(self, ms: int, hear: bool) -> None:
        self.now += ms
        self.heard = self.now if hear else self.heard

    @rule(counts=COUNTS, delivered=st.integers(0, 20), failed=st.integers(0, 20), waiting=st.booleans())
    def look(self, counts: dict[str, int], delivered: int, failed: int, waiting: bool) -> None:
        probes = b.Probes(offered=delivered + failed, delivered=delivered, failed={"transport": failed})
        self.turn(b.Reading(counts=counts, probes=probes, waiting=waiting))

    def turn(self, reading: b.Reading) -> None:
        before = self.breaker
        turn = b.judge(self.spec, before, reading, moment(self.now, heard=self.heard), TTL)
        plain = {"at": self.now, "ledger_position": len(self.events)}
        match turn:
            case None:
                return
            case b.Open():
                assert before.stage is not b.Stage.OPEN
                event = e.BreakerOpened(
                    opening=before.openings + 1,
                    cause=turn.cause,
                    outcomes=turn.outcomes,
                    failures=turn.failures,
                    classes=turn.classes,
                    share=self.spec.share,
                    minimum=self.spec.minimum,
                    window=self.spec.window,
                    since=turn.since,
                    until=turn.until,
                    **plain,
                )
                assert self.now < turn.until <= self.now + (self.spec.cool_down << b.MAX_DOUBLINGS)
            case b.Probe():
                assert before.stage is b.Stage.OPEN
                assert self.now >= before.until
                event = e.BreakerProbing(opening=before.openings, probes=self.spec.probes, **plain)
            case b.Close():
                assert before.held
                event = e.BreakerClosed(
                    opening=before.openings,
                    cause=turn.cause,
                    delivered=turn.delivered,
                    failures=turn.failures,
                    resumes_at=turn.resumes_at,
                    **plain,
                )
        self.events.append(event)
        self.breaker = b.evolve(before, event)

    @precondition(lambda self: self.breaker.held)
    @rule()
    def everything_works_again(self) -> None:
        """However it got here: heard, with probes that arrive, it is closed after two waits."""
        wait = self.spec.cool_down << b.MAX_DOUBLINGS
        fine = b.Reading(counts={}, probes=b.Probes(offered=self.spec.probes, delivered=self.spec.probes))
        for _ in range(3):
            self.now += wait
            self.heard = self.now
            self.turn(fine)
        assert not self.breaker.held

    @invariant()
    def pauses_are_in_order_and_open_only_while_it_is_held(self) -> None:
        breaker = getattr(self, "breaker", b.Breaker())
        marks = [mark for pause in breaker.pauses for mark in pause]
        assert marks == sorted(marks)
        assert breaker.held == bool(marks and marks[-1] == FOREVER)
        assert all(end < FOREVER for _, end in breaker.pauses[:-1])

    @invariant()
    def the_state_is_the_fold_of_the_events(self) -> None:
        folded = b.Breaker()
        for event in getattr(self, "events", ()):
            folded = b.evolve(folded, event)
        assert folded == getattr(self, "breaker", b.Breaker())


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


def test_waits_grow_and_stay_bounded():
    spec = b.BreakerSpec()
    held = b.Breaker(stage=b.Stage.PROBING, openings=1, cause="failures", at=NOW, pauses=((0, FOREVER),))
    waits = []
    for repeats in range(8):
        failed = b.Reading(counts={}, probes=b.Probes(offered=10, failed={"transport": 10}))
        turn = b.judge(spec, replace(held, repeats=repeats), failed, moment(), TTL)
        assert isinstance(turn, b.Open)
        waits.append((turn.until - NOW) // spec.cool_down)
    assert waits == [2, 4, 8, 16, 16, 16, 16, 16]
