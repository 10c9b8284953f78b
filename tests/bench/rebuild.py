"""The two logs → tables: a rebuild of a fleet whose devices have lived whole lives, in phases, and a verification of it.

The logs are what the product would have written: registrations, one campaign, its enrolment, offers in slices, starts in groups as
gateways commit them, and per device five facts. Devices are in flight ``wave`` at a time. The live tables are empty at first, so the
first rebuild takes their place with its differences accepted; the second one finds equal rows, and its switch is timed.

Events are what the rows are folded from: records of the event log, decisions per device, facts.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import msgspec
import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.kafka.topic_ids import topic_ids
from orchestrator.adapters.kafka.topics import DEVICE_EVENTS
from orchestrator.adapters.sql import ledger
from orchestrator.adapters.sql.decisions import SqlDecisions
from orchestrator.adapters.sql.engine import make_engine, transaction
from orchestrator.adapters.sql.facts import PROJECTION
from orchestrator.adapters.sql.registry import SqlRegistry
from orchestrator.app.ports import Meta
from orchestrator.config import Settings
from schemas import device_events as d
from schemas import registry_events as r
from schemas.ledger import Entry, Kind
from tests.bench import fleet
from tests.bench.common import Bed, Cpu, Say, bed, child, circumstances, peak_rss_mb, per_unit

REGISTERED: Final = 500
"""Devices of one registration event, as ``max_devices_per_event``."""

SLICE: Final = 500
START_GROUP: Final = 32
FAILING: Final = 97
"""Every so manyth device reverts."""

PHASES: Final = ("events", "decisions", "facts", "tables finished", "tables compared")


@dataclass(frozen=True, slots=True)
class Size:
    """How much to measure."""

    devices: int
    wave: int = 10_000


SIZES = {"small": Size(devices=100_000), "large": Size(devices=1_000_000)}


async def _register(engine: AsyncEngine, devices: int) -> None:
    registry = SqlRegistry(engine)
    digest = "ab" * 32

    async def record(number: int, event: msgspec.Struct) -> None:
        await registry.record(f"bench/{number}", [event], command_id=f"bench/{number}", meta=Meta(actor="bench"))

    await record(-3, r.HardwareModelCreated(name=fleet.MODEL, profile={}, actor="bench"))
    stored = {"sha256": digest, "sha1": "cd" * 20, "md5": "ef" * 16, "size": 48_000, "filename": "fw.bin"}
    await record(-2, r.ArtifactStored(**stored, hardware_model=fleet.MODEL, image={}, actor="bench"))
    release = {"release_id": "rel_bench", "name": "fw", "version": "2.0.0", "digest": "sha256:r"}
    await record(-1, r.ReleaseRegistered(**release, artifacts={fleet.MODEL: digest}, actor="bench"))
    for first in range(1, devices + 1, REGISTERED):
        registered = [
            r.RegisteredDevice(device_no=no, device_id=fleet.device_id(no), hardware_model=fleet.MODEL)
            for no in range(first, min(first + REGISTERED, devices + 1))
        ]
        await record(first, r.DevicesRegistered(devices=registered, actor="bench"))


async def _offer(engine: AsyncEngine, launched: fleet.Launched, wave: Sequence[int], at: int) -> dict[int, int]:
    """Ledger rows of a wave's offers and starts; device number to action id."""
    actions: dict[int, int] = {}
    common = {"campaign_no": launched.campaign_no, "gate_epoch": launched.gate_epoch, "attempt": 1, "at": at}
    entries: list[Entry] = []
    for first in range(0, len(wave), SLICE):
        part = list(wave[first : first + SLICE])
        base = await ledger.reserve_actions(engine, len(part))
        actions |= {device: base + index for index, device in enumerate(part)}
        entries.append(Entry(**common, kind=Kind.OFFER, phase=0, device_nos=part, action_base=base))
    entries += [
        Entry(**common, kind=Kind.START, device_nos=sorted(wave[first : first + START_GROUP]))
        for first in range(0, len(wave), START_GROUP)
    ]
    async with transaction(engine) as conn:
        await ledger.append(conn, entries)
    return actions


def _lives(actions: dict[int, int], wave: int) -> Iterator[tuple[int, bytes]]:
    """Five facts of every device; the devices of a wave say each of them before any says the next."""
    devices = list(actions)
    number = 0
    for first in range(0, len(devices), wave):
        part = devices[first : first + wave]
        for state in fleet.STATES:
            for device in part:
                number += 1
                failing = state == d.CONFIRMED and device % FAILING == 0
                kind, why = (d.REVERTED, {"failure_class": "boot"}) if failing else (state, {})
                yield device, fleet.fact(device, actions[device], kind, number, **why)
        for device in part:
            number += 1
            said = d.Attributes(attributes={"hw_revision": "A"}, version="2.0.0")
            yield (
                device,
                d.encode(
                    d.DeviceEvent(
                        id=f"{number:032x}",
                        source="/gateway/ddi",
                        type=d.ATTRIBUTES,
                        subject=fleet.device_id(device),
                        device_no=device,
                        recorded_at=time.time_ns() // 1_000_000,
                        data=msgspec.Raw(msgspec.json.encode(said)),
                    )
                ),
            )


async def _positions(conn: asyncpg.Connection, settings: Settings) -> int:
    """Say that everything in the log was projected; how many facts."""
    topic = settings.device_events_topic
    consumer: Any = AIOKafkaConsumer(bootstrap_servers=settings.kafka_bootstrap)
    await consumer.start()
    try:
        cluster, found = await topic_ids(consumer._client, [topic])
        ends = await consumer.end_offsets([TopicPartition(topic, p) for p in range(found[topic].partitions)])
    finally:
        await consumer.stop()
    await conn.executemany(
        "INSERT INTO projection_position (projection, topic, partition, topic_id, cluster_id, next_offset, epoch)"
        " VALUES ($1, $2, $3, $4, $5, $6, 0)",
        [(PROJECTION, topic, tp.partition, found[topic].topic_id, cluster, end) for tp, end in ends.items()],
    )
    return sum(ends.values())


async def _fill(servers: Bed, size: Size, say: Say) -> dict[str, int]:
    """Write both logs; how many events of each kind are in them."""
    settings = servers.settings
    engine, ids = make_engine(settings.database_url, pool_size=4), make_engine(settings.database_url, pool_size=1)
    conn = await asyncpg.connect(settings.database_url)
    try:
        say(f"registering {size.devices} devices")
        await _register(engine, size.devices)
        launched = await fleet.launch(engine, size.devices)
        say("enrolling, offering, starting")
        await SqlDecisions(engine, ids).enrol(launched.campaign_id, time.time_ns() // 1_000_000)
        queue = [row[0] for row in await conn.fetch("SELECT device_no FROM offer_queue ORDER BY phase, rank")]
        actions: dict[int, int] = {}
        for first in range(0, len(queue), size.wave):
            now = time.time_ns() // 1_000_000
            actions |= await _offer(engine, launched, queue[first : first + size.wave], now)
        say(f"filling the log with {5 * len(actions)} facts")
        await fleet.fill(
            *(settings.kafka_bootstrap, settings.device_events_topic, DEVICE_EVENTS.partitions),
            _lives(actions, size.wave),
        )
        return {
            "events": await conn.fetchval("SELECT count(*) FROM event_log"),
            "decisions": await conn.fetchval("SELECT sum(cardinality(device_nos))::bigint FROM decision_ledger"),
            "facts": await _positions(conn, settings),
        }
    finally:
        await conn.close()
        await ids.dispose()
        await engine.dispose()


async def _measured(servers: Bed, what: str, say: Say) -> dict[str, Any]:
    """Run ``what`` in a process of its own; what it says of itself, and CPU seconds by process."""
    await servers.checkpoint()
    say(f"measuring {what}")
    async with child("rebuild", what, env=servers.env()) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        await process.stdout.readline()
        cpu = Cpu({**servers.pids(), "rebuild": process.pid})
        process.stdin.write(b"\n")
        said = msgspec.json.decode(await process.stdout.readline())
        used = cpu.used()
        rss = peak_rss_mb(process.pid)
        process.stdin.close()
    say(f"{what}: {said}")
    return {**said, "cpu": used, "peak_rss_mb": rss}


async def run(size: Size, say: Say) -> dict[str, Any]:
    """The measurement; keys as ``ota bench rebuild`` writes them."""
    load = os.getloadavg()
    async with bed(say) as servers:
        events = await _fill(servers, size, say)
        total = sum(events.values())
        first = await _measured(servers, "rebuild-accepting", say)
        again = await _measured(servers, "rebuild", say)
        verified = await _measured(servers, "verify", say)
        phases = again["phases"]
        made = sum(phases[name] for name in PHASES[:4] if name in phases)
        return {
            "devices": size.devices,
            "events": total,
            "events_per_second": round(total / made),
            "facts_per_second": round(events["facts"] / phases["facts"]),
            "decisions_per_second": round(events["decisions"] / phases["decisions"]),
            "seconds": again["seconds"],
            "phases_s": {name: round(seconds, 2) for name, seconds in phases.items()},
            "first_phases_s": {name: round(seconds, 2) for name, seconds in first["phases"].items()},
            "writers_waited_ms": again["waited_ms"],
            "verify_s": verified["seconds"],
            "equal": verified["differences"] == 0,
            "peak_rss_mb": again["peak_rss_mb"],
            "cpu_us_per_event": per_unit(again["cpu"], total),
            "events_by_kind": events,
            **await circumstances(servers, load),
        }


# --------------------------------------------------------------------------- the measured process


async def _work(what: str) -> dict[str, Any]:
    from orchestrator.adapters.sql import rebuild

    begun = time.perf_counter()
    phases: dict[str, float] = {}
    last = begun

    def progress(name: str, _n: int, _of: int) -> None:
        nonlocal last
        now = time.perf_counter()
        phases[name] = phases.get(name, 0.0) + now - last
        last = now

    settings = Settings()  # pyright: ignore[reportCallIssue] - every field has a default
    said: dict[str, Any] = {}
    if what == "verify":
        said["differences"] = len(await rebuild.verify(settings, progress))
    else:
        accept = rebuild.Acceptance("bench", "bench") if what == "rebuild-accepting" else None
        done = await rebuild.rebuild(settings, progress, accept=accept)
        said |= {"rows": sum(done.rows.values()), "waited_ms": done.waited_ms, "attempts": done.attempts}
    return {**said, "seconds": round(time.perf_counter() - begun, 2), "phases": phases}


def main(what: str) -> None:
    """Do ``what`` when a line comes in, say in a line how it went, and end with standard input."""
    from orchestrator.collector import spare_collector

    out, line = sys.stdout.buffer, sys.stdin.readline
    out.write(b"ready\n")
    out.flush()
    line()
    spare_collector()
    out.write(msgspec.json.encode(uvloop.run(_work(what))) + b"\n")
    out.flush()
    line()


if __name__ == "__main__":
    main(sys.argv[1])
