"""Whether the log of facts still holds what the projection has not read, for whoever asks: people, probes, alarms; and the way out.

A look reads the positions first and the broker second. The log may grow between the two, never shrink: what a look finds lost is
lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.kafka.partitions import LogEnds
from orchestrator.adapters.sql import losses, positions
from orchestrator.adapters.sql.engine import RETRYABLE, driver, make_engine
from orchestrator.adapters.sql.facts import PROJECTION
from orchestrator.config import Settings
from orchestrator.domain.log_loss import Bookmark, LogDamageError, LogState, Loss, find_losses
from orchestrator.errors import NotFoundError, UnavailableError
from schemas.log_events import LogLossAccepted

PROBE_PATIENCE: Final = 1.0
"""Seconds that a probe waits for a look: half of what it may take in all. A look takes milliseconds."""

_log = structlog.get_logger(__name__)


class TopicNotProjectedError(NotFoundError):
    """No projection reads this topic."""

    code = "projection.topic_not_found"


@dataclass(frozen=True, slots=True)
class Look:
    """The projection and its log at about one moment."""

    topic: str
    bookmarks: Mapping[int, Bookmark]
    """Without partitions that were never claimed."""
    log: LogState

    @property
    def losses(self) -> list[Loss]:
        """What is gone unread, by partition."""
        return find_losses(self.topic, self.bookmarks, self.log)

    def lag(self, partition: int) -> int:
        """Records that were not read yet; of no meaning where there is a loss."""
        position = self.bookmarks[partition].next_offset if partition in self.bookmarks else 0
        return max(0, self.log.bounds[partition][1] - position)


class LogWatch:
    """Looks again and again over connections that it keeps. Stop it when done."""

    def __init__(self, engine: AsyncEngine, settings: Settings) -> None:
        self._engine = engine
        self._topic = settings.device_events_topic
        self._ends = LogEnds(settings.kafka_bootstrap, self._topic)
        self._looking: asyncio.Task[None] | None = None
        self._found: list[Loss] = []

    async def bookmarks(self) -> Mapping[int, Bookmark]:
        """Where the projection reads on."""
        async with driver(self._engine) as conn:
            return await positions.bookmarks(conn, PROJECTION, self._topic)

    async def look(self) -> Look:
        """Raises UnavailableError, and what the database raises."""
        bookmarks = await self.bookmarks()
        return Look(self._topic, bookmarks, await self._ends.state())

    async def damaged_partitions(self) -> int:
        """How many partitions have a loss. Raises as :meth:`look`."""
        return len((await self.look()).losses)

    async def check(self) -> None:
        """A readiness check: raises LogDamageError.

        A broker or database that is away or slow is no damage, and does not make a probe wait: what the last look found stands.
        """
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._remember())
        await asyncio.wait([self._looking], timeout=PROBE_PATIENCE)
        if self._found:
            raise LogDamageError.of(self._found)

    async def stop(self) -> None:
        """Disconnect from the broker."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        await self._ends.stop()

    async def _remember(self) -> None:
        try:
            self._found = (await self.look()).losses
        except (UnavailableError, *RETRYABLE) as error:
            _log.warning("projection.log_unseen", error=repr(error))


async def look_once(settings: Settings) -> Look:
    """One look, over connections of its own. Raises UnavailableError, and what the database raises."""
    engine = make_engine(settings.database_url, pool_size=1, application="ota-cli")
    watch = LogWatch(engine, settings)
    try:
        return await watch.look()
    finally:
        await watch.stop()
        await engine.dispose()


async def accept_loss(settings: Settings, topic: str, wanted: losses.Acceptance) -> LogLossAccepted:
    """Accept exactly this loss, as the broker has the log now. Raises as :func:`losses.accept`, and TopicNotProjectedError."""
    if topic != settings.device_events_topic:
        raise TopicNotProjectedError(
            f"The projection does not read {topic}.", remedy=f"It reads {settings.device_events_topic}."
        )
    engine = make_engine(settings.database_url, pool_size=1, application="ota-cli")
    ends = LogEnds(settings.kafka_bootstrap, topic)
    try:
        return await losses.accept(engine, topic, await ends.state(), wanted)
    finally:
        await ends.stop()
        await engine.dispose()
