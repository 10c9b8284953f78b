"""Ranges of action ids that every client can parse."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.adapters.sql.ledger import LAST_ACTION, next_base


def is_trap(number: int) -> bool:
    """d·10^k: nothing but zeros after the first digit."""
    return int(str(number)[1:] or 0) == 0


@given(st.integers(1_000_001, LAST_ACTION - 20_000), st.integers(1, 10_000))
def test_a_range_holds_no_number_with_only_zeros_after_its_first_digit(free, count):
    base = next_base(free, count)
    assert base >= free
    assert not any(is_trap(number) for number in range(base, base + count))


@given(st.integers(1_000_001, LAST_ACTION - 20_000), st.integers(1, 10_000))
def test_a_range_is_moved_only_past_a_number_that_it_must_not_hold(free, count):
    base = next_base(free, count)
    assert base == free or any(is_trap(number) for number in range(free, free + count))


def test_the_range_after_two_million_starts_behind_it():
    assert next_base(1_999_990, 500) == 2_000_001
    assert next_base(1_999_990, 10) == 1_999_990
