"""Kafka → committed rows: our projector against two vanilla Faust agents that write the same assignment rows.

Each runs alone, on its own copy of the same database, over the same log of 64 partitions that was filled before; it is warm after
``warm`` events, and its rate is taken from there to its last event. Ours also writes what the others do not: counters, gate counts,
maturity, the timeline, and its position, all in one transaction.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg
import msgspec

from orchestrator.adapters.kafka.topics import DEVICE_EVENTS
from orchestrator.adapters.sql.engine import make_engine
from tests.bench import fleet
from tests.bench.common import Bed, Cpu, Say, bed, child, circumstances, peak_rss_mb, per_unit, profiled, ratio, reached

PROFILED = "fleet_profiled"


@dataclass(frozen=True, slots=True)
class Size:
    """How much to measure. Ours reads ``events``, the agents as many of the same as are said here."""

    devices: int
    events: int
    take_events: int = 60_000
    each_events: int = 52_000
    warm: int = 10_000
    each_warm: int = 2_000


SIZES = {
    "small": Size(devices=100_000, events=260_000),
    "large": Size(devices=1_000_000, events=1_010_000),
}


@dataclass(frozen=True, slots=True)
class Steady:
    """A run from warm to its end."""

    events: float
    seconds: float
    cpu: Mapping[str, float]
    other_work: float
    peak_rss_mb: float
    """Of the process under measurement, servers apart."""

    def report(self) -> dict[str, Any]:
        return {
            "events": round(self.events),
            "seconds": round(self.seconds, 2),
            "events_per_second": round(self.events / self.seconds),
            "cpu_us_per_event": per_unit(self.cpu, self.events),
            "other_work": self.other_work,
            "peak_rss_mb": self.peak_rss_mb,
        }


async def _steady(
    progress: Callable[[], Awaitable[float]], pids: Mapping[str, int], subject: str, warm: int, total: int
) -> Steady:
    began, first = await reached(progress, warm)
    cpu = Cpu(pids)
    ended, last = await reached(progress, total)
    return Steady(
        events=last - first,
        seconds=ended - began,
        cpu=cpu.used(),
        other_work=cpu.other_work(),
        peak_rss_mb=peak_rss_mb(pids[subject]),
    )


async def _ours(bed: Bed, url: str, size: Size) -> Steady:
    conn = await asyncpg.connect(url)
    try:
        roles = await bed.start("projector", OTA_DATABASE_URL=url)
        steady = await _steady(lambda: _projected(conn), bed.pids(roles), "projector", size.warm, size.events)
        await bed.stop(roles)
        return steady
    finally:
        await conn.close()


async def _projected(conn: asyncpg.Connection) -> float:
    found: Any = await conn.fetchval("SELECT coalesce(sum(next_offset), 0)::bigint FROM projection_position")
    return found


async def _vanilla(bed: Bed, url: str, mode: str, warm: int, total: int) -> Steady:
    folder = bed.stack.state_dir / f"vanilla-{mode}"
    folder.mkdir()
    count = folder / "count"

    async def progress() -> float:
        return int.from_bytes(count.read_bytes(), "little") if count.exists() else 0

    topic = bed.settings.device_events_topic
    async with child("vanilla", mode, bed.settings.kafka_bootstrap, topic, url, folder) as process:
        return await _steady(progress, {**bed.pids(), "agent": process.pid}, "agent", warm, total)


async def _profile(bed: Bed, url: str, events: int) -> dict[str, Any]:
    out = bed.stack.state_dir / "profile.json"
    conn = await asyncpg.connect(url)
    try:
        async with profiled("projector", out, bed.env(OTA_DATABASE_URL=url)):
            await reached(lambda: _projected(conn), events)
        found = msgspec.json.decode(out.read_bytes())
        return {**found, "cpu_us_per_event_by_step": per_unit(found["cpu_seconds_by_step"], events)}
    finally:
        await conn.close()


async def run(size: Size, say: Say, *, profile: bool = True) -> dict[str, Any]:
    """The measurement; keys as ``ota bench ingest`` writes them."""
    load = os.getloadavg()
    async with bed(say) as servers:
        url = await servers.database("fleet_template")
        say(f"{size.devices} devices and their offers")
        await _prepare(url, size, servers, say)
        runs: dict[str, Steady] = {}
        for name in ("ours", "take", "event"):
            say(f"measuring {name}")
            copy = await servers.database(f"fleet_{name}", "fleet_template")
            await servers.checkpoint()
            if name == "ours":
                runs[name] = await _ours(servers, copy, size)
            elif name == "take":
                runs[name] = await _vanilla(servers, copy, "take", size.warm, size.warm + size.take_events)
            else:
                runs[name] = await _vanilla(servers, copy, "event", size.each_warm, size.each_warm + size.each_events)
            say(f"{name}: {runs[name].report()}")
            await servers.drop(f"fleet_{name}")
        where = None
        if profile:
            say("looking where the time goes")
            copy = await servers.database(PROFILED, "fleet_template")
            await servers.checkpoint()
            where = await _profile(servers, copy, size.events)
        ours, take, each = (runs[name].report() for name in ("ours", "take", "event"))
        return {
            "events_per_second": ours["events_per_second"],
            "us_per_event": round(1e6 * runs["ours"].seconds / runs["ours"].events, 1),
            "ratio_vs_faust_take": ratio(ours["events_per_second"], take["events_per_second"]),
            "ratio_vs_faust_event": ratio(ours["events_per_second"], each["events_per_second"]),
            "devices": size.devices,
            "events": size.events,
            "projector": ours,
            "faust_take": take,
            "faust_event": each,
            "where": where,
            **await circumstances(servers, load),
        }


async def _prepare(url: str, size: Size, servers: Bed, say: Say) -> None:
    conn = await asyncpg.connect(url)
    engine = make_engine(url, pool_size=3)
    try:
        await fleet.register(conn, size.devices)
        launched = await fleet.launch(engine, size.devices)
        assert launched.campaign_no == 1, "the vanilla agents know one campaign"
        actions = await fleet.offer(engine, launched, range(1, size.devices + 1))
        await conn.execute("VACUUM ANALYZE", timeout=600)
    finally:
        await engine.dispose()
        await conn.close()
    say(f"filling the log with {size.events} facts")
    settings = servers.settings
    events = max(size.events, size.warm + size.take_events, size.each_warm + size.each_events)
    await fleet.fill(
        *(settings.kafka_bootstrap, settings.device_events_topic, DEVICE_EVENTS.partitions),
        fleet.reports(actions, events),
    )
