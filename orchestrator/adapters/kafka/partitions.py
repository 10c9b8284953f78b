"""Where the device events topic ends: "everything that was acknowledged before now" as offsets."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

from orchestrator.adapters.kafka.topic_ids import topic_ids
from orchestrator.errors import UnavailableError

REQUEST_TIMEOUT_MS: Final = 10_000
"""For the ends of all partitions; one request per broker."""


class LogEnds:
    """Reads the ends of a topic's partitions. Connects at the first call and again after an error."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._consumer: AIOKafkaConsumer | None = None
        self._lock = asyncio.Lock()

    async def end_offsets(self) -> dict[int, int]:
        """Offset of the next record of every partition.

        A record whose producer was answered before this call lies below: a projection that has passed all of these has seen it.

        Raises:
            UnavailableError: the brokers do not answer, or the topic does not exist.
        """
        async with self._lock:
            try:
                return await self._read()
            except (KafkaError, OSError, TimeoutError) as error:
                await self._disconnect()
                raise UnavailableError(f"The ends of {self._topic} cannot be read: {error!r}.") from error
            except BaseException:
                await self._disconnect()
                raise

    async def stop(self) -> None:
        """Disconnect."""
        async with self._lock:
            await self._disconnect()

    async def _read(self) -> dict[int, int]:
        if self._consumer is None:
            # No group: it owns nothing and commits nothing. Uncommitted reads: the end is the high watermark.
            self._consumer = AIOKafkaConsumer(
                bootstrap_servers=self._bootstrap, enable_auto_commit=False, request_timeout_ms=REQUEST_TIMEOUT_MS
            )
            await self._consumer.start()
        _, found = await topic_ids(self._consumer._client, [self._topic])  # noqa: SLF001 (as in topics.py)
        if self._topic not in found:
            raise UnknownTopicOrPartitionError(self._topic)
        partitions = [TopicPartition(self._topic, number) for number in range(found[self._topic].partitions)]
        ends = await self._consumer.end_offsets(partitions)
        return {partition.partition: end for partition, end in ends.items()}

    async def _disconnect(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with suppress(KafkaError, OSError):
                await consumer.stop()
