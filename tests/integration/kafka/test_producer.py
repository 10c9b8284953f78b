from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import OutOfOrderSequenceNumber

from orchestrator.adapters.kafka import topics
from orchestrator.adapters.kafka.partitions import LogEnds
from orchestrator.adapters.kafka.producer import EventTooLargeError, FactProducer
from orchestrator.adapters.kafka.topics import Topic
from orchestrator.devstack.stack import DevStack
from orchestrator.errors import UnavailableError
from schemas.device_events import CONFIRMED, DeviceEvent, Report, decode_event, encode

PARTITIONS = 4


@pytest.fixture
async def topic(bootstrap: str, prefix: str) -> str:
    await topics.apply(bootstrap, prefix, (Topic("facts", PARTITIONS),))
    return f"{prefix}facts"


@pytest.fixture
async def producer(bootstrap: str, topic: str) -> AsyncIterator[FactProducer]:
    producer = FactProducer(bootstrap, topic, send_timeout=3)
    yield producer
    await producer.stop()


def fact(number: int, event_id: str | None = None, detail: str = "") -> DeviceEvent:
    return DeviceEvent(
        id=event_id or f"{number:032x}",
        source="/test",
        type=CONFIRMED,
        subject=f"device-{number}",
        device_no=number,
        recorded_at=1_700_000_000_000 + number,
        data=msgspec.Raw(encode(Report(action_id=1_000_001 + number, detail=detail))),
    )


async def read_all(bootstrap: str, topic: str) -> list[Any]:
    """Every record of the topic up to its ends."""
    ends = await end_offsets(bootstrap, topic)
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, partition) for partition in ends])
        records: list[Any] = []
        while len(records) < sum(ends.values()):
            for batch in (await consumer.getmany(timeout_ms=200)).values():
                records.extend(batch)
        return records
    finally:
        await consumer.stop()


async def end_offsets(bootstrap: str, topic: str) -> dict[int, int]:
    ends = LogEnds(bootstrap, topic)
    try:
        return await ends.end_offsets()
    finally:
        await ends.stop()


async def test_an_event_is_where_the_answer_says(bootstrap: str, topic: str, producer: FactProducer):
    written = await asyncio.gather(*(producer.send(fact(number)) for number in range(50)))
    records = {(record.partition, record.offset): record for record in await read_all(bootstrap, topic)}
    assert len(records) == 50
    for number, (partition, offset) in enumerate(written):
        record = records[partition, offset]
        assert decode_event(record.value) == fact(number)
        assert record.key == f"device-{number}".encode()
        assert record.timestamp == fact(number).recorded_at
        assert record.headers == ()


async def test_all_events_of_a_device_are_in_one_partition_in_order(bootstrap: str, topic: str, producer: FactProducer):
    written = [await producer.send(fact(7, event_id=str(n))) for n in range(5)]
    assert len({partition for partition, _ in written}) == 1
    assert [offset for _, offset in written] == sorted({offset for _, offset in written})
    assert [decode_event(record.value).id for record in await read_all(bootstrap, topic)] == list("01234")


async def test_a_trace_is_the_only_header(bootstrap: str, topic: str, producer: FactProducer):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await producer.send(fact(1), trace)
    (record,) = await read_all(bootstrap, topic)
    assert record.headers == (("traceparent", trace.encode()),)


async def test_what_would_never_fit_is_refused_for_good(producer: FactProducer):
    with pytest.raises(EventTooLargeError):
        await producer.send(fact(1, detail="x" * 2_000_000))
    assert await producer.send(fact(1))


async def test_a_producer_that_lost_its_sequence_is_replaced_and_nothing_is_lost(
    bootstrap: str, topic: str, producer: FactProducer
):
    await producer.send(fact(1))
    assert producer._lanes is not None
    sick = producer._lanes.producer
    assert sick._txn_manager is not None
    for partition in range(PARTITIONS):
        # What a failed batch leaves behind: the broker expects lower numbers than the client has counted.
        sick._txn_manager.increment_sequence_number(TopicPartition(topic, partition), 5)
    written = await asyncio.gather(*(producer.send(fact(number)) for number in range(2, 30)))
    assert producer._lanes.producer is not sick
    assert len(set(written)) == 28
    ids = [decode_event(record.value).id for record in await read_all(bootstrap, topic)]
    assert set(ids) == {f"{number:032x}" for number in range(1, 30)}


async def test_a_producer_that_stopped_under_its_users_is_replaced(producer: FactProducer):
    await producer.send(fact(1))
    assert producer._lanes is not None
    producer._lanes.producer._message_accumulator.fail_all(OutOfOrderSequenceNumber())
    assert await producer.send(fact(1))


async def test_nothing_is_acknowledged_while_the_broker_is_away_and_all_is_well_when_it_is_back(
    broker: DevStack, bootstrap: str, topic: str
):
    producer = FactProducer(bootstrap, topic, send_timeout=1)
    try:
        await producer.send(fact(1))
        await asyncio.to_thread(broker.kill, "kafka")
        results = await asyncio.gather(*(producer.send(fact(n)) for n in range(2, 6)), return_exceptions=True)
        assert [type(result) for result in results] == [UnavailableError] * 4
        with pytest.raises(UnavailableError):
            await producer.ready()
        await asyncio.to_thread(broker.up)
        await _eventually(lambda: producer.send(fact(9)))
        ids = {decode_event(record.value).id for record in await read_all(bootstrap, topic)}
        assert {fact(1).id, fact(9).id} <= ids
        await producer.ready()
    finally:
        await producer.stop()


async def test_it_starts_before_the_broker_does(broker: DevStack, bootstrap: str, topic: str):
    await asyncio.to_thread(broker.kill, "kafka")
    producer = FactProducer(bootstrap, topic, send_timeout=1)
    try:
        await producer.start()
        with pytest.raises(UnavailableError):
            await producer.ready()
        await asyncio.to_thread(broker.up)
        await _eventually(lambda: producer.send(fact(1)))
    finally:
        await producer.stop()


async def test_a_closed_producer_refuses(producer: FactProducer):
    await producer.send(fact(1))
    await producer.stop()
    with pytest.raises(UnavailableError):
        await producer.send(fact(2))


async def test_the_ends_move_with_every_acknowledged_record(bootstrap: str, topic: str, producer: FactProducer):
    ends = LogEnds(bootstrap, topic)
    try:
        assert await ends.end_offsets() == dict.fromkeys(range(PARTITIONS), 0)
        for number in range(20):
            partition, offset = await producer.send(fact(number))
            assert (await ends.end_offsets())[partition] == offset + 1
    finally:
        await ends.stop()


async def test_the_ends_of_a_topic_that_is_not_there_are_an_error(bootstrap: str, prefix: str):
    ends = LogEnds(bootstrap, f"{prefix}nothing")
    with pytest.raises(UnavailableError, match="cannot be read"):
        await ends.end_offsets()
    await ends.stop()


async def _eventually(call: Any) -> Any:
    while True:
        try:
            return await call()
        except UnavailableError:
            await asyncio.sleep(0.1)
