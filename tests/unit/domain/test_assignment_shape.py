"""Rows of equal shape add the same to every counter, which is why the counters may be moved by shape."""

from __future__ import annotations

from collections import defaultdict
from itertools import product
from typing import Any

from orchestrator.domain.assignment import Assignment, State, contributions, maturity, shape

BUCKET = 10
MATTERS = ("phase", "stratum", "state", "reason", "first_started_at", "first_started_epoch", "failed_at")
STARTS = [(None, None), *product((3, 4, 12), (1, 2))]

OTHERS: tuple[dict[str, Any], ...] = (
    dict.fromkeys(set(Assignment.__struct_fields__) - {*MATTERS, "progress", "failure_class", "failed_class"}, 1),
    dict.fromkeys(set(Assignment.__struct_fields__) - {*MATTERS, "progress", "failure_class", "failed_class"}, 2)
    | {"campaign_no": 1, "progress": State.TRIAL, "failure_class": "boot", "failed_class": "health"},
)
"""Two values of everything that does not matter."""


def rows() -> list[Assignment]:
    """Every combination of what the counters may depend on, twice."""
    return [
        Assignment(**dict(zip(MATTERS, (phase, stratum, state, reason, *start, failed_at), strict=True)), **other)
        for phase, stratum, state, reason, start, failed_at, other in product(
            (0, 1), (0, 1), State, (None, "silent", "log_loss"), STARTS, (None, 5, 6), OTHERS
        )
    ]


def test_rows_of_equal_shape_add_the_same():
    added: dict[Any, set[Any]] = defaultdict(set)
    for row in rows():
        added[shape(row, BUCKET)].add((tuple(contributions(row)), maturity(row, BUCKET)))
    assert {len(found) for found in added.values()} == {1}


def test_shapes_are_few_so_that_moving_counters_by_shape_is_worth_it():
    assert len({shape(row, BUCKET) for row in rows()}) < len(rows()) / 8
