"""The registered devices as campaigns see them: page by page, or counted by stratum and by what budgets look at.

Counting happens in the database, a million devices in about a second; a test compares it with ``selection.select`` over the pages.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters import clock
from orchestrator.adapters.sql import inspection, owners
from orchestrator.adapters.sql.engine import driver
from orchestrator.adapters.sql.selection import OTHERS, OUTDATED, attribute_names, cohort_of, member, value_columns
from orchestrator.app.campaigns import Counted
from orchestrator.app.inspection import Inspection
from orchestrator.app.ports import Member
from orchestrator.domain.budget import MAX_VALUES
from orchestrator.domain.cohort import stratum_of
from orchestrator.domain.plan import Plan
from orchestrator.domain.selection import Target

PAGE: Final = 10_000
"""Devices read at a time: a few milliseconds of decoding between two turns of the event loop."""

_BY_VALUE: Final = "SELECT {value} AS value, count(*)::bigint AS n FROM device GROUP BY 1 ORDER BY 1 LIMIT $1"


class SqlFleet:
    """``orchestrator.app.ports.Fleet`` and ``orchestrator.app.campaigns.Cohorts`` on PostgreSQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def members(self, hardware_models: Sequence[str]) -> AsyncIterator[Sequence[Member]]:
        after = -1
        while True:
            async with driver(self._engine) as conn:
                rows = await conn.fetch(
                    f"SELECT device_no, device_id, hardware_model, attributes, version, digest, {OUTDATED} FROM device"
                    " WHERE device_no > $1 AND hardware_model = ANY($2::text[]) ORDER BY device_no LIMIT $3",
                    after,
                    list(hardware_models),
                    PAGE,
                )
            if not rows:
                return
            after = rows[-1]["device_no"]
            yield [Member(*row) for row in rows]

    async def count(self, plan: Plan, target: Target) -> Counted:
        dimensions = plan.cohort.stratify_by
        cohort = cohort_of(plan, target, 1)
        columns = ["hardware_model", *cohort.dimensions, cohort.named]
        query = (
            f"SELECT {', '.join(columns)}, count(*)::bigint FROM device WHERE {cohort.condition}"
            f" GROUP BY {', '.join(str(number) for number, _ in enumerate(columns, 1))}"
        )
        async with driver(self._engine) as conn, conn.transaction(isolation="repeatable_read", readonly=True):
            # Events become visible in order, so what this snapshot does not show was registered after the last one that it shows.
            at: Any = await conn.fetchval("SELECT recorded_at FROM event_log ORDER BY position DESC LIMIT 1")
            rows: list[Any] = await conn.fetch(query, *cohort.parameters)
            budget = [await self._by_value(conn, rule.label) for rule in plan.budget]
        sizes: defaultdict[str, int] = defaultdict(int)
        named: defaultdict[int, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
        for _, *values, phase, devices in rows:
            key = stratum_of(dimensions, values)
            sizes[key] += devices
            if phase != OTHERS:
                named[phase][key] += devices
        return Counted(
            strata=dict(sorted(sizes.items())),
            named={phase: dict(found) for phase, found in sorted(named.items())},
            at=at or 0,
            budget=tuple(budget),
        )

    async def inspect(self, plan: Plan, target: Target, campaign_no: int) -> Inspection:
        async with driver(self._engine) as conn, conn.transaction(isolation="repeatable_read", readonly=True):
            return await inspection.inspect(conn, plan, target, campaign_no, clock.now_ms())

    async def _by_value(self, conn: asyncpg.Connection, label: str) -> dict[str, int]:
        """Devices of the whole fleet by value of a label; of too many values one more than a plan may have."""
        (value,) = value_columns([label], 2)
        rows = await conn.fetch(_BY_VALUE.format(value=value), MAX_VALUES + 1, *attribute_names([label]))
        return {row["value"]: row["n"] for row in rows}

    async def withheld(self, plan: Plan, target: Target, *, release_id: str, campaign_id: str) -> dict[str, int]:
        parameters: list[Any] = []
        cohort = member(plan, target, 1, parameters), parameters
        async with driver(self._engine) as conn:
            return await owners.count(
                conn, plan, cohort, release_id=release_id, campaign_id=campaign_id, now=clock.now_ms()
            )
