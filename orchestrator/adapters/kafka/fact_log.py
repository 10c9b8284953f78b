"""The device events topic, read again from any offset: what a rebuild reads facts from.

Belongs to no consumer group, so it disturbs no projector. A partition is read in long runs, because all facts of a device are in one
partition: the more of them one batch holds, the fewer rows are read and written. Meanwhile the client fetches ahead from the others.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from orchestrator.adapters.kafka.topic_ids import topic_ids
from orchestrator.adapters.sql.facts import Delivery
from orchestrator.adapters.sql.positions import LogDamageError, LogIdentity

FETCH_BYTES: Final = 1 << 20
"""Fetched ahead per partition: with 64 partitions the most memory that waits to be read, in MB."""

FETCH_WAIT_MS: Final = 25
"""How long the broker waits for more; the log has what is asked for, so this is never waited for in full."""

PATIENCE_MS: Final = 1_000
"""For one look at a partition; the next look goes on."""


class KafkaFacts:
    """One reader. Calls must not overlap."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._consumer: Any = None

    async def stop(self) -> None:
        """Disconnect; the next call connects again."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()

    async def identity(self) -> LogIdentity:
        """Which incarnation of the topic this is. Raises LogDamageError if there is none."""
        consumer = await self._connected()
        cluster, found = await topic_ids(consumer._client, [self._topic])  # noqa: SLF001 (as in topics.py)
        if self._topic not in found:
            raise LogDamageError(f"The topic {self._topic} does not exist.")
        return LogIdentity(cluster_id=cluster, topic_id=found[self._topic].topic_id)

    async def bounds(self, partitions: list[int]) -> dict[int, tuple[int, int]]:
        """Log start and log end of each partition."""
        consumer = await self._connected()
        wanted = [TopicPartition(self._topic, partition) for partition in partitions]
        starts, ends = await consumer.beginning_offsets(wanted), await consumer.end_offsets(wanted)
        return {tp.partition: (starts[tp], ends[tp]) for tp in wanted}

    async def read(self, spans: Mapping[int, tuple[int, int]], most: int) -> AsyncIterator[list[Delivery]]:
        """Records of each partition from the first offset to before the second, in batches of at most about ``most``.

        The broker's log must hold them all (:meth:`bounds`), or this waits for ever.
        """
        consumer = await self._connected()
        consumer.assign([TopicPartition(self._topic, partition) for partition in spans])
        for partition, (start, _) in spans.items():
            consumer.seek(TopicPartition(self._topic, partition), start)
        batch: list[Delivery] = []
        size = 0
        for partition, (start, end) in spans.items():
            tp, at = TopicPartition(self._topic, partition), start
            while at < end:
                fetched = await consumer.getmany(tp, timeout_ms=PATIENCE_MS, max_records=most - size)
                records = [record for record in fetched.get(tp, ()) if record.offset < end]
                if not records:
                    continue
                batch.append(Delivery(partition, records, at))
                at, size = records[-1].offset + 1, size + len(records)
                if size >= most:
                    yield batch
                    batch, size = [], 0
            consumer.pause(tp)
        if batch:
            yield batch

    async def _connected(self) -> Any:
        if self._consumer is None:
            consumer: Any = AIOKafkaConsumer(
                bootstrap_servers=self._bootstrap,
                enable_auto_commit=False,
                auto_offset_reset="none",
                max_partition_fetch_bytes=FETCH_BYTES,
                fetch_max_wait_ms=FETCH_WAIT_MS,
            )
            await consumer.start()
            self._consumer = consumer
        return self._consumer
