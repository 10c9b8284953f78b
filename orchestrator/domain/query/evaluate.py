"""What a selector means for one device. The SQL form (``adapters/sql/filters.py``) says the same, and a test compares the two.

A comparison with something the device does not have does not match; ``!=`` and ``=out=`` are the opposites of ``==`` and ``=in=``, so
they do match then. Ordered comparisons are between numbers, for ``version`` between dotted numbers part by part (``2`` comes before
``2.0``, ``2.9`` before ``2.10``); what is no such number does not match.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Protocol, TypeVar

from orchestrator.domain.query.ast import And, Comparison, Operator, Or, Query
from orchestrator.domain.query.parse import NUMBER, VERSION

_Ordered = TypeVar("_Ordered", Decimal, tuple[int, ...])


class Subject(Protocol):
    """A device as selectors see it."""

    @property
    def device_id(self) -> str: ...
    @property
    def hardware_model(self) -> str: ...
    @property
    def version(self) -> str | None: ...
    @property
    def attributes(self) -> Mapping[str, str]: ...


def matches(query: Query, device: Subject) -> bool:
    """Whether the device is selected."""
    match query:
        case And():
            return all(matches(part, device) for part in query.parts)
        case Or():
            return any(matches(part, device) for part in query.parts)
        case Comparison():
            return _compare(query, field_of(query.field, device))


def field_of(name: str, device: Subject) -> str | None:
    """What the device has in a selector's field."""
    match name:
        case "device_id":
            return device.device_id
        case "hardware_model":
            return device.hardware_model
        case "version":
            return device.version
        case _:
            return device.attributes.get(name.removeprefix("attribute."))


def _compare(query: Comparison, found: str | None) -> bool:
    match query.operator:
        case Operator.EXISTS:
            return (found is not None) == (query.values[0] == "true")
        case Operator.EQUAL:
            return found is not None and _equal(query, found)
        case Operator.NOT_EQUAL:
            return found is None or not _equal(query, found)
        case Operator.IN:
            return found in query.values
        case Operator.NOT_IN:
            return found not in query.values
        case _:
            return found is not None and _ordered(query, found)


def _equal(query: Comparison, found: str) -> bool:
    if not query.pattern:
        return found == query.values[0]
    first, *middle, last = query.values
    if not (found.startswith(first) and found.endswith(last) and len(found) >= len(first) + len(last)):
        return False
    at, end = len(first), len(found) - len(last)
    for part in middle:
        at = found.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True


def _ordered(query: Comparison, found: str) -> bool:
    wanted = query.values[0]
    if query.field == "version":
        return bool(VERSION.fullmatch(found)) and _holds(query.operator, _dotted(found), _dotted(wanted))
    return bool(NUMBER.fullmatch(found)) and _holds(query.operator, Decimal(found), Decimal(wanted))


def _dotted(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _holds(operator: Operator, found: _Ordered, wanted: _Ordered) -> bool:
    match operator:
        case Operator.LESS:
            return found < wanted
        case Operator.AT_MOST:
            return found <= wanted
        case Operator.MORE:
            return found > wanted
        case _:
            return found >= wanted
