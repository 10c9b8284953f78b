"""Every projection again, from the two logs, beside the live ones; then compared, or put in their place.

The rebuild runs the live code on connections whose ``search_path`` puts a schema of empty tables before the live ones, so the logs are
read from the live schema and rows are written into the fresh tables. It repeats no side effect: verdicts are events and are copied,
nothing is appended. At the end it takes the writers' locks, follows both logs to their heads, compares or switches, and lets go.

Not compared: shards, epochs, work queues' clocks, the overlay, presence, and ``gate``, whose rows are the last look, not a fact.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.sql import campaigns, event_log, ledger, registry
from orchestrator.adapters.sql.engine import make_engine, transaction
from orchestrator.adapters.sql.facts import PROJECTION, Delivery, FactProjection
from orchestrator.adapters.sql.locks import own_event_log, own_ledger
from orchestrator.adapters.sql.positions import LogIdentity
from orchestrator.adapters.sql.replay import LedgerReplay
from orchestrator.config import Settings
from orchestrator.domain import campaign as c
from schemas.campaign_events import EVENT_TYPES as CAMPAIGN_EVENTS

SCHEMA = "rebuild"

PAGE = 500
"""Events or ledger rows per transaction."""

COMPARED: dict[str, str] = {
    "campaign": "campaign_no, campaign_id, name, release_id, state, version, author, digest, plan, dossier, gate_epoch, phase,"
    " phase_state, soak_until, promoted_since_halt, enrolment, halt, created_at, updated_at",
    "control": "campaign_no, stratum, state, version, gate_epoch",
    "stratum": "campaign_no, stratum, key",
    "hardware_model": "name, profile, created_at",
    "trusted_key": "key_id, hardware_model, algorithm, pem, added_at",
    "artifact": "sha256, hardware_model, sha1, md5, size, filename, image, stored_at",
    "release": "release_id, name, version, artifacts, digest, created_at",
    "device": "device_no, device_id, hardware_model, attributes, version, digest, registered_at, reported_at",
    "assignment": "device_no, campaign_no, phase, stratum, attempt, action_id, gate_epoch, offered_at, state, changed_at, progress,"
    " failure_class, reason, started_at, cancel_requested_at, first_started_at, first_started_epoch, failed_at, failed_class",
    "offer_queue": "campaign_no, phase, rank, device_no, stratum, attempt",
    "device_slot": "device_no, campaign_no, attempt",
    "timeline": 'partition, "offset", device_no, campaign_no, attempt, event_id, type, recorded_at, failure_class, reason, detail',
    "dead_letter": 'topic, partition, "offset", code, event_id, key, value',
}
"""Comparable columns by table."""

SUMMED: dict[str, tuple[str, str]] = {
    "counter": ("campaign_no, phase, stratum, state", "n"),
    "gate_count": ("campaign_no, gate_epoch, phase, stratum", "started, failed"),
    "maturity": ("campaign_no, phase, gate_epoch, bucket, stratum", "started, good, excluded"),
}
"""Counters: key columns and columns that are summed over shards."""

_SUPPORT = ("projection_position", "report_overlay", "due_queue")

Progress = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class Difference:
    """The first row of a table that is on one side only."""

    table: str
    side: str
    """``live`` or ``rebuilt``: where the row is."""
    row: dict[str, Any]


def _ignore(_what: str, _n: int) -> None:
    pass


async def verify(settings: Settings, progress: Progress = _ignore) -> list[Difference]:
    """Rebuild beside the live tables and compare; empty if they are equal. Leaves nothing behind."""
    async with _rebuilt(settings, progress, switch=False) as conn:
        return await _differences(conn)


async def rebuild(settings: Settings, progress: Progress = _ignore) -> dict[str, int]:
    """Rebuild and put the fresh tables in the place of the live ones, in one transaction; rows by table.

    Readers see either the old or the new tables. Work queues that hold clocks (``due_queue``) and positions stay as they are.
    """
    async with _rebuilt(settings, progress, switch=True) as conn:
        counts: dict[str, int] = {}
        for table in [*COMPARED, *SUMMED]:
            await conn.execute(f"DROP TABLE public.{table}")
            await conn.execute(f"ALTER TABLE {SCHEMA}.{table} SET SCHEMA public")
            counts[table] = await conn.fetchval(f"SELECT count(*) FROM public.{table}") or 0
        return counts


@asynccontextmanager
async def _rebuilt(settings: Settings, progress: Progress, *, switch: bool) -> AsyncIterator[asyncpg.Connection]:
    """Fresh tables at the heads of both logs, while writers wait; what the caller does in the transaction is committed."""
    live = make_engine(settings.database_url, pool_size=2, application="ota-rebuild")
    fresh = make_engine(
        settings.database_url, pool_size=2, application="ota-rebuild", search_path=f"{SCHEMA},public", hot=True
    )
    try:
        await _create(live)
        build = _Build(settings, live, fresh, progress)
        await build.follow()
        async with transaction(live) as conn:
            if switch:  # before the logs' locks: writers in flight hold these tables while they wait for those locks
                tables = ", ".join(f"public.{table}" for table in [*COMPARED, *SUMMED])
                await conn.execute(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")
            await conn.execute("SELECT 1 FROM projection_position ORDER BY topic, partition FOR UPDATE")
            await own_ledger(conn)
            await own_event_log(conn)
            await build.follow()
            yield conn
    finally:
        async with transaction(live) as conn:
            await conn.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        await fresh.dispose()
        await live.dispose()


async def _create(engine: AsyncEngine) -> None:
    async with transaction(engine) as conn:
        await conn.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        await conn.execute(f"CREATE SCHEMA {SCHEMA}")
        for table in [*COMPARED, *SUMMED, *_SUPPORT]:
            await conn.execute(f"CREATE TABLE {SCHEMA}.{table} (LIKE public.{table} INCLUDING ALL)")


class _Build:
    """How far the fresh tables have come in each log."""

    def __init__(self, settings: Settings, live: AsyncEngine, fresh: AsyncEngine, progress: Progress) -> None:
        self._settings = settings
        self._live = live
        self._fresh = fresh
        self._progress = progress
        self._topic = settings.device_events_topic
        self._event_position = 0
        self._ledger_position = 0
        self._campaigns: dict[str, c.Campaign] = {}
        self._ledger = LedgerReplay()
        self._facts = FactProjection(fresh, self._topic, judge=False)
        self._offsets: dict[int, int] | None = None

    async def follow(self) -> None:
        """Both logs to where they end now: events, then the ledger, which speaks of them, then facts, which speak of offers."""
        while await self._events():
            pass
        while await self._entries():
            pass
        await self._records()

    async def _events(self) -> int:
        async with transaction(self._fresh) as conn:
            page = await event_log.read_all(conn, self._event_position, PAGE)
            for item in page:
                if item.type in CAMPAIGN_EVENTS:
                    campaign = c.evolve(self._campaigns.get(item.stream, c.Campaign()), item.event)
                    self._campaigns[item.stream] = campaign
                    await campaigns.project(conn, campaign, item)
                elif item.type not in {"ApiKeyCreated", "ApiKeyRevoked"}:
                    await registry.project(conn, item)
        if page:
            self._event_position = page[-1].position
            self._progress("events", self._event_position)
        return len(page)

    async def _entries(self) -> int:
        async with transaction(self._fresh) as conn:
            page = await ledger.read(conn, self._ledger_position, PAGE)
            # The rows of one enrolment belong together; they are consecutive, because one transaction appended them.
            while page and page[-1].kind == "enrol":
                more = await ledger.read(conn, page[-1].position, PAGE)
                if not more:
                    break
                page += more
            await self._ledger.apply(conn, page)
        if page:
            self._ledger_position = page[-1].position
            self._progress("decisions", self._ledger_position)
        return len(page)

    async def _records(self) -> None:
        async with transaction(self._live) as conn:
            rows = await conn.fetch(
                "SELECT partition, topic_id, cluster_id, next_offset FROM projection_position"
                " WHERE projection = $1 AND topic = $2",
                PROJECTION,
                self._topic,
            )
        if not rows:
            return
        ends = {row["partition"]: row["next_offset"] for row in rows}
        if self._offsets is None:
            identity = LogIdentity(cluster_id=rows[0]["cluster_id"], topic_id=rows[0]["topic_id"])
            self._offsets = await self._facts.claim(identity, {p: (0, end) for p, end in ends.items()})
        missing = {p: end for p, end in ends.items() if end > self._offsets[p]}
        if missing:
            await self._consume(self._offsets, missing)

    async def _consume(self, offsets: dict[int, int], ends: dict[int, int]) -> None:
        consumer: Any = AIOKafkaConsumer(
            bootstrap_servers=self._settings.kafka_bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_poll_records=5_000,
        )
        await consumer.start()
        try:
            partitions = {p: TopicPartition(self._topic, p) for p in ends}
            consumer.assign(list(partitions.values()))
            for p, tp in partitions.items():
                consumer.seek(tp, offsets[p])
            left = dict(ends)
            while left:
                fetched = await consumer.getmany(timeout_ms=1_000)
                deliveries: list[Delivery] = []
                for tp, records in fetched.items():
                    wanted = [record for record in records if record.offset < ends[tp.partition]]
                    if wanted:
                        deliveries.append(Delivery(tp.partition, wanted, offsets[tp.partition]))
                        offsets[tp.partition] = wanted[-1].offset + 1
                    if offsets[tp.partition] >= ends[tp.partition]:
                        left.pop(tp.partition, None)
                        consumer.pause(tp)
                await self._facts.apply(deliveries)
                self._progress("facts", sum(offsets.values()))
        finally:
            await consumer.stop()


async def _differences(conn: asyncpg.Connection) -> list[Difference]:
    queries: list[tuple[str, str]] = [
        (table, f"SELECT {columns} FROM {{}}.{table}") for table, columns in COMPARED.items()
    ]
    for table, (keys, sums) in SUMMED.items():
        summed = ", ".join(f"sum({name})::bigint AS {name}" for name in sums.split(", "))
        nonzero = " OR ".join(f"sum({name}) <> 0" for name in sums.split(", "))
        queries.append((table, f"SELECT {keys}, {summed} FROM {{}}.{table} GROUP BY {keys} HAVING {nonzero}"))
    found: list[Difference] = []
    for table, query in queries:
        live, rebuilt = query.format("public"), query.format(SCHEMA)
        for side, first, second in (("live", live, rebuilt), ("rebuilt", rebuilt, live)):
            row = await conn.fetchrow(f"SELECT * FROM ({first} EXCEPT ALL {second}) d ORDER BY 1, 2 LIMIT 1")
            if row is not None:
                found.append(Difference(table, side, dict(row)))
    return found
