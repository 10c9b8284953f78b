"""Device facts into Kafka, each answered only when all in-sync replicas hold it.

Invariants: ``send`` returns only for a record that the broker acknowledged, with the offset it has. Whoever gets an error does
not know whether the record is stored and sends the same statement again; the fold takes both for one, they have the same event
id. So a producer whose state is in doubt is thrown away instead of repaired: aiokafka's idempotent producer counts its sequence
numbers on although a batch failed, and every later batch of that partition would be refused (aiokafka #1017).

Not here: order across a change of producers. A device waits for the answer to a report before it sends the next.
"""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, ProducerClosed
from aiokafka.structs import RecordMetadata

from orchestrator.errors import InvalidInputError, UnavailableError
from schemas.device_events import DeviceEvent, encode

LINGER_MS: Final = 5
"""How long a batch waits for company: at 16 connections it bounds the rate, at 128 it halves the CPU per record."""

MAX_BATCH_BYTES: Final = 262_144
"""Per partition; also what bounds the memory held while the broker is away (64 partitions: 16 MiB)."""

REQUEST_TIMEOUT_MS: Final = 5_000
"""For one request to a broker."""

SEND_TIMEOUT: Final = 6.0
"""Seconds until a record must be acknowledged; clients give up after 10 s and come back."""

RETRY_PAUSE: Final = 0.2
"""Seconds between two attempts of a record; all records together open one producer at a time."""

_log = structlog.get_logger(__name__)


class EventTooLargeError(InvalidInputError):
    """The event is larger than a record may be."""

    code = "event.too_large"
    status = 413


class Written(NamedTuple):
    """Where a record is."""

    partition: int
    offset: int


class FactProducer:
    """Writes device events, keyed by device id with Kafka's standard partitioner (murmur2).

    Usable before the broker is: a producer is opened when one is needed.
    """

    def __init__(self, bootstrap: str, topic: str, *, send_timeout: float = SEND_TIMEOUT) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._send_timeout = send_timeout
        self._producer: AIOKafkaProducer | None = None
        self._opener: asyncio.Task[AIOKafkaProducer] | None = None
        self._acknowledged_at = 0.0
        self._discards: set[asyncio.Task[None]] = set()
        self._closed = False

    async def start(self) -> None:
        """Open the producer if the broker answers; else ``send`` does when it does, so that polls need no broker."""
        try:
            async with asyncio.timeout(self._send_timeout):
                await self._current()
        except (KafkaError, OSError, TimeoutError) as error:
            _log.warning("kafka.unavailable", bootstrap=self._bootstrap, error=repr(error))

    async def stop(self) -> None:
        """Stop sending. What ``send`` has not returned for by now fails."""
        self._closed = True
        if self._opener is not None:
            await asyncio.wait([self._opener])
        producer, self._producer = self._producer, None
        if producer is not None:
            self._discard(producer)
        while self._discards:
            await asyncio.wait(self._discards)

    async def ready(self) -> None:
        """Return if the topic's partitions are known and have leaders. Raises UnavailableError."""
        try:
            async with asyncio.timeout(self._send_timeout):
                producer = await self._current()
                await producer.client.force_metadata_update()
                partitions = await producer.partitions_for(self._topic)
        except (KafkaError, OSError, TimeoutError) as error:
            raise UnavailableError(f"Kafka at {self._bootstrap} does not answer: {error!r}.") from error
        led = producer.client.cluster.available_partitions_for_topic(self._topic)
        if not partitions or led is None or len(led) < len(partitions):
            raise UnavailableError(f"Not every partition of {self._topic} has a leader.")

    async def send(self, event: DeviceEvent, traceparent: str | None = None) -> Written:
        """Write one event and return where it is, once all in-sync replicas have it.

        Raises:
            UnavailableError: no acknowledgement in time; whether the record is stored is unknown.
            EventTooLargeError: it would never fit.
        """
        began = asyncio.get_running_loop().time()
        value, key = encode(event), event.subject.encode()
        headers = [("traceparent", traceparent.encode())] if traceparent else []
        last: Exception | None = None
        try:
            async with asyncio.timeout(self._send_timeout):
                while True:
                    try:
                        return await self._send(key, value, headers, event.recorded_at)
                    except MessageSizeTooLargeError as error:
                        raise EventTooLargeError(f"The event has {len(value)} bytes.") from error
                    except (KafkaError, OSError) as error:
                        last = error
                        _log.warning("kafka.send_failed", event_id=event.id, error=repr(error))
                        await asyncio.sleep(RETRY_PAUSE)
        except TimeoutError as error:
            # Nothing of any partition was acknowledged meanwhile: the broker is away, or this producer is stuck.
            if self._acknowledged_at < began:
                self._replace(self._producer)
            raise UnavailableError(
                f"No acknowledgement from Kafka within {self._send_timeout:g} s ({last!r})."
            ) from error

    async def _send(self, key: bytes, value: bytes, headers: list[tuple[str, bytes]], at: int) -> Written:
        producer = await self._current()
        try:
            delivery = await producer.send(self._topic, value, key=key, timestamp_ms=at, headers=headers)
            delivery.add_done_callback(forget)
            # The shield: giving up waiting must not take a record out of a batch that other requests share.
            metadata: RecordMetadata = await asyncio.shield(delivery)
        except MessageSizeTooLargeError:
            raise
        except KafkaError:
            self._replace(producer)
            raise
        if metadata.log_start_offset is not None and metadata.log_start_offset < 0:
            # Acknowledged as a duplicate of a batch whose offset the broker has forgotten.
            raise KafkaError("the offset of an acknowledged record is unknown")
        self._acknowledged_at = asyncio.get_running_loop().time()
        return Written(metadata.partition, metadata.offset)

    async def _current(self) -> AIOKafkaProducer:
        if self._producer is not None:
            return self._producer
        if self._closed:
            raise ProducerClosed
        if self._opener is None:
            self._opener = asyncio.create_task(self._open())
            self._opener.add_done_callback(self._opened)
        # The shield: whoever gives up waiting must not leave half a connection behind, and others wait too.
        return await asyncio.shield(self._opener)

    async def _open(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap,
            acks="all",
            enable_idempotence=True,
            linger_ms=LINGER_MS,
            max_batch_size=MAX_BATCH_BYTES,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
        )
        try:
            await producer.start()
        except BaseException:
            self._discard(producer)
            raise
        return producer

    def _opened(self, opener: asyncio.Task[AIOKafkaProducer]) -> None:
        self._opener = None
        if opener.cancelled() or opener.exception() is not None:
            return
        if self._closed:
            self._discard(opener.result())
        else:
            self._producer = opener.result()

    def _replace(self, producer: AIOKafkaProducer | None) -> None:
        """Stop using a producer whose state is in doubt; of many callers that saw it fail, the first does it."""
        if producer is not None and producer is self._producer:
            self._producer = None
            _log.warning("kafka.producer_replaced", topic=self._topic)
            self._discard(producer)

    def _discard(self, producer: AIOKafkaProducer) -> None:
        task = asyncio.ensure_future(close_now(producer))
        self._discards.add(task)
        task.add_done_callback(self._discards.discard)


async def close_now(producer: AIOKafkaProducer) -> None:
    """Close without waiting for batches that a broker which is away never takes; whoever waits for them learns it."""
    producer._message_accumulator.fail_all(ProducerClosed())  # noqa: SLF001 (aiokafka is pinned; a contract test covers this)
    try:
        await producer.stop()
    except Exception as error:  # noqa: BLE001 (its sender may fail on the batches that were just taken away)
        _log.info("kafka.producer_discarded", error=repr(error))
    finally:
        await producer.client.close()


def forget(delivery: asyncio.Future[RecordMetadata]) -> None:
    """For deliveries of a request that timed out: nobody waits for them any more, and their error is no news."""
    if not delivery.cancelled():
        delivery.exception()
