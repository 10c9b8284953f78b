"""The registered devices as campaigns see them: page by page, or counted by stratum and by what budgets look at.

Counting happens in the database, a million devices in about a second; a test compares it with ``selection.select`` over the pages.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Sequence
from itertools import count
from typing import Any, Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters import clock
from orchestrator.adapters.sql import owners
from orchestrator.adapters.sql.engine import driver
from orchestrator.adapters.sql.filters import compile_query
from orchestrator.adapters.sql.remediation import updated
from orchestrator.app.campaigns import Counted
from orchestrator.app.ports import Member
from orchestrator.domain.budget import MAX_VALUES
from orchestrator.domain.cohort import MISSING, stratum_of
from orchestrator.domain.plan import Plan

PAGE: Final = 10_000
"""Devices read at a time: a few milliseconds of decoding between two turns of the event loop."""

SELECTED: Final = """hardware_model = ANY($1::text[]) AND NOT device_id = ANY($2::text[])
AND ($3::text[] = '{}' OR device_id = ANY($3::text[]))"""
"""Which rows of ``device`` a cohort takes in: hardware models, excluded and included device ids; ``selection.select`` in SQL."""

_BY_VALUE: Final = "SELECT {value} AS value, count(*)::bigint AS n FROM device GROUP BY 1 ORDER BY 1 LIMIT $1"

_ATTRIBUTE: Final = "attribute."


class SqlFleet:
    """``orchestrator.app.ports.Fleet`` and ``orchestrator.app.campaigns.Cohorts`` on PostgreSQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def members(self, hardware_models: Sequence[str]) -> AsyncIterator[Sequence[Member]]:
        after = -1
        while True:
            async with driver(self._engine) as conn:
                rows = await conn.fetch(
                    "SELECT device_no, device_id, hardware_model, attributes, version FROM device"
                    " WHERE device_no > $1 AND hardware_model = ANY($2::text[]) ORDER BY device_no LIMIT $3",
                    after,
                    list(hardware_models),
                    PAGE,
                )
            if not rows:
                return
            after = rows[-1]["device_no"]
            yield [Member(*row) for row in rows]

    async def count(self, plan: Plan, hardware_models: Collection[str]) -> Counted:
        dimensions, attributes = plan.cohort.stratify_by, attribute_names(plan.cohort.stratify_by)
        columns = ["hardware_model", *dimension_columns(dimensions, 4)]
        condition, parameters = selector(plan, 4 + len(attributes))
        query = (
            f"SELECT {', '.join(columns)}, count(*)::bigint FROM device WHERE {SELECTED} AND {condition}"
            f" GROUP BY {', '.join(str(number) for number, _ in enumerate(columns, 1))}"
        )
        include, exclude = list(plan.cohort.include), list(plan.cohort.exclude)
        async with driver(self._engine) as conn, conn.transaction(isolation="repeatable_read", readonly=True):
            # Events become visible in order, so what this snapshot does not show was registered after the last one that it shows.
            at: Any = await conn.fetchval("SELECT recorded_at FROM event_log ORDER BY position DESC LIMIT 1")
            rows: list[Any] = await conn.fetch(
                query, sorted(hardware_models), exclude, include, *attributes, *parameters
            )
            budget = [await self._by_value(conn, rule.label) for rule in plan.budget]
        sizes: defaultdict[str, int] = defaultdict(int)
        for _, *values, devices in rows:
            sizes[stratum_of(dimensions, values)] += devices
        return Counted(strata=dict(sorted(sizes.items())), at=at or 0, budget=tuple(budget))

    async def _by_value(self, conn: asyncpg.Connection, label: str) -> dict[str, int]:
        """Devices of the whole fleet by value of a label; of too many values one more than a plan may have."""
        (value,) = value_columns([label], 2)
        rows = await conn.fetch(_BY_VALUE.format(value=value), MAX_VALUES + 1, *attribute_names([label]))
        return {row["value"]: row["n"] for row in rows}

    async def withheld(
        self, plan: Plan, hardware_models: Collection[str], *, release_id: str, campaign_id: str
    ) -> dict[str, int]:
        condition, parameters = selector(plan, 4)
        listed = [sorted(hardware_models), list(plan.cohort.exclude), list(plan.cohort.include)]
        cohort = f"{SELECTED} AND {condition}", [*listed, *parameters]
        async with driver(self._engine) as conn:
            return await owners.count(
                conn, plan, cohort, release_id=release_id, campaign_id=campaign_id, now=clock.now_ms()
            )


def selector(plan: Plan, first: int) -> tuple[str, list[Any]]:
    """The plan's selector and ``updated_by`` as a condition on ``device``, and its parameters, numbered from ``first`` on."""
    taken, parameters = updated(plan.cohort, first)
    if plan.query is None:
        return taken, parameters
    condition, more = compile_query(plan.query, first + len(parameters))
    return f"{taken} AND {condition}", parameters + more


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
