"""From the failure that crosses the bound: to the halt's commit, and to the last offer.

Each run is a campaign of its own with started devices, and a dispatcher in another process that offers as fast as it can. Facts
of another campaign load the projector all the while. The time of the append is taken before the crossing fact is handed to the
producer, the commit when another connection sees the control row closed, the last offer when its transaction came back to the
dispatcher; all on one clock.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import msgspec
from aiokafka import AIOKafkaProducer
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.kafka.topics import DEVICE_EVENTS
from orchestrator.adapters.sql.engine import make_engine
from schemas import device_events as d
from tests.bench import fleet
from tests.bench.common import PATIENCE, Bed, Cpu, Say, bed, child, circumstances, percentile, reached
from tests.bench.fleet import Launched
from tests.bench.offering import Offered

LOOK: Final = 0.002
"""Seconds between two looks at the control row."""

BETWEEN_FAILURES: Final = 0.01
"""Seconds between two failures of a run."""

TICK: Final = 0.02
"""Seconds between two handfuls of the background."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much to measure: ``runs`` halts while ``rate`` facts a second of ``devices`` others are projected."""

    runs: int
    rate: int
    devices: int = 100_000
    started: int = 100
    queued: int = 6_000
    slice: int = 20


SIZES = {"small": Size(runs=20, rate=2_000), "large": Size(runs=50, rate=5_000, devices=200_000)}


class Background:
    """Facts of a campaign that is not to be halted, at a steady rate until it is told to stop."""

    def __init__(self, servers: Bed, facts: Iterator[tuple[int, bytes]], rate: int) -> None:
        self._settings = servers.settings
        self._facts = facts
        self._rate = rate
        self.sent = 0
        self.began = 0.0

    async def run(self) -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._settings.kafka_bootstrap, acks="all", enable_idempotence=True
        )
        await producer.start()
        self.began = time.perf_counter()
        try:
            while True:
                due = round((time.perf_counter() - self.began) * self._rate) - self.sent
                batches: dict[int, Any] = {}
                for _ in range(min(due, self._rate)):
                    device, value = next(self._facts)
                    partition = device % DEVICE_EVENTS.partitions
                    if partition not in batches:
                        batches[partition] = producer.create_batch()
                    batches[partition].append(key=fleet.device_id(device).encode(), value=value, timestamp=None)
                    self.sent += 1
                for partition, batch in batches.items():
                    await producer.send_batch(batch, self._settings.device_events_topic, partition=partition)
                await asyncio.sleep(TICK)
        finally:
            await producer.stop()

    @property
    def rate_seen(self) -> float:
        return self.sent / (time.perf_counter() - self.began)


@dataclass(frozen=True, slots=True)
class _Halt:
    commit_ms: float
    last_offer_ms: float
    after_commit: int
    granted: int
    starved: int
    crossing: int


class _Runs:
    """One halt after the other."""

    def __init__(self, size: Size, servers: Bed, engine: AsyncEngine, conn: asyncpg.Connection) -> None:
        self._size = size
        self._topic = servers.settings.device_events_topic
        self._engine = engine
        self._conn = conn
        self._producer = AIOKafkaProducer(
            bootstrap_servers=servers.settings.kafka_bootstrap, acks="all", enable_idempotence=True
        )
        self._number = 10**8

    async def start(self) -> None:
        await self._producer.start()

    async def stop(self) -> None:
        await self._producer.stop()

    async def _send(self, device: int, action: int, kind: str, **report: Any) -> tuple[int, int]:
        self._number += 1
        written = await self._producer.send_and_wait(
            self._topic,
            fleet.fact(device, action, kind, self._number, **report),
            key=fleet.device_id(device).encode(),
            partition=device % DEVICE_EVENTS.partitions,
        )
        return written.partition, written.offset

    async def once(self, first: int, dispatcher: asyncio.subprocess.Process) -> _Halt:
        size = self._size
        started = range(first, first + size.started)
        launched = await fleet.launch(self._engine, size.started + size.queued)
        actions = await fleet.offer(self._engine, launched, started)
        await fleet.queue(self._engine, launched, range(started.stop, started.stop + size.queued))
        await asyncio.gather(*(self._send(device, actions[device], d.ACCEPTED) for device in started))
        await self._all_started(launched)
        assert dispatcher.stdin is not None
        assert dispatcher.stdout is not None
        dispatcher.stdin.write(f"{launched.campaign_id} {size.slice}\n".encode())
        await asyncio.sleep(0.3)
        appended: dict[tuple[int, int], float] = {}
        failing = asyncio.create_task(self._fail(started, actions, appended))
        try:
            committed_at = await self._halted(launched)
            offered = msgspec.json.decode(await dispatcher.stdout.readline(), type=Offered)
        finally:
            failing.cancel()
            await asyncio.gather(failing, return_exceptions=True)
        return await self._judge(launched, appended, committed_at, offered)

    async def _fail(self, devices: range, actions: dict[int, int], appended: dict[tuple[int, int], float]) -> None:
        sending: list[asyncio.Task[None]] = []

        async def fail(device: int) -> None:
            now = time.perf_counter()
            written = await self._send(device, actions[device], d.REVERTED, failure_class="boot")
            appended[written] = now

        for device in devices:
            sending.append(asyncio.create_task(fail(device)))
            await asyncio.sleep(BETWEEN_FAILURES)
        await asyncio.gather(*sending)

    async def _all_started(self, launched: Launched) -> None:
        async def started() -> float:
            found: Any = await self._conn.fetchval(
                "SELECT coalesce(sum(started), 0)::bigint FROM gate_count WHERE campaign_no = $1", launched.campaign_no
            )
            return found

        await reached(started, self._size.started)

    async def _halted(self, launched: Launched) -> float:
        async def halted() -> float:
            found: Any = await self._conn.fetchval(
                "SELECT count(*) FROM control WHERE campaign_no = $1 AND stratum = -1 AND state = 'halted'",
                launched.campaign_no,
            )
            return found

        seen_at, _ = await reached(halted, 1, LOOK)
        return seen_at

    async def _judge(
        self, launched: Launched, appended: dict[tuple[int, int], float], committed_at: float, offered: Offered
    ) -> _Halt:
        halt: Any = await self._conn.fetchval(
            "SELECT data FROM event_log WHERE stream = $1 AND type = 'CampaignHalted'",
            f"campaign/{launched.campaign_id}",
        )
        halt = msgspec.json.decode(halt)
        crossing = appended[halt["fact"]["partition"], halt["fact"]["offset"]]
        after: Any = await self._conn.fetchval(
            "SELECT coalesce(sum(cardinality(device_nos)), 0)::int FROM decision_ledger"
            " WHERE campaign_no = $1 AND kind IN ('offer', 'start') AND position > $2",
            *(launched.campaign_no, halt["ledger_position"]),
        )
        return _Halt(
            commit_ms=(committed_at - crossing) * 1e3,
            last_offer_ms=max(0.0, offered.last_at - crossing) * 1e3,
            after_commit=after,
            granted=offered.granted,
            starved=offered.starved,
            crossing=halt["f"],
        )


async def run(size: Size, say: Say) -> dict[str, Any]:
    """The measurement; keys as ``ota bench halt`` writes them."""
    before = os.getloadavg()
    async with bed(say) as servers:
        say(f"{size.devices} devices in the background, {size.runs} campaigns of {size.started + size.queued}")
        conn = await asyncpg.connect(servers.database_url)
        engine = make_engine(servers.database_url, pool_size=3)
        try:
            each = size.started + size.queued
            await fleet.register(conn, size.devices + size.runs * each)
            other = await fleet.launch(engine, size.devices)
            actions = await fleet.offer(engine, other, range(1, size.devices + 1))
            await conn.execute("VACUUM ANALYZE", timeout=PATIENCE)
            await servers.checkpoint()
            roles = await servers.start("projector")
            background = Background(servers, fleet.reports(actions, 10**9), size.rate)
            runs = _Runs(size, servers, engine, conn)
            await runs.start()
            cpu = Cpu(servers.pids(roles))
            loading = asyncio.create_task(background.run())
            halts: list[_Halt] = []
            try:
                async with child("offering", env=servers.env()) as dispatcher:
                    assert dispatcher.stdout is not None
                    assert await dispatcher.stdout.readline() == b"ready\n"
                    for number in range(size.runs):
                        halts.append(await runs.once(size.devices + 1 + number * each, dispatcher))
                        say(f"{number + 1} of {size.runs}: {halts[-1]}")
                rate_seen = background.rate_seen
            finally:
                loading.cancel()
                await asyncio.gather(loading, return_exceptions=True)
                await runs.stop()
            used, other_work = cpu.used(), cpu.other_work()
            commits, lasts = [halt.commit_ms for halt in halts], [halt.last_offer_ms for halt in halts]
            return {
                "runs": len(halts),
                "commit_p50_ms": round(percentile(commits, 0.5), 1),
                "commit_p99_ms": round(percentile(commits, 0.99), 1),
                "last_offer_p50_ms": round(percentile(lasts, 0.5), 1),
                "last_offer_p99_ms": round(percentile(lasts, 0.99), 1),
                "offers_after_commit": sum(halt.after_commit for halt in halts),
                "offers": sum(halt.granted for halt in halts),
                "runs_without_offers_left": sum(halt.starved > 0 for halt in halts),
                "rate_asked": size.rate,
                "rate_seen": round(rate_seen),
                "background_devices": size.devices,
                "cpu_seconds": {name: round(seconds, 1) for name, seconds in used.items()},
                "other_work": other_work,
                **await circumstances(servers, before),
            }
        finally:
            await engine.dispose()
            await conn.close()
