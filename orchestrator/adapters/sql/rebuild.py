"""Every projection again, from the two logs, beside the live ones; then compared, and put in their place.

The live code runs on connections whose ``search_path`` puts the shadow's tables before the live ones, so the logs are read where they
are and rows are written into the shadow. No side effect is repeated: verdicts are events and are copied, nothing is appended.

Comparing stops nobody: a snapshot of the live tables is a cut of the logs, the shadow is brought to the same cut and waits there. So
projectors, decisions and readers go on until the switch (``switch``), and ``verify`` never holds anybody up.

What fails because a server is away is tried again from the checkpoint (``shadow``), as is a rebuild that died.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import asyncpg
import structlog
from aiokafka.errors import KafkaError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import failpoints
from orchestrator.adapters.kafka.fact_log import KafkaFacts
from orchestrator.adapters.sql import event_log, switch
from orchestrator.adapters.sql.catch_up import LANES, CatchUp, Cut, FactSource, changed_since, read_cut
from orchestrator.adapters.sql.comparison import Difference, Progress, Sides, differences
from orchestrator.adapters.sql.engine import RETRYABLE, driver, make_engine, transaction
from orchestrator.adapters.sql.locks import REBUILD
from orchestrator.adapters.sql.positions import FencedError
from orchestrator.adapters.sql.shadow import (
    REBUILT,
    SHADOW,
    Shadow,
    Stage,
    check_replaceable,
    drop_shadow,
    finish_loading,
    open_shadow,
)
from orchestrator.app.ports import Meta
from orchestrator.config import Settings
from orchestrator.errors import ConflictError, OtaError, UnavailableError
from schemas.registry_events import ProjectionsReplaced

STREAM: Final = "projections"
"""Of the event that says who accepted differences."""

NAMED: Final = 20
"""Differences that such an event names; there is at most one for each table."""

OTHER_MS: Final = 5_000
"""How long to wait until another rebuild has ended."""

AGAIN: Final = (*RETRYABLE, SQLAlchemyError, KafkaError, FencedError)
"""What opening the shadow again may heal. Fenced, because commits may be lost with a database that went down."""

MAX_BACKOFF: Final = 2.0
"""Seconds between attempts while a server is away."""

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")


class RebuildRunningError(ConflictError):
    """Another rebuild or comparison is running."""

    code = "rebuild.running"
    remedy = "Wait for it, or stop it; what it has done is not lost."


class LostShadowError(ConflictError):
    """The tables of this rebuild were dropped while it ran: a loss of the log was accepted, which changes what it has read."""

    code = "rebuild.lost"
    remedy = "Run it again; it begins anew."


class DifferentError(ConflictError):
    """Live and rebuilt rows differ, so nothing was switched."""

    code = "rebuild.different"
    remedy = (
        "Find out why. If the live tables are the damaged ones, run it again with --accept-differences REASON,"
        " which goes on from here; --restart begins anew."
    )

    def __init__(self, found: Sequence[Difference]) -> None:
        super().__init__(f"{found[0]}.", tables=[each.table for each in found])
        self.found = list(found)


class GaveUpError(UnavailableError):
    """A service did not come back."""

    code = "rebuild.gave_up"
    remedy = "`ota doctor` says which one is away. Run it again; it goes on from here."


class SwitchBusyError(UnavailableError):
    """The tables were never free for a moment."""

    code = "rebuild.busy"
    remedy = "Look for long transactions, end them, and run it again; it goes on from here."


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild did."""

    rows: dict[str, int]
    """Rows by table."""
    accepted: list[Difference]
    attempts: int
    """To get the locks of the switch."""
    waited_ms: int
    """How long writers waited at the last one."""
    resumed: bool


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Why differences between the live and the rebuilt rows are no reason to keep the live ones, and who says so."""

    reason: str
    actor: str


def _ignore(_what: str, _n: int, _of: int) -> None:
    pass


Sources = Callable[[], list[FactSource]]


async def verify(
    settings: Settings, progress: Progress = _ignore, *, restart: bool = False, sources: Sources | None = None
) -> list[Difference]:
    """Rebuild beside the live tables and compare: the first difference of each table. Leaves nothing behind.

    Raises:
        OtherShadowError: an unfinished rebuild is there that cannot be continued.
        RebuildRunningError: another one is at work.
        LogDamageError: the topic does not hold all facts.
    """

    async def work(site: _Site) -> list[Difference] | None:
        if site.shadow.stage is Stage.SWITCHED:
            await site.finish()
            return None
        found, _ = await site.compare()
        async with transaction(site.live) as conn:
            await drop_shadow(conn)
        return found

    found = None
    while found is None:
        found = await _persist(settings, progress, work, restart=restart, sources=sources)
    return found


async def rebuild(
    settings: Settings,
    progress: Progress = _ignore,
    *,
    restart: bool = False,
    accept: Acceptance | None = None,
    sources: Sources | None = None,
) -> Rebuilt:
    """Rebuild, compare, and put the rebuilt tables in the place of the live ones.

    Raises:
        DifferentError: the rows differ, and ``accept`` was not given.
        SwitchBusyError: the locks of the switch could not be had.
        OtherShadowError, RebuildRunningError, LogDamageError: as :func:`verify`.
    """

    async def work(site: _Site) -> Rebuilt:
        if site.shadow.stage is Stage.SWITCHED:  # an earlier run died after its switch
            return Rebuilt(await site.finish(), [], 0, 0, resumed=True)
        async with driver(site.live) as conn:
            await check_replaceable(conn)
        found, cut = await site.compare()
        if found and accept is None:
            raise DifferentError(found)
        return await site.replace(found, cut, accept)

    return await _persist(settings, progress, work, restart=restart, sources=sources)


async def _persist(
    settings: Settings,
    progress: Progress,
    work: Callable[[_Site], Coroutine[Any, Any, _T]],
    *,
    restart: bool,
    sources: Sources | None,
) -> _T:
    """Do ``work`` on an opened shadow; over errors that may pass open it again, as long as it gets further now and then."""
    moved = time.monotonic()

    def noted(what: str, n: int, of: int) -> None:
        nonlocal moved
        moved = time.monotonic()
        progress(what, n, of)

    pause = 0.05
    while True:
        try:
            async with _site(settings, noted, restart=restart, sources=sources) as site:
                restart = False
                return await work(site)
        except asyncpg.UndefinedTableError as error:
            if SHADOW not in str(error):
                raise
            raise LostShadowError from error
        except AGAIN as error:
            if time.monotonic() - moved > settings.rebuild_patience_s:
                if isinstance(error, OtaError):
                    raise
                raise GaveUpError(f"A rebuild got no further: {error!r}.") from error
            _log.warning("rebuild.retry", error=repr(error), pause=pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, MAX_BACKOFF)


@asynccontextmanager
async def _site(
    settings: Settings, progress: Progress, *, restart: bool, sources: Sources | None
) -> AsyncGenerator[_Site]:
    live = make_engine(settings.database_url, pool_size=4, application="ota-rebuild")
    fresh = make_engine(
        settings.database_url,
        pool_size=LANES,
        application="ota-rebuild",
        search_path=f"{SHADOW},public",
        hot=True,
        durable=False,
    )
    readers: list[FactSource] = (
        sources()
        if sources is not None
        else [KafkaFacts(settings.kafka_bootstrap, settings.device_events_topic) for _ in range(LANES)]
    )
    async with AsyncExitStack() as stack:
        for engine in (live, fresh):
            stack.push_async_callback(engine.dispose)
        for reader in readers:
            stack.push_async_callback(reader.stop)
        await _be_the_only_one(await stack.enter_async_context(driver(live)))
        topic = settings.device_events_topic
        async with transaction(live) as conn:
            shadow = await open_shadow(conn, topic, restart=restart)
        catch_up = CatchUp(live, fresh, topic, shadow, readers, batch=settings.rebuild_batch, progress=progress)
        yield _Site(settings, live, topic, shadow, catch_up, progress)


async def _be_the_only_one(conn: asyncpg.Connection) -> None:
    """For as long as the connection lives. Raises RebuildRunningError."""
    try:
        # Not at once: the session of a rebuild that was killed a moment ago may not have noticed.
        await conn.execute(f"SET lock_timeout = {OTHER_MS}")
        await conn.execute("SELECT pg_advisory_lock($1)", REBUILD)
    except asyncpg.LockNotAvailableError as error:
        raise RebuildRunningError from error


class _TooMuchError(Exception):
    """More has changed since the comparison than may be compared while writers wait."""


@dataclass(slots=True)
class _Site:
    """An opened shadow and what brings it further. After any error it must be thrown away."""

    settings: Settings
    live: AsyncEngine
    topic: str
    shadow: Shadow
    catch_up: CatchUp
    progress: Progress
    _loaded: bool = field(init=False)

    def __post_init__(self) -> None:
        self._loaded = self.shadow.stage is not Stage.LOADING

    async def follow(self) -> Cut:
        """Catch up until little is left."""
        behind = None
        while True:
            async with driver(self.live) as conn:
                cut = await read_cut(conn, self.topic)
            if behind is not None and cut.lag(behind) <= self.settings.rebuild_switch_lag:
                return behind
            await self.catch_up.follow(cut)
            behind = cut
            if not self._loaded:
                async with transaction(self.live) as conn:
                    await finish_loading(conn, self.shadow.epoch, self.progress)
                self._loaded = True

    async def compare(self, since: Cut | None = None) -> tuple[list[Difference], Cut]:
        """Compare at a cut; only what the logs changed ``since`` an earlier one, if that is given. Nobody waits."""
        await self.follow()
        async with driver(self.live) as conn, conn.transaction(isolation="repeatable_read", readonly=True):
            await conn.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            cut = await read_cut(conn, self.topic)
            await self.catch_up.follow(cut)
            async with driver(self.live) as other:
                changed = None if since is None else await changed_since(other, since, self.settings.rebuild_recheck)
                told = self.progress if since is None else None
                found = await differences(Sides(conn, other), self.settings.rebuild_compare_rows, changed, told)
                return found, cut

    async def replace(self, found: list[Difference], cut: Cut, accept: Acceptance | None) -> Rebuilt:
        """Try the switch until the locks are free."""
        for attempt in range(1, self.settings.rebuild_switch_attempts + 1):
            if not found:
                more, cut = await self.compare(since=cut)
                if more and accept is None:
                    raise DifferentError(more)
                found = found or more
            else:
                await self.follow()
            try:
                waited = await self._switch(found, cut, accept)
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError, _TooMuchError) as error:
                _log.info("rebuild.busy", attempt=attempt, error=repr(error))
                # Not in step with what else runs at intervals.
                await asyncio.sleep(self.settings.rebuild_lock_ms / 1000 * random.uniform(0.5, 1.5))  # noqa: S311
                continue
            return Rebuilt(await self.finish(), found, attempt, waited, self.shadow.resumed)
        raise SwitchBusyError

    async def _switch(self, found: Sequence[Difference], since: Cut, accept: Acceptance | None) -> int:
        """Milliseconds that writers waited."""
        begun = time.monotonic()
        try:
            async with asyncio.timeout(self.settings.rebuild_pause_ms / 1000), transaction(self.live) as conn:
                await conn.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
                await switch.lock_writers(conn, self.settings.rebuild_lock_ms)
                await self.catch_up.follow(await read_cut(conn, self.topic))
                if not found:
                    await self._check_the_rest(conn, since)
                await switch.put_in_place(conn, self.shadow.epoch, self.settings.rebuild_lock_ms)
                if found and accept is not None:
                    await _record(conn, found, accept)
        except TimeoutError as error:
            raise SwitchBusyError("The last records took longer than writers may wait.") from error
        failpoints.hit("rebuild.after_switch")
        return round((time.monotonic() - begun) * 1000)

    async def _check_the_rest(self, conn: asyncpg.Connection, since: Cut) -> None:
        changed = await changed_since(conn, since, self.settings.rebuild_recheck)
        if changed is None:
            raise _TooMuchError
        found = await differences(Sides(conn, conn), self.settings.rebuild_compare_rows, changed)
        if found:
            raise DifferentError(found)

    async def finish(self) -> dict[str, int]:
        """What comes after the switch; rows by table."""
        await switch.refile(self.live)
        counts: dict[str, int] = {}
        async with transaction(self.live) as conn:
            for table in REBUILT:
                counts[table] = await conn.fetchval(f"SELECT count(*) FROM public.{table}") or 0
            await drop_shadow(conn)
        return counts


async def _record(conn: asyncpg.Connection, found: Sequence[Difference], accept: Acceptance) -> None:
    version: Any = await conn.fetchval(
        "SELECT coalesce(max(version), 0) FROM event_log WHERE stream = $1",
        STREAM,
    )
    event = ProjectionsReplaced(
        reason=accept.reason, differences=[str(each) for each in found[:NAMED]], actor=accept.actor
    )
    command_id = f"rebuild/{version + 1}"
    meta = Meta(actor=accept.actor, reason=accept.reason)
    await event_log.append(conn, STREAM, version, [event], command_id=command_id, meta=meta)
