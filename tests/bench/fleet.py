"""Fleets and campaigns of any size, put straight into the tables: a million rows in seconds, where the API takes many minutes.

What is measured afterwards finds what the product's own transactions would have written: devices with tokens, a campaign launched
through its stream, offers in the ledger with action ids, rows, slots and counters that equal a recount.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final
from uuid import uuid4

import asyncpg
import msgspec
from aiokafka import AIOKafkaProducer
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.sql import ledger
from orchestrator.adapters.sql.campaigns import SqlCampaignStore
from orchestrator.adapters.sql.dispatch import SHARD
from orchestrator.adapters.sql.engine import transaction
from orchestrator.app.ports import Build, Meta
from orchestrator.domain import campaign as c
from orchestrator.domain.cohort import stratum_key
from orchestrator.domain.dossier import dossier_digest, freeze
from orchestrator.domain.plan import parse_plan
from schemas import device_events as d
from schemas.ledger import Entry, Kind
from tests.bench.common import stride

TOKEN: Final = "bench"
"""Every device's token: what its check costs does not depend on its text."""

MODEL: Final = "bench-model"
LEDGER_ROW: Final = 500
"""Devices per offer row: a worker's slice."""

STATES: Final = (d.DOWNLOADING, d.INSTALLED, d.TRIAL, d.CONFIRMED)
"""What a device says, pass by pass over the fleet."""

_OFFERED: Final = """INSERT INTO assignment (device_no, campaign_no, phase, stratum, attempt, action_id, gate_epoch, offered_at,
    state, changed_at, progress)
SELECT u.d, l.campaign_no, 0, 0, 1, l.action_base + u.i - 1, l.gate_epoch, l.at, 'offered', l.at, 'offered'
FROM decision_ledger l, unnest(l.device_nos) WITH ORDINALITY u(d, i) WHERE l.campaign_no = $1 AND l.kind = 'offer'
ORDER BY l.position, u.i"""


def device_id(device_no: int) -> str:
    return f"dev-{device_no:08d}"


def plan(**changes: Any) -> dict[str, Any]:
    """One phase for everybody, and a halt rule that nothing here crosses by accident."""
    base: dict[str, Any] = {
        "release": "rel_bench",
        "cohort": {"stratify_by": ["hardware_model"], "salt": "salt"},
        "phases": [{"name": "all", "percent": 100.0, "soak": "1h"}],
        "confirm_deadline": "24h",
        "offer_ttl": "24h",
        "halt": [{"name": "failures", "scope": "campaign", "p0": 0.02, "alpha": 0.01}],
        "max_in_flight": {"initial": 2_000_000, "maximum": 4_000_000},
        "approvals": {"required": 1, "separation": True},
        "retry": {"max_attempts": 1},
    }
    return base | changes


async def register(conn: asyncpg.Connection, count: int) -> None:
    """One hardware model with a release, and devices 1 to ``count`` of it that have told their attributes."""
    now = time.time_ns() // 1_000_000
    digest = "ab" * 32
    async with conn.transaction():
        await conn.execute("INSERT INTO hardware_model VALUES ($1, '{}', $2)", MODEL, now)
        await conn.execute(
            "INSERT INTO artifact (sha256, hardware_model, sha1, md5, size, filename, image, stored_at)"
            " VALUES ($1, $2, $3, $4, 48000, 'fw.bin', '{}', $5)",
            *(digest, MODEL, "cd" * 20, "ef" * 16, now),
        )
        await conn.execute(
            "INSERT INTO release (release_id, name, version, artifacts, digest, created_at)"
            " VALUES ('rel_bench', 'fw', '2.0.0', $1::jsonb, 'sha256:r', $2)",
            *(msgspec.json.encode({MODEL: digest}).decode(), now),
        )
        await conn.execute(
            "INSERT INTO device_identity (device_no, device_id, hardware_model, token_hash, registered_at)"
            " SELECT i, 'dev-' || lpad(i::text, 8, '0'), $2, $3, $4 FROM generate_series(1, $1::int) i",
            *(count, MODEL, sha256(TOKEN.encode()).hexdigest(), now),
            timeout=600,
        )
        await conn.execute(
            "INSERT INTO device (device_no, device_id, hardware_model, attributes, version, registered_at, reported_at)"
            " SELECT i, 'dev-' || lpad(i::text, 8, '0'), $2, '{\"hw_revision\": \"A\"}', '1.0.0', $3, $3"
            " FROM generate_series(1, $1::int) i",
            *(count, MODEL, now),
            timeout=600,
        )
    await conn.execute("ANALYZE device_identity, device", timeout=600)


@dataclass(frozen=True, slots=True)
class Launched:
    """A running campaign."""

    campaign_id: str
    campaign_no: int
    gate_epoch: int


async def launch(engine: AsyncEngine, devices: int, **changes: Any) -> Launched:
    """Create, submit, approve and launch through the campaign's stream."""
    store = SqlCampaignStore(engine)
    no = await store.next_campaign_no()
    campaign_id = f"cmp_bench_{no}"
    parsed = parse_plan(plan(**changes))
    dossier = freeze(
        parsed, strata_sizes={stratum_key(parsed.cohort.stratify_by, MODEL, {}): devices}, release_digest="sha256:r"
    )
    digest = dossier_digest(dossier)

    async def command(build: Build) -> c.Campaign:
        done = await store.execute(campaign_id, build, command_id=uuid4().hex, meta=Meta(actor="bench"))
        return done.campaign

    await command(
        lambda *_: c.Create(
            campaign_id=campaign_id,
            campaign_no=no,
            name="bench",
            release_id="rel_bench",
            plan=parsed.canonical(),
            actor="ann",
        )
    )
    await command(lambda *_: c.Submit(actor="ann", digest=digest, dossier=dossier.canonical()))
    await command(lambda *_: c.Approve(actor="bob", digest=digest))
    campaign = await command(lambda _, s: c.Launch(actor="ann", ledger_position=s.ledger_position))
    async with transaction(engine) as conn:
        await conn.execute(
            "INSERT INTO pacing (campaign_no, granted, slices, phase, credit, bucket_at) VALUES ($1, 0, 0, -1, 0, 0)",
            no,
        )
    return Launched(campaign_id, no, campaign.gate_epoch)


async def offer(engine: AsyncEngine, launched: Launched, devices: range) -> dict[int, int]:
    """Offer the release to these devices; device number to action id. Once per campaign."""
    now = time.time_ns() // 1_000_000
    entries: list[Entry] = []
    actions: dict[int, int] = {}
    for at in range(0, len(devices), LEDGER_ROW):
        part = list(devices[at : at + LEDGER_ROW])
        base = await ledger.reserve_actions(engine, len(part))
        actions |= {device: base + index for index, device in enumerate(part)}
        entries.append(
            Entry(
                campaign_no=launched.campaign_no,
                kind=Kind.OFFER,
                device_nos=part,
                at=now,
                phase=0,
                gate_epoch=launched.gate_epoch,
                attempt=1,
                action_base=base,
            )
        )
    async with transaction(engine) as conn:
        await ledger.append(conn, entries)
        await conn.execute(_OFFERED, launched.campaign_no, timeout=600)
        await conn.execute(
            "INSERT INTO device_slot (device_no, campaign_no, attempt)"
            " SELECT device_no, campaign_no, attempt FROM assignment WHERE campaign_no = $1 ORDER BY device_no",
            launched.campaign_no,
            timeout=600,
        )
        await conn.execute(
            "INSERT INTO counter (campaign_no, phase, stratum, state, shard, n) VALUES ($1, 0, 0, 'offered', $2, $3)",
            *(launched.campaign_no, SHARD, len(devices)),
        )
    async with transaction(engine) as conn:
        await conn.execute("ANALYZE assignment, device_slot, decision_ledger", timeout=600)
    return actions


async def queue(engine: AsyncEngine, launched: Launched, devices: range) -> None:
    """Put these devices into the campaign's offer queue."""
    async with transaction(engine) as conn:
        await conn.execute(
            "INSERT INTO offer_queue (campaign_no, phase, rank, device_no, stratum, attempt, not_before)"
            " SELECT $1, 0, d - $2::int, d, 0, 1, 0 FROM generate_series($2::int, $3::int) d",
            *(launched.campaign_no, devices.start, devices.stop - 1),
        )


def fact(device_no: int, action_id: int, kind: str, number: int, **report: Any) -> bytes:
    """A record's value; ``number`` makes the statement unique."""
    return d.encode(
        d.DeviceEvent(
            id=f"{number:032x}",
            source="/gateway/ddi",
            type=kind,
            subject=device_id(device_no),
            device_no=device_no,
            recorded_at=time.time_ns() // 1_000_000,
            data=msgspec.Raw(d.encode(d.Report(action_id=action_id, **report))),
        )
    )


def reports(actions: dict[int, int], count: int) -> Iterator[tuple[int, bytes]]:
    """(device number, value) of ``count`` facts: every device says its next state before any says the one after; neighbours in
    the log are far apart in the tables."""
    devices = sorted(actions)
    step, at = stride(len(devices)), 0
    for number in range(count):
        device = devices[at]
        at = (at + step) % len(devices)
        kind = STATES[number // len(devices)] if number < len(devices) * len(STATES) else d.PROGRESS
        yield device, fact(device, actions[device], kind, number)


async def fill(bootstrap: str, topic: str, partitions: int, facts: Iterator[tuple[int, bytes]]) -> None:
    """Append facts as fast as the broker takes them, by device number over the partitions."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, max_batch_size=256 << 10
    )
    await producer.start()
    try:
        batches = {partition: producer.create_batch() for partition in range(partitions)}
        sent: list[Any] = []
        for device, value in facts:
            partition, key = device % partitions, device_id(device).encode()
            if batches[partition].append(key=key, value=value, timestamp=None) is None:
                sent.append(await producer.send_batch(batches[partition], topic, partition=partition))
                batches[partition] = producer.create_batch()
                batches[partition].append(key=key, value=value, timestamp=None)
        for partition, batch in batches.items():
            if batch.record_count():
                sent.append(await producer.send_batch(batch, topic, partition=partition))
        for delivery in sent:
            await delivery
    finally:
        await producer.stop()
