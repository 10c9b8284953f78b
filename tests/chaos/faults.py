"""Faults below the system: processes that stand still, a database that is slow or locked, a log that loses its records."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

import asyncpg
import psutil
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from orchestrator.adapters.kafka import topics
from orchestrator.adapters.kafka.topic_ids import topic_ids
from orchestrator.errors import UnavailableError

HOT: Final = (
    "assignment",
    "counter",
    "decision_ledger",
    "device_slot",
    "event_log",
    "offer_queue",
    "projection_position",
    "report_overlay",
    "timeline",
)
"""Tables that a campaign writes all the time."""


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process and all its children stand still meanwhile, as on a disk that does not answer or a machine that is paused."""
    parent = psutil.Process(pid)
    parent.send_signal(signal.SIGSTOP)  # first: it makes no further children
    halted = [parent, *parent.children(recursive=True)]
    for process in halted[1:]:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in reversed(halted):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def slow_statements(url: str, seconds: float) -> AsyncIterator[None]:
    """Each statement that writes one of the hot tables takes so much longer meanwhile."""
    async with _connected(url) as conn:
        await conn.execute(
            "CREATE FUNCTION chaos_slow() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN PERFORM pg_sleep({seconds}); RETURN NULL; END $$"
        )
        for table in HOT:
            await _persist(
                conn,
                f"CREATE TRIGGER chaos_slow AFTER INSERT OR UPDATE OR DELETE ON {table}"
                " FOR EACH STATEMENT EXECUTE FUNCTION chaos_slow()",
            )
        try:
            yield
        finally:
            for table in HOT:
                await _persist(conn, f"DROP TRIGGER chaos_slow ON {table}")
            await conn.execute("DROP FUNCTION chaos_slow()")


@asynccontextmanager
async def locked(url: str, *tables: str) -> AsyncIterator[None]:
    """Another session holds these tables against every writer meanwhile, as a forgotten maintenance command does."""
    async with _connected(url) as conn, conn.transaction():
        for table in tables:
            await conn.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
        yield


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    conn = await asyncpg.connect(url)
    try:
        yield conn
    finally:
        conn.terminate()


async def _persist(conn: asyncpg.Connection, statement: str) -> None:
    """A change of a table under load may be chosen as the victim of a deadlock."""
    while True:
        with suppress(asyncpg.DeadlockDetectedError):
            await conn.execute(statement)
            return


async def lose_records(bootstrap: str, topic: str, before: Mapping[int, int]) -> None:
    """What retention does: the log of each partition starts at this offset from now on."""
    async with _admin(bootstrap) as admin:
        await admin.delete_records(
            {TopicPartition(topic, partition): RecordsToDelete(offset) for partition, offset in before.items()}
        )


async def make_topic_again(bootstrap: str, topic: str) -> None:
    """Delete the topic and create it, with nothing in it, under the same name."""
    async with _admin(bootstrap) as admin:
        before = await _topic_id(admin, topic)
        await admin.delete_topics([topic])
        while await _topic_id(admin, topic) in {before, ""}:  # the broker deletes in the background
            with suppress(UnavailableError, topics.TopicRefusedError):
                await topics.apply(bootstrap)
            await asyncio.sleep(0.1)


async def _topic_id(admin: AIOKafkaAdminClient, topic: str) -> str:
    _, found = await topic_ids(admin._client, [topic])
    return found[topic].topic_id if topic in found else ""


@asynccontextmanager
async def _admin(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()
