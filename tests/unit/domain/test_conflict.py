"""Whose device it is."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orchestrator.domain.assignment import Observation, Offer, State, cancel_requested, loss, observe, offered, start
from orchestrator.domain.conflict import LONGEST_MS, STEP_MS, freed_at_once, goes_first, look_again, may_take_over

WAITING = offered(1, 7, 0, 0, Offer(attempt=1, action_id=1_000_001, gate_epoch=1, at=100))


def test_the_higher_priority_goes_first_and_of_equals_nobody():
    assert goes_first(200, 100)
    assert not goes_first(100, 200)
    assert not goes_first(100, 100)


@pytest.mark.parametrize(
    ("supersede", "priority", "holder", "allowed"),
    [
        ("waiting", 200, WAITING, True),
        ("never", 200, WAITING, False),
        ("waiting", 100, WAITING, False),
        ("waiting", 50, WAITING, False),
        ("waiting", 200, observe(WAITING, start(1, 200)), False),
        ("waiting", 200, observe(WAITING, Observation(attempt=1, state=State.TRIAL, at=200)), False),
        ("waiting", 200, observe(WAITING, loss(1, State.OFFERED, 200)), False),
        ("waiting", 200, cancel_requested(WAITING, 1, 200), False),
        ("waiting", 200, replace(WAITING, state=State.EXPIRED, progress=State.TRIAL), False),
    ],
)
def test_only_an_unstarted_known_offer_of_lower_priority_is_taken_over(supersede, priority, holder, allowed):
    assert may_take_over(supersede, priority, holder, 100) is allowed


@given(device=st.integers(1, 2**31 - 1), line=st.integers(0, 10**7), at_once=st.integers(1, 10**5))
def test_a_look_comes_after_a_step_at_the_soonest_and_before_the_longest(device, line, at_once):
    again = look_again(1_000, device, line, at_once) - 1_000
    assert STEP_MS <= again <= LONGEST_MS
    assert again == STEP_MS or line >= 2 * at_once


def test_a_line_is_spread_so_that_about_as_many_come_due_as_could_go():
    line, at_once = 10_000, 100
    due = Counter((look_again(0, device, line, at_once) - 1) // STEP_MS for device in range(1, line + 1))
    assert set(due) <= set(range(line // at_once))
    assert max(due.values()) < 3 * at_once


@pytest.mark.parametrize(("limit", "freed"), [(1, 1), (6, 1), (7, 2), (600, 100)])
def test_a_site_frees_its_room_in_half_a_minute_at_the_fastest(limit, freed):
    assert freed_at_once(limit) == freed
