"""Produce → visible: from handing a fact to the producer until another connection sees the position that its row was committed with.

Facts arrive at a steady rate over all partitions. The positions are looked at every few milliseconds, from the process that also
produces, so every number includes the wait for the next look and for that process's turn on the processor.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
from aiokafka import AIOKafkaProducer

from orchestrator.adapters.kafka.topics import DEVICE_EVENTS
from orchestrator.adapters.sql.engine import make_engine
from tests.bench import fleet
from tests.bench.common import PATIENCE, Bed, Cpu, Say, bed, circumstances, per_unit, percentile

TICK: Final = 0.01
"""Seconds between two handfuls of facts."""

LOOK: Final = 0.005
"""Seconds between two looks at the positions: the largest error of a time."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much to measure: ``rate`` facts a second over ``devices``, for ``seconds`` after ``warm`` seconds."""

    rate: int
    devices: int = 100_000
    seconds: int = 20
    warm: int = 5


SIZES = {"small": Size(rate=2_000), "large": Size(rate=2_000, devices=1_000_000, seconds=60)}


class Watch:
    """What is on its way, by partition in the order of the log, and how long the rest took."""

    def __init__(self) -> None:
        self._under_way: dict[int, deque[tuple[int, float]]] = defaultdict(deque)
        self.milliseconds: list[float] = []
        self.acknowledged: list[float] = []
        self.measuring = False
        self.pending = 0

    def written(self, partition: int, offset: int, handed_in: float) -> None:
        """A fact was acknowledged. Times count for facts handed in while ``measuring``, which are given a negative time otherwise."""
        self._under_way[partition].append((offset, handed_in))
        self.acknowledged.append((time.perf_counter() - abs(handed_in)) * 1e3)

    def seen(self, positions: dict[int, int], now: float) -> None:
        """The positions are visible."""
        for partition, next_offset in positions.items():
            waiting = self._under_way[partition]
            while waiting and waiting[0][0] < next_offset:
                handed_in = waiting.popleft()[1]
                self.pending -= 1
                if handed_in > 0:
                    self.milliseconds.append((now - handed_in) * 1e3)


async def _produce(servers: Bed, facts: Iterator[tuple[int, bytes]], size: Size, watch: Watch) -> None:
    topic, partitions = servers.settings.device_events_topic, DEVICE_EVENTS.partitions
    producer = AIOKafkaProducer(
        bootstrap_servers=servers.settings.kafka_bootstrap, acks="all", enable_idempotence=True, linger_ms=5
    )
    await producer.start()
    try:
        began = time.perf_counter()
        each = round(size.rate * TICK)
        ticks = round((size.warm + size.seconds) / TICK)
        for tick in range(ticks):
            measured = tick * TICK >= size.warm
            for _ in range(each):
                device, value = next(facts)
                now = time.perf_counter()
                delivery = await producer.send(
                    topic, value, key=fleet.device_id(device).encode(), partition=device % partitions
                )
                watch.pending += 1
                delivery.add_done_callback(
                    lambda done, at=now if measured else -now: watch.written(
                        done.result().partition, done.result().offset, at
                    )
                )
            await asyncio.sleep(max(0.0, began + (tick + 1) * TICK - time.perf_counter()))
    finally:
        await producer.stop()


async def _look(conn: asyncpg.Connection, watch: Watch, producing: asyncio.Task[None]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not producing.done() or watch.pending:
            rows = await conn.fetch("SELECT partition, next_offset FROM projection_position")
            watch.seen({row["partition"]: row["next_offset"] for row in rows}, time.perf_counter())
            await asyncio.sleep(LOOK)


async def run(size: Size, say: Say) -> dict[str, Any]:
    """The measurement; keys as ``ota bench latency`` writes them."""
    before = os.getloadavg()
    async with bed(say) as servers:
        say(f"{size.devices} devices and their offers")
        conn = await asyncpg.connect(servers.database_url)
        engine = make_engine(servers.database_url, pool_size=3)
        try:
            await fleet.register(conn, size.devices)
            launched = await fleet.launch(engine, size.devices)
            actions = await fleet.offer(engine, launched, range(1, size.devices + 1))
            await conn.execute("VACUUM ANALYZE", timeout=PATIENCE)
            await servers.checkpoint()
            roles = await servers.start("projector")
            say(f"{size.rate} facts a second for {size.warm + size.seconds} s")
            watch, cpu = Watch(), Cpu(servers.pids(roles))
            began, own = time.perf_counter(), time.process_time()
            facts = fleet.reports(actions, 10**9)
            producing = asyncio.create_task(_produce(servers, facts, size, watch))
            await _look(conn, watch, producing)
            await producing
            used, seconds = cpu.used(), time.perf_counter() - began
            return {
                "p50_ms": round(percentile(watch.milliseconds, 0.5), 1),
                "p99_ms": round(percentile(watch.milliseconds, 0.99), 1),
                "p95_ms": round(percentile(watch.milliseconds, 0.95), 1),
                "max_ms": round(max(watch.milliseconds), 1),
                "acknowledged_p50_ms": round(percentile(watch.acknowledged, 0.5), 1),
                "acknowledged_p99_ms": round(percentile(watch.acknowledged, 0.99), 1),
                "facts": len(watch.milliseconds),
                "devices": size.devices,
                "rate_asked": size.rate,
                "rate_seen": round(len(watch.acknowledged) / seconds),
                "cpu_us_per_event": per_unit(used, len(watch.acknowledged)),
                "other_work": cpu.other_work(),
                "generator_cpu_us": round((time.process_time() - own) * 1e6 / len(watch.acknowledged), 1),
                **await circumstances(servers, before),
            }
        finally:
            await engine.dispose()
            await conn.close()
