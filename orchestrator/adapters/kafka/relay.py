"""Campaign events to Kafka: the published copy of the campaigns' streams.

Keyed by campaign id, so that a consumer sees each campaign in order. Delivery is at least once: after a crash, or while two relays
overlap for a moment, events come again; ``position`` is unique and rises within a campaign, which is all a consumer needs to skip
what it has. Events of the registry are not published: they carry hashes of credentials.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from orchestrator.adapters.kafka.lanes import forget
from orchestrator.adapters.kafka.producer import close_now
from orchestrator.app.ports import Recorded
from orchestrator.errors import UnavailableError

STREAM: Final = "campaign/"

REQUEST_TIMEOUT_MS: Final = 10_000
"""For one request to a broker; the relay tries the whole batch again."""

DELIVERY_TIMEOUT: Final = 30.0
"""Seconds until a batch must be acknowledged; a producer left alone would wait for a broker that is away for ever."""

LINGER_MS: Final = 5
"""A batch of events is handed over at once and goes out as one request per partition."""


class Published(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The value of a record, as JSON; ``data`` is the struct that ``type`` names in ``schemas.campaign_events``."""

    position: int
    event_id: str
    stream: str
    version: int
    type: str
    data: Any
    meta: Any
    command_id: str
    recorded_at: int


class KafkaConsumer:
    """``orchestrator.app.relay.Consumer`` that publishes to ``topic`` and returns when all in-sync replicas have everything."""

    name = "kafka"

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._producer: AIOKafkaProducer | None = None

    async def deliver(self, events: Sequence[Recorded]) -> None:
        """Raises UnavailableError."""
        published = [event for event in events if event.stream.startswith(STREAM)]
        if not published:
            return
        try:
            async with asyncio.timeout(DELIVERY_TIMEOUT):
                producer = await self._connected()
                sent = [await producer.send(self._topic, **_record(event)) for event in published]
                for delivery in sent:
                    delivery.add_done_callback(forget)
                await asyncio.gather(*(asyncio.shield(delivery) for delivery in sent))
        except (KafkaError, OSError, TimeoutError) as error:
            # Sequence numbers of a producer that failed are not to be trusted (aiokafka #1017): the next attempt gets a new one.
            await self.close()
            raise UnavailableError(f"Kafka at {self._bootstrap} does not take campaign events: {error!r}") from error

    async def close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await close_now(producer)

    async def _connected(self) -> AIOKafkaProducer:
        if self._producer is None:
            producer = AIOKafkaProducer(
                bootstrap_servers=self._bootstrap,
                acks="all",
                enable_idempotence=True,
                linger_ms=LINGER_MS,
                request_timeout_ms=REQUEST_TIMEOUT_MS,
            )
            try:
                await producer.start()
            except BaseException:
                await close_now(producer)
                raise
            self._producer = producer
        return self._producer


def _record(event: Recorded) -> dict[str, Any]:
    value = Published(
        position=event.position,
        event_id=event.event_id,
        stream=event.stream,
        version=event.version,
        type=event.type,
        data=event.event,
        meta=event.meta,
        command_id=event.command_id,
        recorded_at=event.recorded_at,
    )
    trace = event.meta.traceparent
    return {
        "key": event.stream.removeprefix(STREAM).encode(),
        "value": msgspec.json.encode(value),
        "timestamp_ms": event.recorded_at,
        "headers": [("traceparent", trace.encode())] if trace else [],
    }
