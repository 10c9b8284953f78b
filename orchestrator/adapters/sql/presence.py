"""When each device was last seen. Coalesced, written late, losable: never part of a decision that must not be wrong."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.sql.engine import RETRYABLE, transaction

MAX_ROWS: Final = 5_000
"""Devices per statement."""

MAX_PENDING: Final = 500_000
"""Devices held while the database is away; later ones are not noted, the next poll is."""

_UPSERT: Final = """INSERT INTO presence AS p (device_no, last_seen_at) SELECT * FROM unnest($1::int[], $2::bigint[])
ON CONFLICT (device_no) DO UPDATE SET last_seen_at = EXCLUDED.last_seen_at WHERE p.last_seen_at < EXCLUDED.last_seen_at"""

_log = structlog.get_logger(__name__)


class PresenceWriter:
    """Collects last-seen times and writes them every ``flush_ms`` milliseconds; one per gateway process."""

    def __init__(self, engine: AsyncEngine, flush_ms: int) -> None:
        self._engine = engine
        self._pause = flush_ms / 1000
        self._seen: dict[int, int] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Write what is left and end."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        await self._flush()

    def seen(self, device_no: int, at: int) -> None:
        """Note that a device was here ``at`` (ms since the epoch)."""
        if len(self._seen) < MAX_PENDING or device_no in self._seen:
            self._seen[device_no] = at

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._pause)
            await self._flush()

    async def _flush(self) -> None:
        seen, self._seen = self._seen, {}
        # In key order, so that two gateways that note the same devices cannot lock each other out.
        rows = sorted(seen.items())
        for at in range(0, len(rows), MAX_ROWS):
            part = rows[at : at + MAX_ROWS]
            try:
                async with transaction(self._engine) as conn:
                    await conn.execute(_UPSERT, [device for device, _ in part], [time for _, time in part])
            except (SQLAlchemyError, *RETRYABLE) as error:
                _log.warning("presence.not_written", devices=len(rows) - at, error=repr(error))
                for device, time in rows[at:]:
                    self._seen.setdefault(device, time)
                return
