"""A gateway behind the real HTTP server, with the real log of facts; who is offered what is the test's to say."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import httpx
import pytest
import uvicorn
from aiokafka import AIOKafkaConsumer, TopicPartition

from api.devices.gateway import create_gateway
from api.devices.services import GatewayServices
from orchestrator.adapters.clock import now_ms
from orchestrator.adapters.kafka import topics
from orchestrator.adapters.kafka.partitions import LogEnds
from orchestrator.adapters.kafka.producer import FactProducer
from orchestrator.adapters.kafka.topics import Topic
from orchestrator.config import Settings
from orchestrator.devstack.ports import free_ports
from orchestrator.devstack.stack import DevStack
from schemas.device_events import DeviceEvent, decode_event
from tests.support.offers import MemoryArtifacts, MemoryIdentities, MemoryIdentity, MemoryOffers, MemoryPresence

BASE = "/DEFAULT/controller/v1/dev-1"
MAX_BODY = 20_000


@pytest.fixture(scope="package")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    """A broker of these tests alone: they stop it."""
    stack = DevStack(tmp_path_factory.mktemp("broker"), postgres=False, temporal=False, environ={})
    stack.up()
    yield stack
    stack.down()


@dataclass
class Served:
    """A gateway that listens."""

    host: str
    port: int
    client: httpx.AsyncClient
    bootstrap: str
    topic: str
    offers: MemoryOffers = field(default_factory=MemoryOffers)
    identities: MemoryIdentities = field(default_factory=MemoryIdentities)
    artifacts: MemoryArtifacts = field(default_factory=MemoryArtifacts)

    async def stored(self) -> list[DeviceEvent]:
        """Everything in the log."""
        log = LogEnds(self.bootstrap, self.topic)
        ends = await log.end_offsets()
        await log.stop()
        if not any(ends.values()):
            return []
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap, auto_offset_reset="earliest", enable_auto_commit=False
        )
        await consumer.start()
        try:
            consumer.assign([TopicPartition(self.topic, partition) for partition in ends])
            events: list[DeviceEvent] = []
            while len(events) < sum(ends.values()):
                for batch in (await consumer.getmany(timeout_ms=200)).values():
                    events += [decode_event(record.value) for record in batch]
            return events
        finally:
            await consumer.stop()

    async def raw(self, request: bytes, *, until: bytes | None = None, then: bytes = b"") -> bytes:
        """What the server sends for these bytes; ``then`` is sent once ``until`` has come. Reads to the end of the connection."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(request)
            head = b""
            if until is not None:
                head = await reader.readuntil(until)
                writer.write(then)
            return head + await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@pytest.fixture
async def served(broker: DevStack) -> AsyncIterator[Served]:
    await asyncio.to_thread(broker.up)
    bootstrap = broker.status()[0].address
    assert bootstrap is not None
    prefix = f"t{uuid.uuid4().hex[:8]}."
    await topics.apply(bootstrap, prefix, (Topic("facts", 4),))
    producer = FactProducer(bootstrap, f"{prefix}facts", send_timeout=2)
    await producer.start()
    (port,) = free_ports(1)
    served = Served("127.0.0.1", port, httpx.AsyncClient(), bootstrap, f"{prefix}facts")
    served.identities.register(MemoryIdentity(7, "dev-1", "s3cret"))
    app = create_gateway(
        GatewayServices(
            settings=Settings(gateway_port=port, projection_wait_ms=100, max_report_bytes=MAX_BODY),
            offers=served.offers,
            facts=producer,
            identities=served.identities,
            presence=MemoryPresence(),
            artifacts=served.artifacts,
            clock=now_ms,
            metrics=lambda: b"",
            readiness=[("kafka", producer.ready)],
        )
    )
    server = _Server(
        uvicorn.Config(app, host="127.0.0.1", port=port, http="httptools", ws="none", lifespan="on", log_config=None)
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:
        assert not serving.done()
        await asyncio.sleep(0.01)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", headers={"Authorization": "TargetToken s3cret"}, timeout=30
    ) as served.client:
        yield served
    server.should_exit = True
    await serving
    await producer.stop()


class _Server(uvicorn.Server):
    def capture_signals(self):
        return contextlib.nullcontext()
