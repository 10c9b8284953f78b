"""The partitions of the device events topic: which devices they hold, where they begin, and where they end.

An end is "everything that was acknowledged before now" as an offset, and worth nothing once the log has lost what was not read:
whoever waits for a projection to reach it would wait for ever, or not at all. So ``LogEnds`` may be given the projection's bookmarks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError
from aiokafka.partitioner import DefaultPartitioner

from orchestrator.adapters.kafka.topic_ids import topic_ids
from orchestrator.domain.log_loss import Bookmark, LogDamageError, LogIdentity, LogState, find_losses
from orchestrator.errors import UnavailableError

REQUEST_TIMEOUT_MS: Final = 10_000
"""For the ends of all partitions; one request per broker."""


T = TypeVar("T")

_partitioner = DefaultPartitioner()


def partition_of(device_id: str, partitions: int) -> int:
    """Partition that a device's facts are in: Kafka's standard partitioner (murmur2 of the key), as ``FactProducer`` uses it."""
    return _partitioner(device_id.encode(), range(partitions), [])


Bookmarks = Callable[[], Awaitable[Mapping[int, Bookmark]]]
"""Where the projection of the topic reads on, by partition."""


class LogEnds:
    """Reads the bounds of a topic's partitions. Connects at the first call and again after an error."""

    def __init__(self, bootstrap: str, topic: str, bookmarks: Bookmarks | None = None) -> None:
        """With ``bookmarks``, ends are refused while facts that were not read are gone."""
        self._bootstrap = bootstrap
        self._topic = topic
        self._bookmarks = bookmarks
        self._consumer: AIOKafkaConsumer | None = None
        self._lock = asyncio.Lock()

    async def end_offsets(self) -> dict[int, int]:
        """Offset of the next record of every partition.

        A record whose producer was answered before this call lies below: a projection that has passed all of these has seen it.

        Raises:
            LogDamageError: facts that the projection has not read are gone.
            UnavailableError: the brokers do not answer, or the topic does not exist.
        """
        if self._bookmarks is not None:
            # Read before the log, which may grow meanwhile, never shrink: a position beyond its end is then no illusion.
            marks = await self._bookmarks()
            log = await self.state()
            if losses := find_losses(self._topic, marks, log):
                raise LogDamageError.of(losses)
            return {partition: end for partition, (_, end) in log.bounds.items()}
        return await self._ask(self._read_ends)

    async def state(self) -> LogState:
        """The topic's identity with log start and log end of every partition. Raises UnavailableError."""
        return await self._ask(self._read_state)

    async def stop(self) -> None:
        """Disconnect."""
        async with self._lock:
            await self._disconnect()

    async def _ask(self, question: Callable[[AIOKafkaConsumer], Awaitable[T]]) -> T:
        async with self._lock:
            try:
                return await question(await self._connected())
            except (KafkaError, OSError, TimeoutError) as error:
                await self._disconnect()
                raise UnavailableError(f"The ends of {self._topic} cannot be read: {error!r}.") from error
            except BaseException:
                await self._disconnect()
                raise

    async def _connected(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            # No group: it owns nothing and commits nothing. Uncommitted reads: the end is the high watermark.
            self._consumer = AIOKafkaConsumer(
                bootstrap_servers=self._bootstrap, enable_auto_commit=False, request_timeout_ms=REQUEST_TIMEOUT_MS
            )
            await self._consumer.start()
        return self._consumer

    async def _found(self, consumer: AIOKafkaConsumer) -> tuple[LogIdentity, list[TopicPartition]]:
        cluster, found = await topic_ids(consumer._client, [self._topic])  # noqa: SLF001 (as in topics.py)
        if self._topic not in found:
            raise UnknownTopicOrPartitionError(self._topic)
        topic = found[self._topic]
        partitions = [TopicPartition(self._topic, number) for number in range(topic.partitions)]
        return LogIdentity(cluster_id=cluster, topic_id=topic.topic_id), partitions

    async def _read_ends(self, consumer: AIOKafkaConsumer) -> dict[int, int]:
        _, partitions = await self._found(consumer)
        ends = await consumer.end_offsets(partitions)
        return {partition.partition: end for partition, end in ends.items()}

    async def _read_state(self, consumer: AIOKafkaConsumer) -> LogState:
        identity, partitions = await self._found(consumer)
        starts, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
        return LogState(identity, {each.partition: (starts[each], ends[each]) for each in partitions})

    async def _disconnect(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with suppress(KafkaError, OSError):
                await consumer.stop()
