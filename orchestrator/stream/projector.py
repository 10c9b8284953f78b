"""The projector role: claims, lanes, retries, and when to give up.

A batch is applied only after the broker, asked after the fetch, said that the topic is still the one that was claimed: a topic made
anew that has grown past the position would else be read on as if nothing had happened.

Nothing may raise out of the agent, because Faust acknowledges what an agent raised on. So a transient database error repeats the same
deliveries with capped back-off; lost ownership or a broken chain ends the process (exit 9), which claims again when it is
restarted; a damaged log ends it with exit 5, which no supervisor should answer with a restart loop.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from enum import IntEnum
from functools import partial
from typing import Any

import faust
import structlog
from aiokafka.errors import KafkaError
from faust.exceptions import ConsumerNotStarted
from opentelemetry import trace
from opentelemetry.trace import SpanKind
from sqlalchemy.ext.asyncio import AsyncEngine
from yarl import URL

from orchestrator.adapters.kafka.topic_ids import Incarnation
from orchestrator.adapters.sql.engine import RETRYABLE
from orchestrator.adapters.sql.facts import Applied, Delivery, FactProjection
from orchestrator.adapters.sql.positions import BrokenChainError, FencedError, LogDamageError, LogIdentity
from orchestrator.config import Settings
from orchestrator.errors import OtaError
from orchestrator.stream.lanes import Lane
from orchestrator.stream.transport import BatchApp, BatchSchema, BatchTransport, FetchSettings
from orchestrator.telemetry.propagation import links_of

log = structlog.get_logger(__name__)
_tracer = trace.get_tracer(__name__)

LANES = 2
"""Connections that apply on disjoint partitions, each for itself: one connection keeps only one core of client and server busy."""

BUFFER = 64
"""Deliveries between the fetcher and the lanes. While catching up each holds a thousand records."""

MAX_BACKOFF = 2.0
"""Seconds between attempts while the database is away."""

MISSING_LIMIT = 5.0
"""Seconds for which the topic may seem not to exist: a broker that has just started may not have heard of it yet."""

IDLE_LIMIT = 60.0
"""Seconds without any assignment after which the process gives up: a recreated topic leaves Faust idling for ever."""


class ExitCode(IntEnum):
    """How the projector ends, for its supervisor."""

    CRASHED = 3
    LOG_DAMAGED = 5
    FENCED = 9


def leave(code: ExitCode, reason: object) -> None:
    """End the process at once: after a failed ownership check nothing of its memory may be trusted."""
    log.error("projector.exit", code=int(code), reason=str(reason), remedy=getattr(reason, "remedy", ""))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Projector:
    """Applies deliveries through ``LANES`` lanes, each with a projection of its own. Claims and transactions exclude each other."""

    def __init__(
        self, engine: AsyncEngine, settings: Settings, observe: Callable[[Applied, float], None] | None = None
    ) -> None:
        self._settings = settings
        self._topic = settings.device_events_topic
        self._projections = [FactProjection(engine, self._topic) for _ in range(LANES)]
        batch, linger = settings.projector_batch, settings.projector_linger_ms / 1_000
        self._lanes = [
            Lane(partial(self._apply, projection), batch=batch, linger=linger) for projection in self._projections
        ]
        self._observe = observe or (lambda _applied, _seconds: None)
        self._incarnation = Incarnation(settings.kafka_bootstrap, self._topic)
        self._asking = asyncio.Lock()
        self._claimed: LogIdentity | None = None

    async def claim(self, bounds: Mapping[int, tuple[int, int]]) -> dict[int, int]:
        async with AsyncExitStack() as idle:
            for lane in self._lanes:
                await idle.enter_async_context(lane.lock)
            try:
                identity = await self._identity()
                claimed: dict[int, int] = {}
                for number, projection in enumerate(self._projections):
                    own = {p: limits for p, limits in bounds.items() if p % LANES == number}
                    claimed |= await _persist(partial(projection.claim, identity, own))
                self._claimed = identity
            except LogDamageError as error:
                leave(ExitCode.LOG_DAMAGED, error)
                raise
            log.info("projector.claimed", partitions=len(claimed))
            return claimed

    async def deliver(self, delivery: Delivery) -> None:
        """Hand a delivery to its lane; returns before it is applied, as soon as the lane has room for more."""
        await self._lanes[delivery.partition % LANES].put(delivery)

    async def stop(self) -> None:
        """Let the transactions under way end and begin no other."""
        for lane in self._lanes:
            await lane.stop()
        await self._incarnation.stop()

    async def _apply(self, projection: FactProjection, deliveries: Sequence[Delivery]) -> None:
        """Apply and commit; returns only when it is done."""
        # One span per batch, linked to a few of the reports in it: a span per record would outweigh the work.
        links = links_of(record.headers for item in deliveries for record in item.records if record.headers)
        try:
            await self._check_incarnation()
            with _tracer.start_as_current_span(f"process {self._topic}", kind=SpanKind.CONSUMER, links=links) as span:
                begun = time.perf_counter()
                applied = await _persist(partial(projection.apply, deliveries))
                self._observe(applied, time.perf_counter() - begun)
                span.set_attribute("messaging.batch.message_count", applied.facts + len(applied.dead))
                span.set_attribute("messaging.destination.name", self._topic)
        except LogDamageError as error:
            leave(ExitCode.LOG_DAMAGED, error)
        except (FencedError, BrokenChainError) as error:
            leave(ExitCode.FENCED, error)
        except Exception as error:
            log.exception("projector.failed")
            leave(ExitCode.CRASHED, error)

    async def _check_incarnation(self) -> None:
        """Raises LogDamageError if what was fetched may be of another topic than the one that was claimed."""
        identity = await self._identity()
        if self._claimed is not None and identity != self._claimed:
            raise LogDamageError(
                f"{self._topic}: it was made anew while it was read. Claimed was topic id {self._claimed.topic_id} of cluster"
                f" {self._claimed.cluster_id}, the broker has {identity.topic_id} of {identity.cluster_id}."
            )

    async def _identity(self) -> LogIdentity:
        """Which incarnation the topic is now; waits for a broker that is away. Raises LogDamageError if there is no topic."""
        pause, missing_since = 0.05, None
        while True:
            try:
                async with self._asking:  # the lanes share its connection
                    identity = await self._incarnation.now()
            except (KafkaError, OSError, TimeoutError) as error:
                log.warning("projector.broker_away", error=repr(error), pause=pause)
            else:
                if identity is not None:
                    return identity
                missing_since = missing_since or time.monotonic()
                if time.monotonic() - missing_since > MISSING_LIMIT:
                    raise LogDamageError(f"The topic {self._topic} does not exist.")
            await asyncio.sleep(pause)
            pause = min(pause * 2, MAX_BACKOFF)


async def _persist(attempt: Callable[[], Any]) -> Any:
    """Repeat until the database answers; what failed was rolled back, so repeating it is safe."""
    pause = 0.05
    while True:
        try:
            return await attempt()
        except RETRYABLE as error:
            log.warning("projector.retry", error=repr(error), pause=pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, MAX_BACKOFF)


def make_app(projector: Projector, settings: Settings) -> BatchApp:
    """The Faust app with its one agent."""
    datadir = settings.state_dir / "faust"
    datadir.mkdir(
        parents=True, exist_ok=True
    )  # Faust makes one even without tables, in the current folder unless told otherwise
    url = f"kafka://{settings.kafka_bootstrap.replace(',', ';kafka://')}"
    fetch = FetchSettings(wait_ms=settings.fetch_wait_ms)
    app = BatchApp(
        f"{settings.topic_prefix}ota-fleet",
        broker=url,
        consumer_auto_offset_reset="none",
        consumer_group_instance_id=settings.instance,
        consumer_max_fetch_size=4 << 20,
        broker_max_poll_records=fetch.max_records,
        broker_session_timeout=10.0,
        broker_heartbeat_interval=1.0,
        broker_max_poll_interval=settings.projector_stuck_s,
        stream_buffer_maxsize=BUFFER,
        stream_wait_empty=False,
        table_standby_replicas=0,
        topic_disable_leader=True,
        topic_allow_declare=False,
        reply_create_topic=False,
        producer_threaded=False,
        web_enabled=False,
        datadir=str(datadir),
    )
    app.claimer = projector
    app.fetch_settings = fetch
    app.transport = BatchTransport([URL(part) for part in url.split(";")], app)
    topic = app.topic(settings.device_events_topic, schema=BatchSchema())

    async def project(stream: Any) -> None:
        app.inlet = stream.channel.queue
        try:
            async for delivery in stream:
                await projector.deliver(delivery)
        finally:
            await projector.stop()

    app.agent(topic, name="fleet")(project)
    return app


def _crash_reason(app: Any) -> BaseException | None:
    for service in (app, app._fetcher, app.consumer, getattr(app.consumer, "_thread", None)):  # noqa: SLF001
        reason = getattr(service, "_crash_reason", None)
        if reason is not None:
            return reason
    return None


def ready(app: Any) -> bool:
    """Whether the projector consumes: started, not rebalancing, with partitions."""
    if not app.started or app.should_stop or app.rebalancing or app._fetcher.crashed:  # noqa: SLF001
        return False
    try:
        return bool(app.consumer.assignment())
    except ConsumerNotStarted:
        return False


def _spare_the_collector() -> None:
    """For a process that only projects.

    Batches are thousands of short-lived objects without cycles: looking for cycles in them costs a fifth of the
    projector's CPU. What is there at the start stays for good, so it is not looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


async def run(app: faust.App, stop: asyncio.Event) -> None:
    """Run until ``stop`` is set. Ends the process itself when Faust has crashed or idles without partitions."""
    _spare_the_collector()
    started = asyncio.create_task(app.start())
    since = time.monotonic()
    while not stop.is_set():
        fetcher: Any = app._fetcher  # noqa: SLF001
        if app.should_stop or fetcher.crashed or (started.done() and started.exception() is not None):
            reason = _crash_reason(app) or (started.exception() if started.done() else None)
            damaged = isinstance(reason, LogDamageError) or type(reason).__name__ == "OffsetOutOfRangeError"
            leave(
                ExitCode.LOG_DAMAGED if damaged else ExitCode.CRASHED,
                reason if isinstance(reason, OtaError) else repr(reason),
            )
        if ready(app):
            since = time.monotonic()
        elif time.monotonic() - since > IDLE_LIMIT:
            leave(ExitCode.CRASHED, "no partitions assigned")
        try:
            await asyncio.wait_for(stop.wait(), 0.2)
        except TimeoutError:
            continue
    await app.stop()
