"""What the process manager reads beside the campaigns themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.sql import positions
from orchestrator.adapters.sql.engine import driver
from orchestrator.adapters.sql.facts import PROJECTION
from orchestrator.domain.assignment import ACTIVE
from orchestrator.domain.campaign import LIVE, TERMINAL
from orchestrator.domain.log_loss import Bookmark
from schemas.campaign_events import CohortEnrolled


class SqlEnrolments:
    """``orchestrator.app.process.Enrolments``."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def phase_sizes(self, campaign_id: str) -> Sequence[int]:
        async with driver(self._engine) as conn:
            stored = await conn.fetchval("SELECT enrolment FROM campaign WHERE campaign_id = $1", campaign_id)
        return [] if stored is None else msgspec.convert(stored, CohortEnrolled).phases


class SqlPositions:
    """``orchestrator.app.process.Positions`` of the fleet projection; ``topic`` is the full name of the device events topic."""

    def __init__(self, engine: AsyncEngine, topic: str) -> None:
        self._engine = engine
        self._topic = topic

    async def positions(self) -> Mapping[int, int]:
        async with driver(self._engine) as conn:
            return await positions.positions(conn, PROJECTION, self._topic)

    async def bookmarks(self) -> Mapping[int, Bookmark]:
        """The same, with the incarnation of the topic."""
        async with driver(self._engine) as conn:
            return await positions.bookmarks(conn, PROJECTION, self._topic)


class SqlUnfinished:
    """``orchestrator.app.process.Unfinished``."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def campaigns(self) -> Sequence[str]:
        async with driver(self._engine) as conn:
            rows = await conn.fetch(
                "SELECT campaign_id FROM campaign c WHERE state = ANY($1::text[]) OR (state = ANY($2::text[]) AND"
                " (SELECT sum(n) FROM counter WHERE campaign_no = c.campaign_no AND state = ANY($3::text[])) > 0)"
                " ORDER BY campaign_no",
                sorted(LIVE),
                sorted(TERMINAL),
                sorted(ACTIVE),
            )
        return [row["campaign_id"] for row in rows]
