"""DDI on a real gateway: idle polls, single reports, and whole cycles (poll, deploymentBase, four reports).

The log is real, acks are all, and the projector follows: its CPU, the broker's and the database's until everything reported is
projected count as part of a report. The load runs in a process of its own on the same cores; its CPU is shown apart.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
import msgspec

from orchestrator.adapters.kafka.partitions import LogEnds
from orchestrator.adapters.sql.engine import make_engine
from orchestrator.devstack.ports import free_ports
from tests.bench import fleet
from tests.bench.common import Bed, Cpu, Say, answering, bed, child, circumstances, per_unit, profiled, ratio, reached
from tests.bench.load import Load, Measured

PATIENCE_BESIDES: Final = 120.0
"""Seconds that a load may take besides its two parts: first polls of every device, the last answers, the projection."""

HAWKBIT: Final = {"poll": 550.0, "feedback": 440.0, "cycle": 57.0}
"""Per second: hawkBit 1.1 on PostgreSQL, warm, on 2 busy cores, as measured on a machine of this kind; not part of this run."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much to measure. ``devices`` poll; ``working`` others have an offer, a quarter of them reports, the rest does cycles."""

    devices: int
    working: int = 12_000
    seconds: int = 10
    warm: int = 3
    poll_connections: int = 32
    feedback_connections: int = 128
    cycle_connections: int = 256
    profile: int = 1
    """1: afterwards, also look where the gateway's time goes."""


SIZES = {"small": Size(devices=10_000), "large": Size(devices=100_000)}


@dataclass(frozen=True, slots=True)
class _Part:
    measured: Measured
    cpu: Mapping[str, float]
    """Seconds, until everything reported was projected."""
    load_cpu: float

    def report(self) -> dict[str, Any]:
        return {
            "per_second": self.measured.per_second,
            "ms": self.measured.times,
            "statuses": self.measured.statuses,
            "units": self.measured.units,
            "incomplete": self.measured.incomplete,
            "cpu_us": per_unit(self.cpu, self.measured.units),
            "generator_cpu_us": round(self.load_cpu * 1e6 / self.measured.units, 1),
        }


async def _drive(servers: Bed, pids: Mapping[str, int], load: Load, ends: LogEnds) -> _Part:
    async with asyncio.timeout(load.warm + load.seconds + PATIENCE_BESIDES), child("load") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(load))
        process.stdin.close()
        assert (await process.stdout.readline()) == b"begin\n"
        cpu, own = Cpu(pids), Cpu({"load": process.pid})
        for word in (b"warm\n", b"over\n"):
            assert (await process.stdout.readline()) == word
        load_cpu = own.used()["load"]
        answer = await process.stdout.readline()
        await _projected(servers, ends)
        return _Part(msgspec.json.decode(answer, type=Measured), cpu.used(), load_cpu)


async def _projected(servers: Bed, ends: LogEnds) -> None:
    conn = await asyncpg.connect(servers.database_url)
    try:
        goal = sum((await ends.end_offsets()).values())

        async def progress() -> float:
            found: Any = await conn.fetchval("SELECT coalesce(sum(next_offset), 0)::bigint FROM projection_position")
            return found

        await reached(progress, goal, 0.1)
    finally:
        await conn.close()


async def run(size: Size, say: Say) -> dict[str, Any]:
    """The measurement; keys as ``ota bench gateway`` writes them."""
    before = os.getloadavg()
    async with bed(say) as servers:
        say(f"{size.devices} idle devices and {size.working} with an offer")
        first = size.devices + 1
        reporting = size.working // 4
        actions = await _prepare(servers, size, range(first, first + size.working))
        await servers.checkpoint()
        roles = await servers.start("gateway", "projector", OTA_POLL_INTERVAL="300")
        at = urlsplit(roles.url("gateway"))
        assert at.hostname is not None
        assert at.port is not None
        common: dict[str, Any] = {"host": at.hostname, "port": at.port, "warm": size.warm, "seconds": size.seconds}
        loads = {
            "poll": Load(
                kind="poll", first=1, count=size.devices, connections=size.poll_connections, known=True, **common
            ),
            "feedback": Load(
                kind="feedback",
                first=first,
                count=reporting,
                connections=size.feedback_connections,
                actions=actions[:reporting],
                **common,
            ),
            "cycle": Load(
                kind="cycle",
                first=first + reporting,
                count=size.working - reporting,
                connections=size.cycle_connections,
                **common,
            ),
        }
        parts: dict[str, _Part] = {}
        ends = LogEnds(servers.settings.kafka_bootstrap, servers.settings.device_events_topic)
        try:
            for kind, load in loads.items():
                say(f"measuring {kind}")
                parts[kind] = await _drive(servers, servers.pids(roles), load, ends)
                say(f"{kind}: {parts[kind].report()}")
            where = await _profile(servers, loads, ends) if size.profile else None
        finally:
            await ends.stop()
        poll, feedback, cycle = (parts[kind].report() for kind in ("poll", "feedback", "cycle"))
        return {
            "devices": size.devices,
            "poll_rps": poll["per_second"],
            "poll_p99_ms": poll["ms"]["poll"]["p99"],
            "feedback_rps": feedback["per_second"],
            "feedback_p99_ms": feedback["ms"]["feedback"]["p99"],
            "cycle_rps": cycle["per_second"],
            "cycle_p99_ms": cycle["ms"].get("cycle", {}).get("p99"),
            "cpu_us_per_poll": poll["cpu_us"]["gateway"],
            "cpu_us_per_feedback": feedback["cpu_us"]["all"],
            "gateway_cpu_us_per_feedback": feedback["cpu_us"]["gateway"],
            "ratio_vs_hawkbit": {kind: ratio(part.measured.per_second, HAWKBIT[kind]) for kind, part in parts.items()},
            "polls": poll,
            "feedbacks": feedback,
            "cycles": cycle,
            "where": where,
            **await circumstances(servers, before),
        }


async def _profile(servers: Bed, loads: Mapping[str, Load], ends: LogEnds) -> dict[str, Any]:
    """Shares of the gateway's event loop, by load; devices of the cycles have nothing left to do."""
    found: dict[str, Any] = {}
    for kind in ("poll", "feedback"):
        (port,) = free_ports(1)
        out = servers.stack.state_dir / f"profile-{kind}.json"
        async with profiled("gateway", out, servers.env(OTA_GATEWAY_PORT=str(port))) as process:
            await answering(port)
            load = msgspec.structs.replace(loads[kind], port=port, known=False)
            await _drive(servers, {"gateway": process.pid}, load, ends)
        found[kind] = msgspec.json.decode(out.read_bytes())
    return found


async def _prepare(servers: Bed, size: Size, working: range) -> list[int]:
    conn = await asyncpg.connect(servers.database_url)
    engine = make_engine(servers.database_url, pool_size=3)
    try:
        await fleet.register(conn, size.devices + size.working)
        launched = await fleet.launch(engine, size.working)
        actions = await fleet.offer(engine, launched, working)
        await conn.execute("VACUUM ANALYZE", timeout=600)
        return [actions[device] for device in working]
    finally:
        await engine.dispose()
        await conn.close()
