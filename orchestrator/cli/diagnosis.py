"""What ``ota doctor`` looks at: each check finds something out, or says what is wrong and what to do about it.

None changes anything, except that the artifact store is left with one small file of constant content.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.config import Settings

CHECK_TIMEOUT: Final = 10
"""Seconds for one check: a server that is merely busy answers within it."""

MAX_SKEW: Final = 1.0
"""Seconds between this clock and the database's. Deadlines are minutes to days; more than this means that nobody keeps the clocks."""

_PROBE: Final = b"ota doctor was here\n"


class Trouble(Exception):  # noqa: N818 (it is a finding, not a failure of the check)
    """Something is not as it should be."""

    def __init__(self, detail: str, remedy: str) -> None:
        self.detail = detail
        self.remedy = remedy
        super().__init__(detail)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


Check = Callable[[Settings], Awaitable[str]]


async def diagnose(settings: Settings, checks: Sequence[tuple[str, str, Check]] | None = None) -> list[Finding]:
    """Run all checks at once. Findings come in the order of the checks."""
    return list(await asyncio.gather(*(_run(settings, *check) for check in checks or CHECKS)))


async def _run(settings: Settings, name: str, remedy: str, check: Check) -> Finding:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT):
            return Finding(name, ok=True, detail=await check(settings))
    except Trouble as trouble:
        return Finding(name, ok=False, detail=trouble.detail, remedy=trouble.remedy)
    except TimeoutError:
        return Finding(name, ok=False, detail=f"no answer within {CHECK_TIMEOUT} s", remedy=remedy)
    except Exception as error:  # noqa: BLE001 (whatever a client raises is the finding)
        first = str(error).strip().partition("\n")[0]
        return Finding(name, ok=False, detail=first or type(error).__name__, remedy=remedy)


# --------------------------------------------------------------------------- database


@asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[Any]:
    import asyncpg

    connection = await asyncpg.connect(settings.database_url, timeout=CHECK_TIMEOUT)
    try:
        yield connection
    finally:
        await connection.close()


async def database(settings: Settings) -> str:
    """PostgreSQL answers, and is of a supported version."""
    async with _database(settings) as connection:
        version = connection.get_server_version()
    if version.major < 15:
        raise Trouble(f"PostgreSQL {version.major} is too old.", "Use PostgreSQL 15 or later.")
    return f"PostgreSQL {version.major}.{version.minor}"


async def migrations(settings: Settings) -> str:
    """The tables are those of this version."""
    from orchestrator.adapters.sql.migrations import head_revision

    head = head_revision()
    async with _database(settings) as connection:
        there = await connection.fetchval("SELECT to_regclass('alembic_version') IS NOT NULL")
        current = await connection.fetchval("SELECT version_num FROM alembic_version") if there else None
    if current != head:
        raise Trouble(
            f"The database is at {current or 'no revision'}, this version needs {head}.", "Run `ota migrate`."
        )
    return f"at head {head}"


async def clock(settings: Settings) -> str:
    """Whether this machine and the database agree on the time."""
    async with _database(settings) as connection:
        before = time.time()
        there: float = float(await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())"))
        after = time.time()
    skew = there - (before + after) / 2
    # The answer took part of that time, on ways of unknown lengths.
    if abs(skew) > MAX_SKEW + (after - before) / 2:
        raise Trouble(
            f"The database's clock is {skew:+.1f} s off.", "Synchronise both machines by NTP (chrony, timesyncd)."
        )
    return f"{skew * 1_000:+.0f} ms from the database's"


# --------------------------------------------------------------------------- Kafka


@asynccontextmanager
async def _broker(settings: Settings) -> AsyncIterator[Any]:
    from aiokafka.admin import AIOKafkaAdminClient

    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap, request_timeout_ms=CHECK_TIMEOUT * 1_000)
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


async def kafka(settings: Settings) -> str:
    """A broker answers."""
    async with _broker(settings) as admin:
        cluster = await admin.describe_cluster()
    return f"cluster {cluster['cluster_id']}, {len(cluster['brokers'])} brokers"


async def topics(settings: Settings) -> str:
    """The topics are there, with the declared partitions, and every partition has a leader."""
    from orchestrator.adapters.kafka.topic_ids import topic_ids
    from orchestrator.adapters.kafka.topics import TOPICS

    wanted = {settings.topic_prefix + topic.name: topic.partitions for topic in TOPICS}
    async with _broker(settings) as admin:
        _, found = await topic_ids(admin._client, list(wanted))  # noqa: SLF001 (aiokafka is pinned; a contract test covers this)
    if missing := [name for name in wanted if name not in found]:
        raise Trouble(f"Missing: {', '.join(missing)}.", "Run `ota topics apply`.")
    for name, partitions in wanted.items():
        topic = found[name]
        if topic.partitions != partitions:
            detail = f"{name} has {topic.partitions} partitions, {partitions} are declared."
            raise Trouble(detail, "Use another OTA_TOPIC_PREFIX: the number of partitions is for life.")
        if topic.leaders != partitions:
            raise Trouble(f"{partitions - topic.leaders} partitions of {name} have no leader.", "Look at the brokers.")
    return f"{len(wanted)} topics"


async def projection(settings: Settings) -> str:
    """The log of facts still holds everything that was not read."""
    from orchestrator.domain.log_loss import remedy_for
    from orchestrator.stream.log_loss import look_once

    found = await look_once(settings)
    if losses := found.losses:
        raise Trouble(f"{len(losses)} partitions of {found.topic} lost unread facts. {losses[0]}", remedy_for(losses))
    return f"{sum(map(found.lag, found.log.bounds))} facts behind"


# --------------------------------------------------------------------------- Temporal and artifacts


async def temporal(settings: Settings) -> str:
    """Temporal's frontend answers, and the namespace exists."""
    from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, GetSystemInfoRequest
    from temporalio.client import Client
    from temporalio.service import RPCError, RPCStatusCode

    client = await Client.connect(settings.temporal_address, namespace=settings.temporal_namespace)
    info = await client.workflow_service.get_system_info(GetSystemInfoRequest())
    try:
        await client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace=settings.temporal_namespace)
        )
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        detail = f"There is no namespace '{settings.temporal_namespace}'."
        raise Trouble(detail, "Create it, or correct OTA_TEMPORAL_NAMESPACE.") from error
    return f"server {info.server_version}"


async def artifacts(settings: Settings) -> str:
    """The artifact store keeps a file and gives it back."""
    from orchestrator.adapters.artifacts import open_store

    async def chunks() -> AsyncIterator[bytes]:
        yield _PROBE

    store = open_store(settings)
    async with store.stage(chunks(), len(_PROBE)) as staged:
        await store.put(staged)
    read = b"".join([piece async for piece in store.open_range(staged.sha256, 0, staged.size)])
    if read != _PROBE:
        raise Trouble("A file came back changed.", "Do not use this store; look at what it stands on.")
    return settings.artifact_store or str(settings.state_dir / "artifacts")


CHECKS: Final[tuple[tuple[str, str, Check], ...]] = (
    ("database", "Start PostgreSQL, or correct OTA_DATABASE_URL. `ota dev up` starts one on this machine.", database),
    ("migrations", "See the database first.", migrations),
    ("clock", "See the database first.", clock),
    ("kafka", "Start Kafka, or correct OTA_KAFKA_BOOTSTRAP. `ota dev up` starts one on this machine.", kafka),
    ("topics", "See Kafka first.", topics),
    ("projection", "See the database and Kafka first.", projection),
    ("temporal", "Start Temporal, or correct OTA_TEMPORAL_ADDRESS. `ota dev up` starts one on this machine.", temporal),
    ("artifacts", "Make OTA_ARTIFACT_STORE (or OTA_STATE_DIR) a place that this user can write to.", artifacts),
)
"""Name, usual remedy, check."""
