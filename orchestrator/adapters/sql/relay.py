"""The relay's side of PostgreSQL: the log in its order, the consumers' positions, and the lock that elects a leader."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.sql import event_log
from orchestrator.adapters.sql.engine import CONNECTION_ERRORS, driver, transaction
from orchestrator.adapters.sql.locks import RELAY
from orchestrator.app.ports import Recorded


class SqlLogReader:
    """``orchestrator.app.relay.LogReader``. Positions become visible in order, so a reader that remembers the last one misses none."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def read(self, after_position: int, limit: int) -> Sequence[Recorded]:
        async with driver(self._engine) as conn:
            return await event_log.read_all(conn, after_position, limit)


class SqlBookmarks:
    """``orchestrator.app.relay.Bookmarks``."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def load(self, consumer: str) -> int:
        async with driver(self._engine) as conn:
            return await conn.fetchval("SELECT position FROM relay_position WHERE consumer = $1", consumer) or 0

    async def store(self, consumer: str, position: int) -> None:
        async with transaction(self._engine) as conn:
            await conn.execute(
                "INSERT INTO relay_position AS r (consumer, position) VALUES ($1, $2)"
                " ON CONFLICT (consumer) DO UPDATE SET position = greatest(r.position, excluded.position)",
                consumer,
                position,
            )


class SqlLeadership:
    """``orchestrator.app.relay.Leadership``: an advisory lock of one session, which PostgreSQL gives up when the session ends."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._session: AsyncExitStack | None = None
        self._conn: asyncpg.Connection | None = None

    async def acquire(self) -> bool:
        async with AsyncExitStack() as session:
            conn = await session.enter_async_context(driver(self._engine))
            if not await conn.fetchval("SELECT pg_try_advisory_lock($1)", RELAY):
                return False
            self._conn, self._session = conn, session.pop_all()
            return True

    async def held(self) -> bool:
        if self._conn is None:
            return False
        # The lock lasts as long as the session does, so asking the session for a sign of life is enough.
        await self._conn.execute("SELECT 1")
        return True

    async def release(self) -> None:
        conn, session = self._conn, self._session
        self._conn = self._session = None
        if conn is None or session is None:
            return
        async with session:
            # The connection goes back to the pool and lives on: the lock has to be given up by name.
            with suppress(*CONNECTION_ERRORS):
                await conn.execute("SELECT pg_advisory_unlock($1)", RELAY)
