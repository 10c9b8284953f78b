from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka.errors import KafkaError, ProducerClosed
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import RecordMetadata, TopicPartition

from orchestrator.adapters.kafka.lanes import Lane, LaneStuckError, Written

TOPIC = "facts"


class Producer:
    """Takes batches, and answers them when a test says so."""

    def __init__(self, batch_bytes: int = 10_000) -> None:
        self.batch_bytes = batch_bytes
        self.requests: list[list[tuple[int, BatchBuilder, asyncio.Future[RecordMetadata]]]] = []
        self.came = asyncio.Event()
        self.error: Exception | None = None

    def create_batch(self) -> BatchBuilder:
        return BatchBuilder(self.batch_bytes, 0)

    async def send_batch(self, batch: BatchBuilder, topic: str, *, partition: int) -> asyncio.Future[RecordMetadata]:
        assert topic == TOPIC
        if self.error is not None:
            raise self.error
        if not self.came.is_set():
            self.requests.append([])
            self.came.set()
        delivery: asyncio.Future[RecordMetadata] = asyncio.get_running_loop().create_future()
        self.requests[-1].append((partition, batch, delivery))
        return delivery

    async def request(self) -> dict[int, int]:
        """The next request: number of records by partition."""
        await self.came.wait()
        self.came.clear()
        return {partition: batch.record_count() for partition, batch, _ in self.requests[-1]}

    def answer(self, offset: int, log_start: int = 0) -> None:
        """Acknowledge the last request; every partition's first record is at ``offset``."""
        for partition, _, delivery in self.requests[-1]:
            at = TopicPartition(TOPIC, partition)
            delivery.set_result(RecordMetadata(TOPIC, partition, at, offset, 0, 0, log_start))

    def refuse(self, error: Exception) -> None:
        for _, _, delivery in self.requests[-1]:
            delivery.set_exception(error)


@pytest.fixture
async def producer() -> Producer:
    return Producer()


def lane_of(producer: Producer, timeout: float = 60) -> Lane:
    stand_in: Any = producer
    return Lane(stand_in, TOPIC, timeout)


def put(lane: Lane, *partitions: int, value: bytes = b"{}") -> list[asyncio.Future[Written]]:
    return [lane.append(partition, b"key", value, 1_700_000_000_000, []) for partition in partitions]


async def test_records_that_come_together_go_together_and_learn_their_own_offsets(producer: Producer):
    waiting = put(lane_of(producer), 3, 1, 3, 3)
    assert await producer.request() == {3: 3, 1: 1}
    producer.answer(offset=100)
    assert await asyncio.gather(*waiting) == [(3, 100), (1, 100), (3, 101), (3, 102)]


async def test_what_comes_while_a_request_is_under_way_is_the_next_one(producer: Producer):
    lane = lane_of(producer)
    (first,) = put(lane, 1)
    await producer.request()
    later = put(lane, 1, 2) + put(lane, 2)
    assert len(producer.requests) == 1
    producer.answer(offset=0)
    assert await first == (1, 0)
    assert await producer.request() == {1: 1, 2: 2}
    producer.answer(offset=1)
    assert await asyncio.gather(*later) == [(1, 1), (2, 1), (2, 2)]


async def test_a_partition_with_more_than_a_batch_holds_gets_another(producer: Producer):
    waiting = put(lane_of(producer), 1, 1, 1, value=b"x" * 6_000)
    await producer.request()
    assert [batch.record_count() for _, batch, _ in producer.requests[-1]] == [1, 1, 1]
    producer.answer(offset=7)
    await asyncio.gather(*waiting)


async def test_a_waiter_that_gave_up_takes_nothing_from_the_others(producer: Producer):
    gone, stays = put(lane_of(producer), 1, 1)
    gone.cancel()
    assert await producer.request() == {1: 2}
    producer.answer(offset=5)
    assert await stays == (1, 6)


async def test_a_refused_batch_fails_each_of_its_records_with_an_error_of_its_own(producer: Producer):
    lane = lane_of(producer)
    waiting = put(lane, 1, 1)
    await producer.request()
    producer.refuse(KafkaError("no"))
    one, other = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(one, KafkaError)
    assert isinstance(other, KafkaError)
    assert one is not other


async def test_a_duplicate_whose_offset_the_broker_forgot_is_not_acknowledged(producer: Producer):
    (waiting,) = put(lane_of(producer), 1)
    await producer.request()
    producer.answer(offset=-1, log_start=-1)
    with pytest.raises(KafkaError, match="offset"):
        await waiting


async def test_a_request_without_an_answer_fails_and_with_it_what_waits_behind(producer: Producer):
    lane = lane_of(producer, timeout=0.01)
    (under_way,) = put(lane, 1)
    await producer.request()
    (behind,) = put(lane, 2)
    for waiting in (under_way, behind):
        with pytest.raises(LaneStuckError):
            await waiting
    assert lane.closed
    assert len(producer.requests) == 1


async def test_nobody_waits_for_ever_when_nothing_can_be_sent(producer: Producer):
    lane = lane_of(producer)
    producer.error = ProducerClosed()
    waiting = put(lane, 1, 2)
    for each in waiting:
        with pytest.raises(ProducerClosed):
            await each
    assert lane.closed
