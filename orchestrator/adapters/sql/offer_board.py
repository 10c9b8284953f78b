"""Which devices may have work: what lets a gateway answer an idle poll from memory.

The board holds the devices that had a slot when it was loaded and those that the ledger has offered to since. A device that is not on
it has nothing to do, and its poll never touches the database. A device that is on it is answered by the database, which also takes it
off again. So stale memory can hide work for as long as the ledger's tail is behind, and can never show any.

When the tail has not been read for ``STALE`` seconds the board stops vouching: every poll goes to the database.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.sql.engine import RETRYABLE, transaction

POLL: Final = 0.15
"""Seconds between two reads of the ledger's tail: one indexed statement per gateway, and what a granted offer waits at most."""

STALE: Final = 1.0
"""Seconds without a successful read after which memory no longer answers."""

log = structlog.get_logger(__name__)


class OfferBoard:
    """Follows the ledger. Start it before the gateway serves, and stop it last."""

    def __init__(self, engine: AsyncEngine, *, poll: float = POLL, stale: float = STALE) -> None:
        self._engine = engine
        self._poll = poll
        self._stale = stale
        self._devices: dict[int, int] = {}
        self._position = 0
        self._read_at = float("-inf")
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load what is there and follow from then on. Raises what the database raises."""
        await self._load()
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Stop following; the board vouches for nobody any more."""
        self._read_at = float("-inf")
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def position(self) -> int:
        """Ledger position up to which offers are on the board."""
        return self._position

    def idle(self, device_no: int) -> bool:
        """Whether the device certainly had nothing to do as of the last read of the tail."""
        return device_no not in self._devices and time.monotonic() - self._read_at < self._stale

    def put_on(self, device_no: int) -> None:
        """The database showed work for the device, perhaps before the tail did."""
        self._devices.setdefault(device_no, self._position + 1)

    def take_off(self, device_no: int, position: int) -> None:
        """The database found no work for the device; ``position`` is the board's from *before* it was asked.

        An offer that came on the board later may not have been visible to that question, so it stays.
        """
        added = self._devices.get(device_no)
        if added is not None and added <= position:
            del self._devices[device_no]

    async def _load(self) -> None:
        async with transaction(self._engine) as conn:
            # The position first: an offer that commits between the two statements is on the board twice, never missing.
            position = await conn.fetchval("SELECT position FROM ledger_head") or 0
            rows = await conn.fetch("SELECT device_no FROM device_slot")
        self._devices = {row["device_no"]: position for row in rows}
        self._position = position
        self._read_at = time.monotonic()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._poll)
            try:
                await self._read()
            except RETRYABLE as error:
                log.warning("offers.tail_unread", error=repr(error))

    async def _read(self) -> None:
        asked_at = time.monotonic()
        async with transaction(self._engine) as conn:
            # The head is read first: rows up to it are visible to the second statement, because positions become visible in order.
            head = await conn.fetchval("SELECT position FROM ledger_head") or 0
            rows = (
                await conn.fetch(
                    "SELECT position, device_nos FROM decision_ledger WHERE position > $1 AND position <= $2"
                    " AND kind = 'offer' ORDER BY position",
                    self._position,
                    head,
                )
                if head > self._position
                else []
            )
        for row in rows:
            for device_no in row["device_nos"]:
                self._devices[device_no] = row["position"]
        self._position = max(self._position, head)
        self._read_at = asked_at
