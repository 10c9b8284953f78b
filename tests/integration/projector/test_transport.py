"""What the batch transport makes of the errors that a real broker's answers lead to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import OffsetOutOfRangeError
from aiokafka.structs import TopicPartition
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread

from orchestrator.stream.transport import BatchConsumer

PATIENCE = 30.0
"""Seconds for what takes the broker milliseconds."""


class Fetching:
    """Faust's consumer thread as far as fetching goes: its own code on a real consumer of aiokafka."""

    flow_active = True

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer
        self.consumer = self

    async def getmany(self, active_partitions: Any, timeout: float) -> Any:
        fetch: Any = AIOKafkaConsumerThread._fetch_records
        return await fetch(self, self._consumer, active_partitions, timeout=timeout, max_records=100)


@pytest.fixture
async def partition(kafka: str) -> TopicPartition:
    """A partition that holds one record."""
    name = f"t{uuid4().hex}"
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    await admin.create_topics([NewTopic(name, 1, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=kafka)
    await producer.start()
    await producer.send_and_wait(name, b"fact", partition=0)
    await producer.stop()
    return TopicPartition(name, 0)


@pytest.fixture
async def reader(kafka: str, partition: TopicPartition) -> AsyncIterator[AIOKafkaConsumer]:
    """A member of a group that has committed nothing, set up as the projector's."""
    consumer: Any = AIOKafkaConsumer(
        bootstrap_servers=kafka, group_id=uuid4().hex, enable_auto_commit=False, auto_offset_reset="none"
    )
    await consumer.start()
    consumer.assign([partition])
    yield consumer
    await consumer.stop()


def transport_on(reader: AIOKafkaConsumer) -> Any:
    consumer: Any = BatchConsumer.__new__(BatchConsumer)
    consumer._thread = Fetching(reader)
    consumer._chain = {}
    return consumer


async def test_a_partition_without_a_committed_offset_is_waited_for_until_it_was_sought(reader, partition):
    consumer = transport_on(reader)
    raised = reader._fetcher._set_error
    errors: list[BaseException] = []
    reader._fetcher._set_error = lambda tp, error: (errors.append(error), raised(tp, error))
    async with asyncio.timeout(PATIENCE):
        while not errors:
            assert await consumer._getmany({partition}, 0.1) == {}
    assert await consumer._getmany({partition}, 0.1) == {}  # what Faust drains before the seek

    reader.seek(partition, 0)
    fetched: dict[Any, Any] = {}
    async with asyncio.timeout(PATIENCE):
        while not fetched:
            fetched = await consumer._getmany({partition}, 0.1)
    ((delivery,),) = fetched.values()
    assert [record.value for record in delivery.records] == [b"fact"]


async def test_a_position_outside_the_log_is_never_waited_out(reader, partition):
    reader.seek(partition, 7)
    with pytest.raises(OffsetOutOfRangeError):
        await _fetch_for_ever(transport_on(reader), partition)


async def _fetch_for_ever(consumer: Any, partition: TopicPartition) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            await consumer._getmany({partition}, 0.1)
