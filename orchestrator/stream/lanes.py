"""A lane: a connection with its share of the partitions, which applies what has come in, one transaction after the other.

Lanes do not wait for each other, so a long transaction delays only its own partitions. While one is under way the next one's records
gather, so that transactions grow with the load by themselves; an idle lane waits ``linger`` seconds for a fuller one. Deliveries keep
their order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from orchestrator.adapters.sql.facts import Delivery

ROOM = 2
"""Transactions' worth of records that may wait in a lane; whoever delivers waits beyond that, and Faust stops fetching behind it."""


class Lane:
    """Records on their way into one connection's transactions."""

    def __init__(self, apply: Callable[[Sequence[Delivery]], Awaitable[None]], *, batch: int, linger: float) -> None:
        """``apply`` never raises. ``batch``: most records of a transaction; ``linger``: seconds."""
        self._apply = apply
        self._batch = batch
        self._linger = linger
        self._waiting: deque[Delivery] = deque()
        self._records = 0
        self._since = 0.0
        self._came = asyncio.Event()
        self._full = asyncio.Event()
        self._room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.lock = asyncio.Lock()
        """Held while a transaction is under way; who claims partitions holds it too."""

    async def put(self, delivery: Delivery) -> None:
        """Hand in a delivery; returns when there is room for it, before it is applied."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        while self._records >= ROOM * self._batch:
            self._room.clear()
            await self._room.wait()
        if not self._waiting:
            self._since = asyncio.get_running_loop().time()
        self._waiting.append(delivery)
        self._records += len(delivery.records)
        self._came.set()
        if self._records >= self._batch:
            self._full.set()

    async def stop(self) -> None:
        """Let the transaction under way end; what waits then is applied after the next delivery, or by another process."""
        if self._task is not None:
            async with self.lock:
                self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._came.wait()
            await self._gather()
            async with self.lock:
                await self._apply(self._take())

    async def _gather(self) -> None:
        left = self._since + self._linger - asyncio.get_running_loop().time()
        if self._records < self._batch and left > 0:
            self._full.clear()
            try:
                await asyncio.wait_for(self._full.wait(), left)
            except TimeoutError:
                return

    def _take(self) -> list[Delivery]:
        taken: list[Delivery] = []
        left = self._batch
        while self._waiting and left > 0:
            delivery = self._waiting.popleft()
            if len(delivery.records) > left:
                delivery, rest = delivery.split(left)
                self._waiting.appendleft(rest)
            taken.append(delivery)
            left -= len(delivery.records)
        self._records -= self._batch - left
        self._room.set()
        if not self._waiting:
            self._came.clear()
        return taken
