"""A fleet that comes back at once: gateway killed in the middle of updates, everybody reconnects within seconds.

The whole stack is real but for the worker and its campaign process: PostgreSQL, Kafka, Temporal, and the roles api, gateway, projector
and relay share the cores with the fleet. The new gateway's memory is empty, so every device has to be looked up again. Devices without
an update poll once; those with one send the report that was not acknowledged, and go on.

An operator asks every 100 ms, whatever became of the question before, so a slow answer cannot hide the next. In the end everything
that was answered 200 is looked for in the log and in the projection, by its event id.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import httpx
import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from rich.console import RenderableType
from rich.table import Table

from orchestrator.adapters.kafka.partitions import LogEnds
from orchestrator.adapters.sql.engine import make_engine
from orchestrator.app.keys import Scope
from orchestrator.bootstrap import local_services
from orchestrator.devstack.roles import Roles
from schemas.device_events import decode_event
from tests.bench import fleet
from tests.bench.common import PATIENCE, Bed, Cpu, bed, child, circumstances, per_unit, percentile, reached
from tests.bench.reconnect import STATES, Account, Order, Second

Say = Callable[[RenderableType], None]

QUESTION: Final = 0.1
"""Seconds between two questions of the operator."""

CALM: Final = 3.0
"""Seconds of the operator's questions before the cut, to compare with."""

BAR: Final = 40
"""Characters of the longest bar of the printed curve."""

LINES: Final = 30
"""Lines of the printed curve at most."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much to measure: ``devices`` come back within ``spread`` seconds, ``updating`` of them are being updated."""

    devices: int
    updating: int
    spread: int = 10
    per_address: int = 1
    sockets: int = 16_000
    heedless: int = 10
    """Of 100 devices, how many do not read Retry-After."""
    seed: int = 1


SIZES = {"small": Size(devices=10_000, updating=1_000), "large": Size(devices=100_000, updating=2_000)}


# --------------------------------------------------------------------------- who watches


@dataclass(frozen=True, slots=True)
class Question:
    """One of the operator's: when it was due (perf_counter seconds), ms until its answer, and its status (0: none)."""

    due: float
    ms: float
    status: int


@dataclass
class Operator:
    """Asks for campaigns and devices, on time."""

    http: httpx.AsyncClient
    paths: Sequence[str]
    asked: list[Question] = field(default_factory=list)

    async def watch(self) -> None:
        began, number = time.perf_counter(), 0
        async with asyncio.TaskGroup() as asking:
            while True:
                due = began + number * QUESTION
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                asking.create_task(self._ask(due, self.paths[number % len(self.paths)]))
                number += 1

    async def _ask(self, due: float, path: str) -> None:
        try:
            status = (await self.http.get(path)).status_code
        except httpx.HTTPError:
            status = 0
        self.asked.append(Question(due, (time.perf_counter() - due) * 1e3, status))

    def between(self, begin: float, end: float) -> list[float]:
        return [each.ms for each in self.asked if begin <= each.due < end]


@dataclass
class Backlog:
    """How far the projection is behind the log, once a second."""

    ends: LogEnds
    conn: asyncpg.Connection
    seen: list[tuple[float, int]] = field(default_factory=list)

    async def watch(self) -> None:
        while True:
            at = time.perf_counter()
            self.seen.append((at, await self.now()))
            await asyncio.sleep(max(0.0, at + 1 - time.perf_counter()))

    async def passed(self) -> float:
        """0 when the projection has seen everything, for ``reached``."""
        return -await self.now()

    async def now(self) -> int:
        # The position first: what comes in between makes the distance larger, never smaller.
        position: Any = await self.conn.fetchval(
            "SELECT coalesce(sum(next_offset), 0)::bigint FROM projection_position"
        )
        return sum((await self.ends.end_offsets()).values()) - position

    def at(self, second: float) -> int:
        return min(self.seen, key=lambda each: abs(each[0] - second))[1] if self.seen else 0


@asynccontextmanager
async def running(*watches: Any) -> AsyncIterator[None]:
    """Watch while the block runs."""
    tasks = [asyncio.create_task(watch) for watch in watches]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for failed in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(failed, Exception):
                raise failed


# --------------------------------------------------------------------------- the measurement


async def run(size: Size, say: Say) -> dict[str, Any]:
    """The measurement; keys as ``ota bench storm`` writes them."""
    before = os.getloadavg()
    async with bed(say, temporal=True) as servers:
        say(f"{size.devices} devices, {size.updating} of them with an offer")
        actions, campaign_id = await _prepare(servers, size)
        await servers.checkpoint()
        key = await _key(servers)
        roles = await servers.start("api", "gateway", "projector", "relay")
        at = urlsplit(roles.url("gateway"))
        assert at.hostname is not None
        assert at.port is not None
        account = servers.stack.state_dir / "account.json"
        order = Order(
            host=at.hostname,
            port=at.port,
            account=str(account),
            devices=size.devices,
            actions=actions,
            per_address=size.per_address,
            sockets=size.sockets,
            spread=size.spread,
            heedless=size.heedless,
            seed=size.seed,
        )
        conn = await asyncpg.connect(servers.database_url)
        ends = LogEnds(servers.settings.kafka_bootstrap, servers.settings.device_events_topic)
        try:
            async with httpx.AsyncClient(
                base_url=roles.url("api"), headers={"Authorization": f"Bearer {key}"}, timeout=30
            ) as http:
                paths = (f"/v1/campaigns/{campaign_id}", "/v1/campaigns", "/v1/devices?limit=50")
                operator, backlog = Operator(http, paths), Backlog(ends, conn)
                async with running(operator.watch(), backlog.watch()):
                    storm = await _storm(servers, roles, order, say)
            say("looking for everything that was acknowledged")
            await reached(backlog.passed, 0, 0.1)
            curve = _curve(storm, operator, backlog)
            say(_drawn(curve))
            return {
                **_report(size, storm, operator, curve),
                **await _recount(servers, conn, ends, storm.account),
                "cpu_s": {name: round(seconds, 1) for name, seconds in storm.cpu.items()},
                "generator_cpu_s": storm.account.cpu_s,
                "cpu_us_per_request": per_unit(storm.cpu, sum(each.attempted for each in storm.seconds)),
                **await circumstances(servers, before),
                "curve": curve,
            }
        finally:
            await ends.stop()
            await conn.close()


@dataclass(frozen=True, slots=True)
class Storm:
    """What the fleet told; times are perf_counter seconds."""

    account: Account
    seconds: list[Second]
    """From the moment on when all could come back."""
    acknowledged_before: int
    calm: tuple[float, float]
    began: float
    cpu: Mapping[str, float]


async def _prepare(servers: Bed, size: Size) -> tuple[list[int], str]:
    conn = await asyncpg.connect(servers.database_url)
    engine = make_engine(servers.database_url, pool_size=3)
    try:
        await fleet.register(conn, size.devices)
        launched = await fleet.launch(engine, size.updating)
        updating = range(1, size.updating + 1)
        actions = await fleet.offer(engine, launched, updating)
        await conn.execute("VACUUM ANALYZE", timeout=PATIENCE)
        return [actions[device] for device in updating], launched.campaign_id
    finally:
        await engine.dispose()
        await conn.close()


async def _key(servers: Bed) -> str:
    async with local_services(servers.settings) as services:
        made = await services.keys.create(
            "bench", [Scope.CAMPAIGN_READ, Scope.DEVICE_READ], actor="bench", command_id=f"bench/{uuid4()}"
        )
    assert made.key
    return made.key


async def _storm(servers: Bed, roles: Roles, order: Order, say: Say) -> Storm:
    begin = time.perf_counter()
    await asyncio.sleep(CALM)
    calm = (begin, time.perf_counter())
    async with asyncio.timeout(PATIENCE), child("reconnect") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(order) + b"\n")
        acknowledged, goal = 0, len(order.actions) * len(STATES) // 2
        while acknowledged < goal:
            acknowledged += msgspec.json.decode(await process.stdout.readline(), type=Second).reports
        say(f"{acknowledged} reports acknowledged; the gateway is killed")
        await asyncio.to_thread(roles.kill, "gateway")
        process.stdin.write(b"cut\n")
        await asyncio.to_thread(roles.wait_ready, "gateway")
        say(f"the gateway is back, and {order.devices} devices within {order.spread:g} s")
        cpu = Cpu(servers.pids(roles))
        process.stdin.write(b"back\n")
        began, seconds = time.perf_counter(), list[Second]()
        while line := await process.stdout.readline():
            second = msgspec.json.decode(line, type=Second)
            if second.at >= 0:
                seconds.append(second)
        used = cpu.used()
        assert await process.wait() == 0
    return Storm(_account(order), seconds, acknowledged, calm, began, used)


def _account(order: Order) -> Account:
    return msgspec.json.decode(Path(order.account).read_bytes(), type=Account)


def _report(size: Size, storm: Storm, operator: Operator, curve: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    account = storm.account
    ended = storm.began + account.drained_s
    during = operator.between(storm.began, ended)
    waits = account.report_waits_s
    return {
        "devices": size.devices,
        "reconnect_s": size.spread,
        "served": account.served,
        "drained_s": account.drained_s,
        "backlog": curve[-1]["backlog"],
        "api_p50_ms": round(percentile(during, 0.5), 1),
        "api_p95_ms": round(percentile(during, 0.95), 1),
        "api_p99_ms": round(percentile(during, 0.99), 1),
        "api_calm_p95_ms": round(percentile(operator.between(*storm.calm), 0.95), 1),
        "api_questions": len(during),
        "api_failed": sum(each.status != 200 and storm.began <= each.due < ended for each in operator.asked),
        "attempted": sum(each.attempted for each in storm.seconds),
        "accepted": sum(each.accepted for each in storm.seconds),
        "shed": sum(each.shed for each in storm.seconds),
        "errors": sum(each.errors for each in storm.seconds),
        "most_attempts": account.most_attempts,
        "retry_after_p50_s": percentile(account.waits, 0.5) if account.waits else None,
        "retry_after_max_s": max(account.waits, default=None),
        "updating": size.updating,
        "interrupted_reports": account.interrupted,
        "reports_after_cut": sum(each.reports for each in storm.seconds),
        "reports_shed": sum(each.reports_shed for each in storm.seconds),
        "report_wait_p50_s": percentile(waits, 0.5) if waits else None,
        "report_wait_p99_s": percentile(waits, 0.99) if waits else None,
        "statuses": account.statuses,
        "errors_by_kind": account.errors,
        "sockets_at_most": size.sockets,
        "heedless_percent": size.heedless,
    }


async def _recount(servers: Bed, conn: asyncpg.Connection, ends: LogEnds, account: Account) -> dict[str, Any]:
    """Acknowledged reports against the log and against the projection, by event id."""
    logged = [event_id async for event_id in _log(servers, await ends.end_offsets())]
    acknowledged, stored = set(account.acknowledged), set(logged)
    projected = {row["event_id"] for row in await conn.fetch("SELECT DISTINCT event_id FROM timeline")}
    states = await conn.fetch("SELECT state, count(*)::int AS n FROM assignment GROUP BY state")
    return {
        "acknowledged": len(acknowledged),
        "records": len(logged),
        "records_repeated": len(logged) - len(stored),
        "acknowledged_not_in_log": len(acknowledged - stored),
        "acknowledged_not_projected": len(acknowledged - projected),
        "dead_letters": await conn.fetchval("SELECT count(*)::int FROM dead_letter"),
        "assignments": {row["state"]: row["n"] for row in states},
    }


async def _log(servers: Bed, ends: Mapping[int, int]) -> AsyncIterator[str]:
    """Event id of every record."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=servers.settings.kafka_bootstrap, auto_offset_reset="earliest", enable_auto_commit=False
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(servers.settings.device_events_topic, number) for number in ends])
        left = sum(ends.values())
        async with asyncio.timeout(PATIENCE):
            while left:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    left -= len(records)
                    for record in records:
                        assert record.value is not None
                        yield decode_event(record.value).id
    finally:
        await consumer.stop()


# --------------------------------------------------------------------------- the curve


def _curve(storm: Storm, operator: Operator, backlog: Backlog) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for second in storm.seconds:
        begin = storm.began + second.at
        asked = operator.between(begin, begin + 1)
        rows.append(
            {
                **msgspec.structs.asdict(second),
                "api_p95_ms": round(percentile(asked, 0.95), 1) if asked else None,
                "log_minus_projected": backlog.at(begin + 1),
            }
        )
    return rows


def _drawn(curve: Sequence[Mapping[str, Any]]) -> Table:
    """The curve as a table with bars: devices not yet served."""
    table = Table(
        "second", "asked", "200", "429", "errors", "not yet served", "api p95 ms", "log − projected", box=None
    )
    most = max(row["backlog"] for row in curve) or 1
    step = -(-len(curve) // LINES)
    for at in range(0, len(curve), step):
        rows = curve[at : at + step]
        sums = [str(sum(row[name] for row in rows)) for name in ("attempted", "accepted", "shed", "errors")]
        bar = "█" * round(BAR * rows[-1]["backlog"] / most)
        slowest = max((row["api_p95_ms"] for row in rows if row["api_p95_ms"] is not None), default=0.0)
        behind = max(row["log_minus_projected"] for row in rows)
        table.add_row(str(rows[0]["at"]), *sums, f"{rows[-1]['backlog']:>7} {bar}", f"{slowest:.0f}", str(behind))
    return table
