"""``orchestrator.app.backtest.CampaignHistory`` on PostgreSQL.

A device's first start and first release failure are in its assignment, which holds them folded out of both logs, whatever the order in
which they were heard (``domain.assignment``; a rebuild gives the same rows). So the past of a campaign is one pass over these rows,
grouped by moment, phase, stratum and epoch in the database: a million devices are some thousand rows per million starts and one per
failure, read through a cursor.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.sql import event_log, rules
from orchestrator.adapters.sql.campaigns import CampaignNotFoundError, stream_of
from orchestrator.adapters.sql.engine import driver
from orchestrator.adapters.sql.facts import PROJECTION
from orchestrator.app.backtest import Basis, Told
from orchestrator.domain.backtest import Tally

PAGE: Final = 5_000
"""Tallies read, and judged, at a time."""

TIMEOUT: Final = 300.0
"""Seconds for one campaign's grouping."""

_TALLIES: Final = """SELECT at, phase, stratum, epoch, sum(started)::bigint AS started, sum(failed)::bigint AS failed FROM (
    SELECT first_started_at AS at, phase, stratum, first_started_epoch AS epoch, count(*) AS started, 0 AS failed FROM assignment
    WHERE campaign_no = $1 AND first_started_epoch IS NOT NULL GROUP BY 1, 2, 3, 4
    UNION ALL
    SELECT failed_at, phase, stratum, first_started_epoch, 0, count(*) FROM assignment
    WHERE campaign_no = $1 AND first_started_epoch IS NOT NULL AND failed_at IS NOT NULL GROUP BY 1, 2, 3, 4) t
GROUP BY at, phase, stratum, epoch ORDER BY at, phase, stratum, epoch"""


async def basis(conn: asyncpg.Connection) -> Basis:
    """How far the logs have been read, in the caller's snapshot."""
    row = await conn.fetchrow(
        "SELECT (SELECT position FROM event_head) AS events, (SELECT position FROM ledger_head) AS decisions"
    )
    assert row is not None
    positions = await conn.fetch(
        'SELECT "partition", next_offset FROM projection_position WHERE projection = $1 ORDER BY 1', PROJECTION
    )
    facts = {str(each["partition"]): each["next_offset"] for each in positions}
    return Basis(events=row["events"], decisions=row["decisions"], facts=facts)


class SqlCampaignHistory:
    """Reads in one snapshot."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @asynccontextmanager
    async def told(self, campaign_id: str) -> AsyncGenerator[Told]:
        async with driver(self._engine) as conn, conn.transaction(isolation="repeatable_read", readonly=True):
            row = await conn.fetchrow(
                "SELECT campaign_no, campaign_id, release_id, digest, dossier FROM campaign WHERE campaign_id = $1",
                campaign_id,
            )
            if row is None:
                raise CampaignNotFoundError(f"There is no campaign {campaign_id[:64]!r}.")
            known = None if row["digest"] is None else rules.parse(row)
            strata = () if known is None else known.strata
            yield Told(
                recorded=await event_log.read_stream(conn, stream_of(campaign_id)),
                dossier=None if known is None else known.dossier,
                tallies=_tallies(conn, row["campaign_no"], strata),
                basis=await basis(conn),
            )


async def _tallies(conn: asyncpg.Connection, campaign_no: int, strata: Sequence[str]) -> AsyncIterator[list[Tally]]:
    page: list[Tally] = []
    async for row in conn.cursor(_TALLIES, campaign_no, prefetch=PAGE, timeout=TIMEOUT):
        number: int = row["stratum"]
        page.append(Tally(row["at"], row["phase"], strata[number], row["epoch"], row["started"], row["failed"]))
        if len(page) == PAGE:
            yield page
            page = []
    yield page
