"""The relay: carries what the event log holds to those who are told, each consumer at its own pace.

One process at a time relays, elected by ``Leadership``; the order of the log is kept, and a consumer's position moves only after it
has taken what it was given. A crash between the two repeats the tail, so consumers are idempotent. One that is down is tried again
with growing pauses, and the others go on.

Not here: deciding anything. What a consumer is told has been in force since its commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import Final, Protocol

import structlog

from orchestrator import failpoints
from orchestrator.app.ports import Recorded

BATCH: Final = 500
"""Events handed over at once: what is repeated after a crash, and what a consumer holds in memory."""

POLL_MS: Final = 200
"""Pause at the end of the log: adds to the time until a workflow learns of a launch; one indexed statement each."""

ELECTION_MS: Final = 1_000
"""Pause between two attempts to become leader, and between two checks that the leadership still stands."""

FIRST_PAUSE_MS: Final = 250
"""Pause after a first failed delivery; doubled with each further one."""

LONGEST_PAUSE_MS: Final = 10_000
"""Cap of that pause: a consumer that is back is noticed within it."""

_log = structlog.get_logger(__name__)


class LogReader(Protocol):
    async def read(self, after_position: int, limit: int) -> Sequence[Recorded]:
        """Events in the order of the log."""
        ...


class Bookmarks(Protocol):
    """How far each consumer has come."""

    async def load(self, consumer: str) -> int:
        """Position of the last event that the consumer took; 0 before the first."""
        ...

    async def store(self, consumer: str, position: int) -> None:
        """Move forward; a position behind the stored one changes nothing."""
        ...


class Leadership(Protocol):
    """The right to relay; it falls to somebody else when its holder dies."""

    async def acquire(self) -> bool:
        """Try once."""
        ...

    async def held(self) -> bool:
        """Whether it still stands."""
        ...

    async def release(self) -> None: ...


class Consumer(Protocol):
    @property
    def name(self) -> str:
        """Under which its position is kept."""
        ...

    async def deliver(self, events: Sequence[Recorded]) -> None:
        """Take all of them, in order, or raise. Repetition must do no harm."""
        ...


class Relay:
    """Relays to ``consumers`` while it leads."""

    def __init__(
        self,
        log: LogReader,
        bookmarks: Bookmarks,
        leadership: Leadership,
        consumers: Sequence[Consumer],
        *,
        poll_ms: int = POLL_MS,
        election_ms: int = ELECTION_MS,
        first_pause_ms: int = FIRST_PAUSE_MS,
    ) -> None:
        self._log = log
        self._bookmarks = bookmarks
        self._leadership = leadership
        self._consumers = consumers
        self._poll = poll_ms / 1_000
        self._election = election_ms / 1_000
        self._first_pause = first_pause_ms / 1_000
        self.leading = False
        """Whether this process relays now; one that stands by is in good health too."""

    async def run(self, stop: asyncio.Event) -> None:
        """Stand for election and relay until ``stop``."""
        while not stop.is_set():
            if await self._attempt(self._leadership.acquire()):
                await self._lead(stop)
            else:
                await _pause(stop, self._election)

    async def _lead(self, stop: asyncio.Event) -> None:
        _log.info("relay.leading")
        self.leading = True
        feeds = [asyncio.create_task(self._feed(consumer)) for consumer in self._consumers]
        try:
            while not stop.is_set() and await self._attempt(self._leadership.held()):
                await _pause(stop, self._election)
        finally:
            self.leading = False
            for feed in feeds:
                feed.cancel()
            await asyncio.gather(*feeds, return_exceptions=True)
            await self._leadership.release()
            _log.info("relay.stepped_down")

    async def _feed(self, consumer: Consumer) -> None:
        pause = self._first_pause
        while True:
            try:
                if not await self._hand_over(consumer):
                    await asyncio.sleep(self._poll)
                pause = self._first_pause
            except Exception as error:  # noqa: BLE001 (whatever a consumer fails with, the others go on and it is tried again)
                _log.warning("relay.delivery_failed", consumer=consumer.name, error=repr(error), pause=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_MS / 1_000)

    async def _hand_over(self, consumer: Consumer) -> bool:
        position = await self._bookmarks.load(consumer.name)
        events = await self._log.read(position, BATCH)
        if not events:
            return False
        failpoints.hit("relay.before_deliver")
        await consumer.deliver(events)
        failpoints.hit("relay.before_bookmark")
        await self._bookmarks.store(consumer.name, events[-1].position)
        return True

    async def _attempt(self, question: Awaitable[bool]) -> bool:
        try:
            return await question
        except Exception as error:  # noqa: BLE001 (a database that restarts: nobody leads until it is back)
            _log.warning("relay.election_failed", error=repr(error))
            return False


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
