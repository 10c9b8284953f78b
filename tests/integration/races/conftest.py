"""Races with a known order: all queue up behind one lock, so who is first is the test's to say and not the machine's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from tests.support.oracle import Evidence, Verdict, judge
from tests.support.waiting import until
from tests.support.witnesses import LogRecord, read_tables
from tests.support.world import World

ROWS = "SELECT FROM assignment ORDER BY device_no FOR UPDATE"
"""Holds what every transaction about a device has to pass."""

_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


class Line:
    """Transactions that wait for a lock. PostgreSQL lets them pass in the order in which they came."""

    def __init__(self, watch: asyncpg.Connection) -> None:
        self._watch = watch
        self.tasks: list[asyncio.Task[Any]] = []

    async def join(self, work: Coroutine[Any, Any, Any]) -> None:
        """Start ``work``; return once it waits behind all that came before it."""
        task = asyncio.create_task(work)
        self.tasks.append(task)

        async def waits() -> bool:
            assert not task.done(), f"it passed the lock that the race is about: {task!r}"
            return await self._watch.fetchval(_WAITING) == len(self.tasks)

        await until(waits)

    @property
    def results(self) -> list[Any]:
        """What each has returned, in the order of the line; once all have passed."""
        return [task.result() for task in self.tasks]


class Race:
    """A fleet on a real database, where the order of transactions can be chosen."""

    def __init__(self, world: World, url: str) -> None:
        self.world = world
        self._url = url

    @asynccontextmanager
    async def behind(self, sql: str, *arguments: Any) -> AsyncIterator[Line]:
        """Hold the locks that ``sql`` takes while the block fills the line; then let all pass, and wait for them."""
        holder, watch = await asyncpg.connect(self._url), await asyncpg.connect(self._url)
        line = Line(watch)
        try:
            async with holder.transaction():
                await holder.execute(sql, *arguments)
                yield line
            await asyncio.gather(*line.tasks)
        finally:
            holder.terminate()
            watch.terminate()
            await asyncio.gather(*line.tasks, return_exceptions=True)

    async def judge(self) -> Verdict:
        """What the oracle finds in the tables."""
        records = [LogRecord(p, r.offset, r.value) for p, log in self.world.log.items() for r in log]
        return judge(Evidence(await read_tables(self._url), records))


@pytest.fixture
async def race(engine, database_url) -> Race:
    world = World(engine)
    await world.setup()
    return Race(world, database_url)
