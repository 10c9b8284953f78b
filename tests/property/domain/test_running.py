"""Running time: the clock that stands still, forwards and backwards."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.running import FOREVER, cut, deadline, elapsed, paused

TIMES = st.integers(0, 300)


@st.composite
def pauses(draw: st.DrawFn, *, ended: bool = False) -> tuple[tuple[int, int], ...]:
    marks = sorted(draw(st.lists(TIMES, max_size=8, unique=True)))
    found = list(zip(marks[::2], marks[1::2], strict=False))
    if not ended and draw(st.booleans()):
        found.append(((found[-1][1] if found else 0) + draw(TIMES), FOREVER))
    return tuple(found)


@given(pauses(), TIMES, TIMES)
def test_elapsed_counts_the_moments_that_are_not_paused(stops, start, length):
    ticks = sum(not paused(stops, at) for at in range(start, start + length))
    assert elapsed(stops, start, start + length) == ticks
    assert elapsed(stops, start + length, start) == 0


@given(pauses(), TIMES, st.integers(1, 200))
def test_a_deadline_is_the_first_moment_at_which_enough_time_has_run(stops, start, duration):
    at = deadline(stops, start, duration)
    assert elapsed(stops, start, at) == duration
    assert elapsed(stops, start, at - 1) == duration - 1
    assert deadline((), start, duration) <= at


@given(pauses(ended=True), TIMES, st.integers(1, 200))
def test_the_cut_is_the_last_moment_since_which_enough_time_has_run(stops, now, duration):
    at = cut(stops, now, duration)
    assert elapsed(stops, at, now) == duration
    assert elapsed(stops, at + 1, now) == duration - 1


@given(pauses(), TIMES, st.integers(1, 200), TIMES)
def test_what_is_older_than_the_cut_is_past_its_deadline_and_nothing_else_is(stops, start, duration, now):
    assert (start <= cut(stops, now, duration)) == (deadline(stops, start, duration) <= now)


@given(TIMES, TIMES, st.integers(1, 200))
def test_nothing_falls_due_in_a_pause_that_lasts(start, since, duration):
    stops = ((since, FOREVER),)
    at = deadline(stops, start, duration)
    assert at >= FOREVER or at <= since
