"""Device facts into Kafka, each answered only when all in-sync replicas hold it.

Invariants: ``send`` returns only for a record that the broker acknowledged, with the offset it has. Whoever gets an error does
not know whether the record is stored and sends the same statement again; the fold takes both for one, they have the same event
id. So a producer whose state is in doubt is thrown away instead of repaired: aiokafka's idempotent producer counts its sequence
numbers on although a batch failed, and every later batch of that partition would be refused (aiokafka #1017).

Not here: order across a change of producers. A device waits for the answer to a report before it sends the next.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, ProducerClosed

from orchestrator.adapters.kafka.lanes import Lanes, LaneStuckError, Written
from orchestrator.errors import InvalidInputError, UnavailableError
from schemas.device_events import DeviceEvent, encode

MAX_BATCH_BYTES: Final = 262_144
"""Of one batch: a quarter of what a broker takes by default."""

MAX_EVENT_BYTES: Final = 1_000_000
"""Of one record; brokers refuse batches above 1 MiB by default, with their headers."""

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


class FactProducer:
    """Writes device events, keyed by device id with Kafka's standard partitioner (murmur2).

    Usable before the broker is: a producer is opened when one is needed.
    """

    def __init__(self, bootstrap: str, topic: str, *, send_timeout: float = SEND_TIMEOUT) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._send_timeout = send_timeout
        self._lanes: Lanes | None = None
        self._opener: asyncio.Task[Lanes] | None = None
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
        lanes, self._lanes = self._lanes, None
        if lanes is not None:
            self._discard(lanes.producer)
        while self._discards:
            await asyncio.wait(self._discards)

    async def ready(self) -> None:
        """Return if the topic's partitions are known and have leaders. Raises UnavailableError."""
        try:
            async with asyncio.timeout(self._send_timeout):
                producer = (await self._current()).producer
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
        value, key = encode(event), event.subject.encode()
        if len(value) + len(key) > MAX_EVENT_BYTES:
            raise EventTooLargeError(f"The event has {len(value)} bytes.")
        headers = [("traceparent", traceparent.encode())] if traceparent else []
        began = asyncio.get_running_loop().time()
        last: Exception | None = None
        if self._lanes is not None:
            # The first attempt needs no timer of its own: its lane has one for each group, which began earlier.
            try:
                return await self._send(self._lanes, began, key, value, event.recorded_at, headers)
            except (KafkaError, OSError) as error:
                last = error
        try:
            async with asyncio.timeout_at(began + self._send_timeout):
                while True:
                    if last is not None:
                        _log.warning("kafka.send_failed", event_id=event.id, error=repr(last))
                        await asyncio.sleep(RETRY_PAUSE)
                    try:
                        lanes = await self._current()
                        return await self._send(lanes, began, key, value, event.recorded_at, headers)
                    except (KafkaError, OSError) as error:
                        last = error
        except TimeoutError as error:
            if self._lanes is not None and not self._lanes.answered_since(began):
                # Nothing of any partition was acknowledged meanwhile: the broker is away, or this producer is stuck.
                self._replace(self._lanes)
            raise UnavailableError(
                f"No acknowledgement from Kafka within {self._send_timeout:g} s ({last!r})."
            ) from error

    async def _send(
        self, lanes: Lanes, began: float, key: bytes, value: bytes, at: int, headers: list[tuple[str, bytes]]
    ) -> Written:
        try:
            return await lanes.append(key, value, at, headers)
        except LaneStuckError:
            if not lanes.answered_since(began):
                self._replace(lanes)
            raise
        except KafkaError:
            self._replace(lanes)
            raise

    async def _current(self) -> Lanes:
        if self._lanes is not None:
            return self._lanes
        if self._closed:
            raise ProducerClosed
        if self._opener is None:
            self._opener = asyncio.create_task(self._open())
            self._opener.add_done_callback(self._opened)
        # The shield: whoever gives up waiting must not leave half a connection behind, and others wait too.
        return await asyncio.shield(self._opener)

    async def _open(self) -> Lanes:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap,
            acks="all",
            enable_idempotence=True,
            max_batch_size=MAX_BATCH_BYTES,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
        )
        try:
            await producer.start()
            partitions = await producer.partitions_for(self._topic)
        except BaseException:
            self._discard(producer)
            raise
        return Lanes(producer, self._topic, sorted(partitions), self._send_timeout)

    def _opened(self, opener: asyncio.Task[Lanes]) -> None:
        self._opener = None
        if opener.cancelled() or opener.exception() is not None:
            return
        if self._closed:
            self._discard(opener.result().producer)
        else:
            self._lanes = opener.result()

    def _replace(self, lanes: Lanes) -> None:
        """Stop using a producer whose state is in doubt; of many callers that saw it fail, the first does it."""
        if lanes is self._lanes:
            self._lanes = None
            _log.warning("kafka.producer_replaced", topic=self._topic)
            self._discard(lanes.producer)

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
