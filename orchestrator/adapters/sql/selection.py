"""``domain.selection`` and the strata of ``domain.cohort`` as expressions over ``device``; tests compare them with the domain.

Values of a plan are parameters; nothing of it becomes part of a statement's text.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any, Final, NamedTuple

from orchestrator.adapters.sql.filters import compile_query
from orchestrator.adapters.sql.remediation import updated
from orchestrator.domain.cohort import MISSING
from orchestrator.domain.plan import Plan
from orchestrator.domain.query import parse
from orchestrator.domain.selection import Target, models

OTHERS: Final = -1
"""In place of a phase's number: no phase names the device."""

_ATTRIBUTE: Final = "attribute."


class CohortSql(NamedTuple):
    """A plan's cohort as expressions over ``device``."""

    condition: str
    """Which devices are members."""
    dimensions: list[str]
    """A device's value in each dimension of the strata."""
    named: str
    """The first phase that names the device, or ``OTHERS``."""
    parameters: list[Any]


OUTDATED: Final = """EXISTS (SELECT FROM assignment a WHERE a.device_no = device.device_no AND a.state = 'confirmed'
AND a.changed_at > coalesce(device.reported_at, 0))"""
"""The device has confirmed an update after it last said what it runs."""


def cohort_of(plan: Plan, target: Target, first: int) -> CohortSql:
    """The cohort, with its parameters numbered from ``first`` on."""
    parameters: list[Any] = []
    condition = member(plan, target, first, parameters)
    dimensions = dimension_columns(plan.cohort.stratify_by, first + len(parameters))
    parameters += attribute_names(plan.cohort.stratify_by)
    return CohortSql(condition, dimensions, _named(plan, first, parameters), parameters)


def member(plan: Plan, target: Target, first: int, parameters: list[Any]) -> str:
    """Which devices are members, as a condition; adds its parameters, numbered from ``first`` on."""
    parameters.append(models(plan, target.artifacts))
    condition = f"hardware_model = ANY(${first}::text[]) AND {wanted(plan, first + 1, parameters)}"
    if plan.cohort.leaves_out_current:
        condition += f" AND NOT {current(target, first + len(parameters), parameters)}"
    return condition


def wanted(plan: Plan, first: int, parameters: list[Any]) -> str:
    """``selection.selected`` and ``updated_by`` as a condition; adds its parameters, numbered from ``first`` on."""
    spec, before = plan.cohort, len(parameters)
    parameters += [list(spec.exclude), list(spec.include)]
    condition = (
        f"NOT device_id = ANY(${first}::text[])"
        f" AND (${first + 1}::text[] = '{{}}' OR device_id = ANY(${first + 1}::text[]))"
    )
    if plan.query is not None:
        text, more = compile_query(plan.query, first + 2)
        parameters += more
        condition += f" AND {text}"
    taken, more = updated(spec, first + len(parameters) - before)
    parameters += more
    return f"{condition} AND {taken}"


def current(target: Target, first: int, parameters: list[Any]) -> str:
    """``selection.is_current`` as an expression that is never null; adds its parameters, numbered from ``first`` on."""
    parameters += [target.version, list(target.artifacts), list(target.artifacts.values())]
    artifact = f"(${first + 2}::text[])[array_position(${first + 1}::text[], hardware_model)]"
    return (
        f"((version IS NOT NULL OR digest IS NOT NULL) AND coalesce(version = ${first}::text, true)"
        f" AND (digest IS NULL OR coalesce(digest = {artifact}, false)) AND NOT {OUTDATED})"
    )


def _named(plan: Plan, first: int, parameters: list[Any]) -> str:
    cases: list[str] = []
    for index, phase in enumerate(plan.phases):
        number = first + len(parameters)
        if phase.group is not None:
            condition, more = compile_query(parse(plan.cohort.groups[phase.group]), number)
            parameters += more
        elif phase.devices is not None:
            condition = f"device_id = ANY(${number}::text[])"
            parameters.append(list(phase.devices))
        else:
            continue
        cases.append(f"WHEN {condition} THEN {index}")
    return f"(CASE {' '.join(cases)} ELSE {OTHERS} END)::smallint" if cases else f"{OTHERS}::smallint"


def attribute_names(dimensions: Sequence[str]) -> list[str]:
    """The attributes among the dimensions."""
    return [name.removeprefix(_ATTRIBUTE) for name in dimensions if name.startswith(_ATTRIBUTE)]


def dimension_columns(dimensions: Sequence[str], parameter: int) -> list[str]:
    """A device's value in each dimension, as expressions over ``device``; the attributes' names are parameters from this number on."""
    numbers = count(parameter)
    return [
        f"attributes ->> ${next(numbers)}" if name.startswith(_ATTRIBUTE) else "hardware_model" for name in dimensions
    ]


def value_columns(labels: Sequence[str], parameter: int) -> list[str]:
    """``budget.value_of`` in SQL: like :func:`dimension_columns`, with a value for devices that do not have the attribute."""
    return [f"coalesce({column}, '{MISSING}')" for column in dimension_columns(labels, parameter)]
