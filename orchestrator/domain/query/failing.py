"""Which part of a selector keeps a device out: the comparisons that do not hold, with what the device has instead.

Of an ``and`` only the parts that fail count; of an ``or`` all do, because any one of them would be enough. So the answer is empty
exactly where :func:`evaluate.matches` says yes.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.domain.query.ast import And, Comparison, Or, Query
from orchestrator.domain.query.evaluate import Subject, field_of, matches
from orchestrator.domain.query.parse import render


@dataclass(frozen=True, slots=True)
class Failing:
    """A comparison that does not hold for a device."""

    comparison: str
    """As it could be written in a selector."""
    field: str
    found: str | None
    """The device's value; None if it has none."""
    alternative: bool = False
    """One of several, any of which would be enough."""


def failing(query: Query, device: Subject, *, alternative: bool = False) -> list[Failing]:
    """The comparisons that keep the device out, in the selector's order; empty if it is selected."""
    if matches(query, device):
        return []
    match query:
        case And():
            return [each for part in query.parts for each in failing(part, device, alternative=alternative)]
        case Or():
            return [each for part in query.parts for each in failing(part, device, alternative=True)]
        case Comparison():
            return [Failing(render(query), query.field, field_of(query.field, device), alternative)]
