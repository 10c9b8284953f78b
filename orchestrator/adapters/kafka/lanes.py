"""Records for one broker, in groups: while one group is under way the next one fills, so groups grow with the load.

A record of its own is three batches of its own: in this process, in the broker, and in the projector. Kafka's linger does not help,
because it lets every partition's batch wait by itself; the partitions of a group go out together, in one request, and the group's
records share one acknowledgement per partition. A lane that was idle sends at once.

Not here: what becomes of a record that failed. Whether it is stored is unknown then, and its sender decides.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from typing import Final, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.partitioner import murmur2
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import RecordMetadata, TopicPartition

SPACING: Final = 0.005
"""Seconds between the beginnings of two requests to one broker, at least, so that a busy gateway makes few batches. Of 0, 5, 10 and
15 ms, 5 had the highest rate and the least CPU of broker and gateway with 128 connections."""


class Written(NamedTuple):
    """Where a record is."""

    partition: int
    offset: int


class LaneStuckError(KafkaError):
    """A group was not acknowledged in time."""


class _Batch:
    """Records of one partition, and who waits for them."""

    __slots__ = ("builder", "partition", "waiting")

    def __init__(self, partition: int, builder: BatchBuilder) -> None:
        self.partition = partition
        self.builder = builder
        self.waiting: list[asyncio.Future[Written]] = []
        """By their place in the batch."""

    def acknowledged(self, at: RecordMetadata) -> None:
        for offset, waiter in enumerate(self.waiting, at.offset):
            if not waiter.done():
                waiter.set_result(Written(self.partition, offset))

    def failed(self, error: Exception) -> None:
        for waiter in self.waiting:
            if not waiter.done():
                waiter.set_exception(copy.copy(error))  # each raises its own, or their tracebacks would pile up


class Lane:
    """The way to one broker.

    Args:
        producer: started; the lane ends with it.
        topic: where to.
        timeout: seconds from a group's first record until all of it must be acknowledged; after that its records fail, and what waits
            behind them too.
    """

    def __init__(self, producer: AIOKafkaProducer, topic: str, timeout: float) -> None:
        self._producer = producer
        self._topic = topic
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._filling: list[_Batch] = []
        self._open: dict[int, _Batch] = {}
        self._began = 0.0
        self._next_at = float("-inf")
        self._task: asyncio.Task[None] | None = None
        self.closed = False
        self.answered_at = float("-inf")
        """When the last group was answered, by the loop's clock."""

    def append(
        self, partition: int, key: bytes, value: bytes, at: int, headers: list[tuple[str, bytes]]
    ) -> asyncio.Future[Written]:
        """Put a record into the next group. The future fails with KafkaError; cancelling it takes nothing back."""
        if not self._filling:
            self._began = self._loop.time()
        batch = self._open.get(partition)
        if batch is None or batch.builder.append(timestamp=at, key=key, value=value, headers=headers) is None:
            batch = self._open[partition] = _Batch(partition, self._producer.create_batch())
            batch.builder.append(timestamp=at, key=key, value=value, headers=headers)
            self._filling.append(batch)
        waiter: asyncio.Future[Written] = self._loop.create_future()
        batch.waiting.append(waiter)
        if self._task is None:
            self._task = self._loop.create_task(self._run())
        return waiter

    async def _run(self) -> None:
        try:
            while self._filling:
                # At least one turn of the loop, so that everybody who is ready in it can join.
                await asyncio.sleep(max(0.0, self._next_at - self._loop.time()))
                self._next_at = self._loop.time() + SPACING
                group, self._filling, self._open = self._filling, [], {}
                try:
                    await self._send(group, self._began + self._timeout)
                except Exception as error:  # noqa: BLE001 (whoever waits learns of it)
                    self._close([*group, *self._filling], error)
        finally:
            self._task = None

    async def _send(self, group: Sequence[_Batch], deadline: float) -> None:
        deliveries: list[asyncio.Future[RecordMetadata]] = []
        try:
            async with asyncio.timeout_at(deadline):
                for batch in group:
                    delivery = await self._producer.send_batch(batch.builder, self._topic, partition=batch.partition)
                    deliveries.append(delivery)
                await asyncio.wait(deliveries)
        except TimeoutError as error:
            raise LaneStuckError(f"no acknowledgement within {self._timeout:g} s") from error
        finally:
            for delivery in deliveries:
                delivery.add_done_callback(forget)
        self.answered_at = self._loop.time()
        for batch, delivery in zip(group, deliveries, strict=True):
            _settle(batch, delivery)

    def _close(self, batches: Sequence[_Batch], error: Exception) -> None:
        self.closed = True
        self._filling, self._open = [], {}
        for batch in batches:
            batch.failed(error)


class Lanes:
    """All lanes of one producer.

    Args:
        producer: started; whoever makes the lanes stops it.
        topic: where to.
        partitions: of the topic.
        timeout: see :class:`Lane`.
    """

    def __init__(self, producer: AIOKafkaProducer, topic: str, partitions: Sequence[int], timeout: float) -> None:
        self.producer = producer
        self._topic = topic
        self._partitions = [TopicPartition(topic, partition) for partition in sorted(partitions)]
        self._timeout = timeout
        self._lanes: dict[int | None, Lane] = {}
        """By the node that leads a partition; None and -1: nobody does for now."""

    def append(self, key: bytes, value: bytes, at: int, headers: list[tuple[str, bytes]]) -> asyncio.Future[Written]:
        """Put a record into its partition's lane; Kafka's standard partitioner (murmur2) says which that is."""
        partition = self._partitions[(murmur2(key) & 0x7FFFFFFF) % len(self._partitions)]
        leader = self.producer.client.cluster.leader_for_partition(partition)
        lane = self._lanes.get(leader)
        if lane is None or lane.closed:
            lane = self._lanes[leader] = Lane(self.producer, self._topic, self._timeout)
        return lane.append(partition.partition, key, value, at, headers)

    def answered_since(self, at: float) -> bool:
        """Whether any broker has answered since then, by the loop's clock."""
        return any(lane.answered_at >= at for lane in self._lanes.values())


def _settle(batch: _Batch, delivery: asyncio.Future[RecordMetadata]) -> None:
    error = delivery.exception()
    if error is None:
        at = delivery.result()
        if at.log_start_offset is None or at.log_start_offset >= 0:
            batch.acknowledged(at)
            return
        # Acknowledged as a duplicate of a batch whose offset the broker has forgotten.
        error = KafkaError("the offset of an acknowledged record is unknown")
    batch.failed(error if isinstance(error, Exception) else KafkaError(repr(error)))


def forget(delivery: asyncio.Future[RecordMetadata]) -> None:
    """For deliveries that nobody waits for any more: their error is no news."""
    if not delivery.cancelled():
        delivery.exception()
