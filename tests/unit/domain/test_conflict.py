"""Whose device it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from orchestrator.domain.assignment import Observation, Offer, State, cancel_requested, loss, observe, offered, start
from orchestrator.domain.conflict import LONGEST_MS, STEP_MS, goes_first, look_again, may_take_over

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


@given(before=st.integers(0, 10**6), at_once=st.integers(1, 10**5))
def test_as_many_as_could_go_are_looked_at_in_every_step(before, at_once):
    again = look_again(1_000, before, at_once) - 1_000
    assert STEP_MS <= again <= LONGEST_MS
    assert look_again(1_000, 0, at_once) - 1_000 == STEP_MS
    assert again == LONGEST_MS or look_again(1_000, before + at_once, at_once) - 1_000 - again in {
        STEP_MS,
        LONGEST_MS - again,
    }
