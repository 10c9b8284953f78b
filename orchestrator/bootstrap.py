"""The composition root: the only place where ports meet adapters. One function per role; entry points import nothing else.

A role runs until SIGTERM or SIGINT and then ends in an orderly way: listeners first, then what they used, telemetry last.
Frameworks are imported late, because telemetry must be set up before they are.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from socket import socket
from typing import TYPE_CHECKING, Any, Final

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.clock import new_id, now_ms
from orchestrator.adapters.sql.engine import RETRYABLE, make_engine
from orchestrator.collector import spare_collector
from orchestrator.config import Settings
from orchestrator.errors import InvalidInputError, UnavailableError
from orchestrator.telemetry import logs
from orchestrator.telemetry.health import serve_health
from orchestrator.telemetry.propagation import current_traceparent
from orchestrator.telemetry.setup import Telemetry, setup

if TYPE_CHECKING:
    from api.operator.services import OperatorServices
    from orchestrator.adapters.artifacts import ArtifactStore
    from orchestrator.app.process import Facts
    from orchestrator.app.relay import Relay
    from orchestrator.stream.log_loss import LogWatch

log = structlog.get_logger(__name__)

ROLES: Final = ("api", "gateway", "projector", "worker", "relay")

POOLS: Final = {"api": 8, "gateway": 12, "projector": 3, "worker": 12, "relay": 5}
"""Database connections per role. They add up to 40 per set of roles, of PostgreSQL's default of 100."""

TRANSIENT: Final = (*RETRYABLE, SQLAlchemyError)
"""What the database does to a request when it restarts, is full or breaks a deadlock: trying again is right, 500 is not."""

Check = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Role:
    """What every role has."""

    name: str
    settings: Settings
    telemetry: Telemetry
    stop: asyncio.Event
    closing: AsyncExitStack

    def engine(self, *, hot: bool = False, pool_size: int | None = None) -> AsyncEngine:
        engine = make_engine(
            self.settings.database_url,
            pool_size=pool_size or POOLS[self.name],
            hot=hot,
            application=f"ota-{self.name}",
        )
        self.closing.push_async_callback(engine.dispose)
        return engine

    def watch_log(self, engine: AsyncEngine) -> LogWatch:
        """Whether the log of facts holds what was not read.

        Part of the readiness of roles that no balancer looks at: gateways and the API must serve on while it does not.
        """
        from orchestrator.stream.log_loss import LogWatch

        watch = LogWatch(engine, self.settings)
        self.closing.push_async_callback(watch.stop)
        return watch

    async def health(self, *checks: tuple[str, Check]) -> None:
        """Serve the probes of a role without a listener of its own."""
        server = await serve_health(self.settings, checks, self.telemetry.metrics_text)
        self.closing.push_async_callback(server.aclose)


def database_check(engine: AsyncEngine) -> tuple[str, Check]:
    """Readiness: the database answers."""

    async def check() -> None:
        async with engine.connect() as conn:
            await conn.execute(text("SELECT 1"))

    return "database", check


async def run_role(name: str, settings: Settings) -> int:
    """Run one role until it is told to stop; its exit code. Raises InvalidInputError for a name that is no role."""
    if name not in ROLES:
        raise InvalidInputError(f"There is no role '{name}'.", remedy=f"The roles are {', '.join(ROLES)}.")
    telemetry = setup(name, settings)
    logs.configure(name)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with AsyncExitStack() as closing:
            role = _Role(name, settings, telemetry, stop, closing)
            log.info("role.starting")
            await _RUN[name](role)
            log.info("role.stopping")
    finally:
        telemetry.shutdown()
    return 0


async def _serve(role: _Role, app: Any, port: int, listener: socket | None = None, http: Any = "httptools") -> None:
    """Serve an ASGI app until the role stops; on ``listener`` if there is one, ``http`` being uvicorn's protocol."""
    import uvicorn

    class Server(uvicorn.Server):
        def capture_signals(self) -> Any:
            return nullcontext()  # the role's own handlers decide

    config = uvicorn.Config(
        app,
        host=role.settings.host,
        port=port,
        http=http,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
        server_header=False,
        backlog=role.settings.listen_backlog,
    )
    server = Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener] if listener else None))
    stopping = asyncio.create_task(role.stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    stopping.cancel()
    await serving


def artifact_store(settings: Settings) -> ArtifactStore:
    """Where artifacts are kept."""
    from orchestrator.adapters.artifacts import ArtifactStore

    return ArtifactStore(settings.artifact_store, settings.state_dir / "artifacts")


async def _api(role: _Role) -> None:
    from api.operator.app import create_app
    from orchestrator.telemetry.http import instrument_app

    engine = role.engine()
    facts = heard_facts(role.settings, engine, role.closing)
    services = operator_services(role.settings, engine, role.telemetry.metrics_text, facts)
    app = create_app(services)
    instrument_app(app)
    await _serve(role, app, role.settings.api_port)


def heard_facts(settings: Settings, engine: AsyncEngine, closing: AsyncExitStack) -> Facts:
    """How much of what devices stated has been heard. Connects to Kafka when first asked."""
    from orchestrator.adapters.kafka.partitions import LogEnds
    from orchestrator.adapters.sql.process import SqlPositions
    from orchestrator.app.process import ProjectedFacts

    topic = settings.device_events_topic
    ends = LogEnds(settings.kafka_bootstrap, topic, SqlPositions(engine, topic).bookmarks)
    closing.push_async_callback(ends.stop)
    return ProjectedFacts(ends, SqlPositions(engine, topic))


def operator_services(
    settings: Settings, engine: AsyncEngine, metrics: Callable[[], bytes], facts: Facts
) -> OperatorServices:
    """The use cases of the operator API on their adapters."""
    from api.operator.services import OperatorServices
    from orchestrator.adapters import zones
    from orchestrator.adapters.firmware_intake import McubootVerifier
    from orchestrator.adapters.sql.as_of import SqlArchive
    from orchestrator.adapters.sql.campaign_history import SqlCampaignHistory
    from orchestrator.adapters.sql.campaigns import SqlCampaignStore
    from orchestrator.adapters.sql.explain import SqlExplain
    from orchestrator.adapters.sql.fleet import SqlFleet
    from orchestrator.adapters.sql.fleet_stop import SqlFleetControl
    from orchestrator.adapters.sql.idempotency import SqlIdempotency
    from orchestrator.adapters.sql.owners import SqlOwners
    from orchestrator.adapters.sql.queries import SqlQueries
    from orchestrator.adapters.sql.registry import SqlRegistry
    from orchestrator.adapters.sql.remediation import SqlRemediations
    from orchestrator.adapters.sql.webhooks import SqlWebhooks
    from orchestrator.app.as_of import AsOf
    from orchestrator.app.backtest import Backtests
    from orchestrator.app.campaigns import Campaigns
    from orchestrator.app.devices import Devices
    from orchestrator.app.explain import Explanations
    from orchestrator.app.fleet import FleetCommands
    from orchestrator.app.keys import ApiKeys
    from orchestrator.app.owners import OwnerWills
    from orchestrator.app.pace import PaceCommands
    from orchestrator.app.releases import Releases
    from orchestrator.app.remediation import Remediations
    from orchestrator.app.verdicts import ExternalVerdicts
    from orchestrator.app.webhooks import Webhooks

    registry = SqlRegistry(engine)
    campaigns = Campaigns(
        SqlCampaignStore(engine),
        SqlFleet(engine),
        registry,
        new_id=new_id,
        known_zone=zones.known,
        traceparent=current_traceparent,
    )
    verdicts = ExternalVerdicts(SqlCampaignStore(engine), traceparent=current_traceparent)
    return OperatorServices(
        settings=settings,
        campaigns=campaigns,
        remediations=Remediations(
            SqlCampaignStore(engine),
            SqlRemediations(engine),
            campaigns,
            registry,
            new_id=new_id,
            traceparent=current_traceparent,
        ),
        verdicts=verdicts,
        webhooks=Webhooks(SqlWebhooks(engine), verdicts, now=now_ms, new_id=new_id, traceparent=current_traceparent),
        pace=PaceCommands(SqlCampaignStore(engine), traceparent=current_traceparent),
        releases=Releases(
            registry,
            artifact_store(settings),
            McubootVerifier(),
            new_id=new_id,
            max_artifact_bytes=settings.max_artifact_bytes,
            traceparent=current_traceparent,
        ),
        devices=Devices(
            registry,
            max_devices=settings.max_import_devices,
            max_per_event=settings.max_devices_per_event,
            traceparent=current_traceparent,
        ),
        owners=OwnerWills(
            SqlOwners(engine),
            SqlCampaignStore(engine),
            registry,
            max_postponement_days=settings.max_postponement_days,
            traceparent=current_traceparent,
        ),
        keys=ApiKeys(registry, now=now_ms, new_id=new_id, traceparent=current_traceparent),
        queries=SqlQueries(engine),
        backtests=Backtests(SqlCampaignHistory(engine)),
        as_of=AsOf(SqlArchive(engine), facts, now=now_ms),
        explanations=Explanations(SqlExplain(engine), now_ms),
        fleet=FleetCommands(SqlFleetControl(engine), traceparent=current_traceparent),
        answers=SqlIdempotency(engine, lease_ms=settings.idempotency_lease_ms),
        clock=now_ms,
        metrics=metrics,
        readiness=[database_check(engine)],
        transient=TRANSIENT,
        traceparent=current_traceparent,
    )


@asynccontextmanager
async def local_services(settings: Settings) -> AsyncGenerator[OperatorServices]:
    """The operator's use cases directly on the database: for commands on the machine itself, the first API key above all."""
    engine = make_engine(settings.database_url, pool_size=2, application="ota-cli")
    async with AsyncExitStack() as closing:
        closing.push_async_callback(engine.dispose)
        yield operator_services(settings, engine, bytes, heard_facts(settings, engine, closing))


async def _gateway(role: _Role) -> None:
    from api.devices import listener as listening
    from api.devices.door import door
    from api.devices.gateway import create_gateway
    from api.devices.services import GatewayServices
    from orchestrator.adapters.kafka.producer import FactProducer
    from orchestrator.adapters.sql.identities import SqlIdentities
    from orchestrator.adapters.sql.offer_board import OfferBoard
    from orchestrator.adapters.sql.offers import SqlOffers
    from orchestrator.adapters.sql.presence import PresenceWriter

    settings, instruments = role.settings, role.telemetry.instruments
    engine = role.engine(hot=True)
    facts = FactProducer(settings.kafka_bootstrap, settings.device_events_topic)
    await facts.start()
    role.closing.push_async_callback(facts.stop)
    presence = PresenceWriter(engine, settings.presence_flush_ms)
    presence.start()
    role.closing.push_async_callback(presence.stop)
    board = OfferBoard(engine)
    await board.start()
    role.closing.push_async_callback(board.stop)
    listening.raise_descriptor_limit()
    listener = listening.bind(settings.host, settings.gateway_port)
    role.closing.callback(listener.close)
    services = GatewayServices(
        settings=settings,
        offers=SqlOffers(engine, settings.device_events_topic, board),
        facts=facts,
        identities=SqlIdentities(engine),
        presence=presence,
        artifacts=artifact_store(settings),
        clock=now_ms,
        metrics=role.telemetry.metrics_text,
        readiness=[database_check(engine), ("kafka", facts.ready)],
        transient=TRANSIENT,
        traceparent=current_traceparent,
        ingested=instruments.events_ingested.count,
        refused=lambda kind, code: instruments.events_rejected.add(1, {"type": kind, "reason": code}),
        queued=lambda: listening.queued(listener),
        put_off=lambda kind, code: instruments.gateway_put_off.add(1, {"type": kind, "reason": code}),
    )
    spare_collector()
    gateway = create_gateway(services)
    await _serve(role, gateway, settings.gateway_port, listener, door(gateway.at_the_door))


async def _projector(role: _Role) -> None:
    from orchestrator.stream.projector import Projector, make_app, ready, run
    from orchestrator.telemetry.observers import projector_observer

    settings = role.settings
    engine = role.engine(hot=True)
    observe = projector_observer(role.telemetry.instruments, settings.device_events_topic, "ota-fleet")
    app = make_app(Projector(engine, settings, observe), settings)

    async def consuming() -> None:
        if not ready(app):
            raise UnavailableError("The projector has no partitions yet.")

    await role.health(database_check(engine), ("kafka", consuming))
    await run(app, role.stop)


async def _worker(role: _Role) -> None:
    from orchestrator.adapters.kafka.partitions import LogEnds
    from orchestrator.adapters.sql.campaigns import SqlCampaignStore
    from orchestrator.adapters.sql.decisions import SqlDecisions
    from orchestrator.adapters.sql.process import SqlEnrolments, SqlPositions
    from orchestrator.adapters.temporal.client import connect, register_search_attributes
    from orchestrator.app.process import CampaignProcess, ProjectedFacts
    from workflows.activities import ProcessActivities
    from workflows.worker import build_worker

    settings = role.settings
    engine = role.engine()
    watch = role.watch_log(engine)
    ends = LogEnds(settings.kafka_bootstrap, settings.device_events_topic, watch.bookmarks)
    role.closing.push_async_callback(ends.stop)
    process = CampaignProcess(
        SqlCampaignStore(engine),
        SqlDecisions(engine, role.engine(pool_size=2)),
        SqlEnrolments(engine),
        ProjectedFacts(ends, SqlPositions(engine, settings.device_events_topic)),
        slice_size=settings.slice_size,
    )
    client = await connect(settings, lazy=False)
    await register_search_attributes(client)
    async with build_worker(client, settings, ProcessActivities(process)):
        await role.health(database_check(engine), ("facts", watch.check))
        await role.stop.wait()


async def _relay(role: _Role) -> None:
    from orchestrator.adapters.kafka.partitions import LogEnds
    from orchestrator.adapters.kafka.relay import KafkaConsumer
    from orchestrator.adapters.sql.relay import SqlBookmarks, SqlLeadership, SqlLogReader
    from orchestrator.adapters.sql.webhooks import SqlWebhooks
    from orchestrator.adapters.temporal.client import connect
    from orchestrator.adapters.temporal.processes import TemporalConsumer, TemporalProcesses
    from orchestrator.adapters.webhook_http import HttpPoster
    from orchestrator.app.deliveries import WebhookConsumer, WebhookSender
    from orchestrator.app.relay import Relay
    from orchestrator.telemetry.fleet_gauges import FleetGauges

    settings = role.settings
    engine = role.engine()
    kafka = KafkaConsumer(settings.kafka_bootstrap, settings.campaign_events_topic)
    role.closing.push_async_callback(kafka.close)
    temporal = TemporalConsumer(TemporalProcesses(await connect(settings), settings))
    queue = SqlWebhooks(engine)
    consumers = [kafka, temporal, WebhookConsumer(queue, settings.api_address)]
    relay = Relay(SqlLogReader(engine), SqlBookmarks(engine), SqlLeadership(engine), consumers)
    poster = await role.closing.enter_async_context(
        HttpPoster(settings.webhook_timeout_s, settings.webhook_refused_networks)
    )
    counter = role.telemetry.instruments.webhook_deliveries
    sender = WebhookSender(
        queue,
        poster,
        now=now_ms,
        dice=random.random,
        counted=lambda kind, result: counter.add(1, {"type": kind, "result": result}),
    )
    ends = LogEnds(settings.kafka_bootstrap, settings.device_events_topic)
    role.closing.push_async_callback(ends.stop)
    watch = role.watch_log(engine)
    gauges = FleetGauges(
        engine,
        role.telemetry.instruments,
        settings.device_events_topic,
        ends.end_offsets,
        watch.damaged_partitions,
    )
    await role.health(database_check(engine), ("facts", watch.check))
    leading = [asyncio.create_task(_while_leading(relay, run)) for run in (gauges.run, sender.run)]
    try:
        await relay.run(role.stop)
    finally:
        for task in leading:
            task.cancel()
        await asyncio.gather(*leading, return_exceptions=True)


async def _while_leading(relay: Relay, run: Callable[[], Awaitable[None]]) -> None:
    """Exactly one process exports the fleet's gauges and sends to webhooks: the leader."""
    running: asyncio.Future[None] | None = None
    try:
        while True:
            if relay.leading and (running is None or running.done()):
                running = asyncio.ensure_future(run())
            elif not relay.leading and running is not None:
                running.cancel()
                running = None
            await asyncio.sleep(1)
    finally:
        if running is not None:
            running.cancel()


_RUN: Final[dict[str, Callable[[_Role], Awaitable[None]]]] = {
    "api": _api,
    "gateway": _gateway,
    "projector": _projector,
    "worker": _worker,
    "relay": _relay,
}
