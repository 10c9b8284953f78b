"""The registered devices as campaigns see them: page by page, or counted by stratum.

Counting happens in the database, a million devices in about a second; a test compares it with ``selection.select`` over the pages.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.sql.engine import driver
from orchestrator.app.ports import Member
from orchestrator.domain.cohort import stratum_key
from orchestrator.domain.plan import Plan

PAGE: Final = 10_000
"""Devices read at a time: a few milliseconds of decoding between two turns of the event loop."""

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
                    "SELECT device_no, device_id, hardware_model, attributes FROM device"
                    " WHERE device_no > $1 AND hardware_model = ANY($2::text[]) ORDER BY device_no LIMIT $3",
                    after,
                    list(hardware_models),
                    PAGE,
                )
            if not rows:
                return
            after = rows[-1]["device_no"]
            yield [Member(row[0], row[1], row[2], row[3]) for row in rows]

    async def strata_sizes(self, plan: Plan, hardware_models: Collection[str]) -> dict[str, int]:
        names = [d.removeprefix(_ATTRIBUTE) for d in plan.cohort.stratify_by if d.startswith(_ATTRIBUTE)]
        values = ", ".join(f"attributes ->> ${index}" for index in range(4, 4 + len(names)))
        keys = ", ".join(str(index) for index in range(1, 2 + len(names)))
        query = (
            f"SELECT hardware_model, {values + ', ' if values else ''}count(*)::bigint FROM device"
            " WHERE hardware_model = ANY($1::text[]) AND NOT device_id = ANY($2::text[])"
            " AND ($3::text[] = '{}' OR device_id = ANY($3::text[]))"
            f" GROUP BY {keys}"
        )
        include, exclude = list(plan.cohort.include), list(plan.cohort.exclude)
        async with driver(self._engine) as conn:
            rows: list[Any] = await conn.fetch(query, sorted(hardware_models), exclude, include, *names)
        sizes: defaultdict[str, int] = defaultdict(int)
        for model, *found, count in rows:
            attributes = {name: value for name, value in zip(names, found, strict=True) if value is not None}
            sizes[stratum_key(plan.cohort.stratify_by, model, attributes)] += count
        return dict(sorted(sizes.items()))
