"""The relay on the real database and broker."""

import asyncio
import uuid
from contextlib import asynccontextmanager

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer

from orchestrator.adapters.kafka.relay import KafkaConsumer
from orchestrator.adapters.kafka.topics import CAMPAIGN_EVENTS, apply
from orchestrator.adapters.sql import event_log
from orchestrator.adapters.sql.engine import make_engine, transaction
from orchestrator.adapters.sql.locks import RELAY
from orchestrator.adapters.sql.relay import SqlBookmarks, SqlLeadership, SqlLogReader
from orchestrator.app.ports import Meta
from orchestrator.app.relay import Relay
from orchestrator.errors import UnavailableError
from schemas import campaign_events as e
from schemas import registry_events as r
from tests.support.waiting import until

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Sink:
    name = "temporal"

    def __init__(self):
        self.taken = []

    async def deliver(self, events):
        self.taken += [event.position for event in events]


async def append(engine, stream, *events):
    async with transaction(engine) as conn:
        version = await conn.fetchval("SELECT count(*) FROM event_log WHERE stream = $1", stream)
        meta = Meta(actor="ann", traceparent=TRACE)
        done = await event_log.append(conn, stream, version, events, command_id=uuid.uuid4().hex, meta=meta)
        return [item.position for item in done]


@asynccontextmanager
async def relaying(engine, *consumers):
    relay = Relay(
        SqlLogReader(engine),
        SqlBookmarks(engine),
        SqlLeadership(engine),
        consumers,
        poll_ms=10,
        election_ms=20,
        first_pause_ms=10,
    )
    stop = asyncio.Event()
    task = asyncio.create_task(relay.run(stop))
    try:
        yield relay
    finally:
        stop.set()
        await task


@pytest.fixture
async def other_engine(database_url):
    """The pool of a second process."""
    engine = make_engine(database_url, pool_size=4, application="ota-other")
    yield engine
    await engine.dispose()


@pytest.fixture
async def topic(kafka):
    prefix = f"t{uuid.uuid4().hex[:8]}."
    await apply(kafka, prefix, [CAMPAIGN_EVENTS])
    return prefix + CAMPAIGN_EVENTS.name


@pytest.fixture
async def publisher(kafka, topic):
    consumer = KafkaConsumer(kafka, topic)
    yield consumer
    await consumer.close()


async def published(kafka, topic, count):
    reader = AIOKafkaConsumer(topic, bootstrap_servers=kafka, auto_offset_reset="earliest")
    await reader.start()
    try:
        return [await asyncio.wait_for(anext(reader), 30) for _ in range(count)]
    finally:
        await reader.stop()


async def test_campaign_events_are_published_in_order_with_key_and_trace(engine, kafka, topic, publisher):
    approvals = [e.PhaseApproved(actor="bob", phase=phase, digest="d") for phase in range(20)]
    await append(engine, "registry/api_key/k", r.ApiKeyRevoked(key_id="k", actor="ann"))
    positions = await append(engine, "campaign/cmp_7", *approvals)
    async with relaying(engine, publisher):
        records = await published(kafka, topic, len(positions))
        await until(lambda: marks_are(engine, {"kafka": positions[-1], "temporal": 0}))
    assert {record.key for record in records} == {b"cmp_7"}
    assert {dict(record.headers)["traceparent"] for record in records} == {TRACE.encode()}
    values = [msgspec.json.decode(record.value) for record in records]
    assert [value["position"] for value in values] == positions
    assert values[3]["type"] == "PhaseApproved"
    assert msgspec.convert(values[3]["data"], e.PhaseApproved) == approvals[3]


async def marks_are(engine, wanted):
    bookmarks = SqlBookmarks(engine)
    return {name: await bookmarks.load(name) for name in wanted} == wanted


async def test_a_broker_that_is_away_moves_no_position(engine):
    consumer, sink = KafkaConsumer("127.0.0.1:1", "t"), Sink()
    (position,) = await append(engine, "campaign/cmp_7", e.PhaseApproved(actor="bob", phase=0, digest="d"))
    async with relaying(engine, consumer, sink):
        await until(lambda: marks_are(engine, {"temporal": position}))
        with pytest.raises(UnavailableError):
            await consumer.deliver(await SqlLogReader(engine).read(0, 1))
    assert await marks_are(engine, {"kafka": 0})


async def test_no_event_is_lost_or_reordered_while_many_append(engine):
    sink = Sink()
    async with relaying(engine, sink):
        await asyncio.gather(
            *(
                append(engine, f"campaign/cmp_{index}", *[e.PhaseApproved(actor="b", phase=0, digest="d")] * 3)
                for index in range(20)
            )
        )
        await until(lambda: len(sink.taken) >= 60)
    assert sink.taken == list(range(1, 61))


async def test_a_position_never_moves_back(engine):
    bookmarks = SqlBookmarks(engine)
    await bookmarks.store("kafka", 9)
    await bookmarks.store("kafka", 4)
    assert await bookmarks.load("kafka") == 9


async def test_the_lock_elects_one_leader_and_frees_itself_with_its_session(engine, other_engine):
    first, second = SqlLeadership(engine), SqlLeadership(other_engine)
    assert await first.acquire()
    assert not await second.acquire()
    await first.release()
    assert not await first.held()
    assert await second.acquire()
    assert await second.held()
    await second.release()
    assert await first.acquire()
    await first.release()


async def holder(engine):
    """Process id of the database session that leads."""
    async with transaction(engine) as conn:
        return await conn.fetchval(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid = $1::int"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            RELAY,
        )


async def test_when_the_leaders_session_ends_another_relay_takes_over(engine, other_engine):
    first, second = Sink(), Sink()
    await append(engine, "campaign/cmp_7", e.PhaseApproved(actor="bob", phase=0, digest="d"))
    async with relaying(engine, first) as leader:
        await until(lambda: first.taken == [1])
        async with relaying(other_engine, second) as standby:
            await until(lambda: leader.leading and not standby.leading)
            before = await holder(other_engine)
            async with transaction(other_engine) as conn:
                await conn.execute("SELECT pg_terminate_backend($1)", before)

            async def changed():
                return await holder(other_engine) not in {None, before} and leader.leading != standby.leading

            await until(changed)
            await append(engine, "campaign/cmp_7", e.PhaseApproved(actor="bob", phase=1, digest="d"))
            await until(lambda: sorted({*first.taken, *second.taken}) == [1, 2])
