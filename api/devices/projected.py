"""Waiting until the projection has passed a record, so that a device reads its own writes on every gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog

POLL: Final = 0.015
"""Seconds between two looks at the positions; one poller serves all who wait."""

ERROR_PAUSE: Final = 0.2
"""Seconds until the next look after one that failed."""

_log = structlog.get_logger(__name__)


class ProjectionWatch:
    """Tells when a projection has passed records. It looks only while somebody waits.

    Args:
        positions: next offset of the projection by partition.
        pause: seconds between two looks.
    """

    def __init__(self, positions: Callable[[], Awaitable[Mapping[int, int]]], pause: float = POLL) -> None:
        self._positions = positions
        self._pause = pause
        self._waiting: dict[int, list[tuple[int, asyncio.Future[None]]]] = {}
        self._watcher: asyncio.Task[None] | None = None

    async def passed(self, partition: int, offset: int, timeout: float) -> bool:
        """Whether the projection passes this record within ``timeout`` seconds."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(partition, []).append((offset, waiter))
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.create_task(self._watch())
        try:
            async with asyncio.timeout(timeout):
                await waiter
        except TimeoutError:
            return False
        return True

    async def _watch(self) -> None:
        while self._waiting:
            try:
                positions = await self._positions()
                for partition in list(self._waiting):
                    self._release(partition, positions.get(partition, 0))
                await asyncio.sleep(self._pause)
            except Exception as error:  # noqa: BLE001 (the database may be away; who waits has a timeout)
                _log.warning("projection.position_unknown", error=repr(error))
                for partition in list(self._waiting):
                    self._release(partition, 0)
                await asyncio.sleep(ERROR_PAUSE)

    def _release(self, partition: int, position: int) -> None:
        left: list[tuple[int, asyncio.Future[None]]] = []
        for offset, waiter in self._waiting.pop(partition):
            if waiter.done():
                continue
            if offset < position:
                waiter.set_result(None)
            else:
                left.append((offset, waiter))
        if left:
            self._waiting[partition] = left
