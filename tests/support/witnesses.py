"""What the oracle hears: the fleet's truth file, the topic of facts, the tables. Reading only; it imports nothing of the product."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

READ: Final = 60.0
"""Seconds in which a topic must have been read: some 100,000 small records take 2 on a busy machine."""


@dataclass(frozen=True, slots=True)
class LogRecord:
    """A record of the topic of facts."""

    partition: int
    offset: int
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Flash:
    """What a device runs at the end."""

    running: str
    in_trial: bool


@dataclass(slots=True)
class Truth:
    """The fleet's truth file, in its order."""

    acknowledged: list[tuple[str, str, str, str]] = field(default_factory=list)
    """(device, action, state, event id)"""
    sent: list[tuple[str, str, str]] = field(default_factory=list)
    """(device, action, state)"""
    revealed: list[tuple[str, int]] = field(default_factory=list)
    """(device, action)"""

    @classmethod
    def read(cls, path: Path) -> Truth:
        truth = cls()
        for raw in path.read_bytes().splitlines(keepends=True):
            if not raw.endswith(b"\n"):
                break
            line = json.loads(raw)
            device, action, state = line["device"], line.get("action", ""), line.get("state", "")
            match line["what"]:
                case "sent":
                    truth.sent.append((device, action, state))
                case "acknowledged":
                    truth.acknowledged.append((device, action, state, line["event_id"]))
                case "revealed":
                    truth.revealed.append((device, int(action)))
        return truth


Rows = list[dict[str, Any]]

TABLES = {
    "event_log": "position",
    "decision_ledger": "position",
    "assignment": "device_no, campaign_no",
    "counter": "campaign_no",
    "gate_count": "campaign_no",
    "maturity": "campaign_no",
    "device_slot": "device_no",
    "offer_queue": "campaign_no, device_no",
    "due_queue": "campaign_no, device_no",
    "timeline": 'partition, "offset"',
    "dead_letter": 'partition, "offset"',
    "projection_position": "partition",
    "device_identity": "device_no",
    "device": "device_no",
    "release": "release_id",
}


async def read_tables(url: str) -> dict[str, Rows]:
    """All tables of one moment."""
    connection = await asyncpg.connect(url)
    try:
        await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return {
                table: [dict(row) for row in await connection.fetch(f"SELECT * FROM {table} ORDER BY {order}")]
                for table, order in TABLES.items()
            }
    finally:
        await connection.close()


async def read_topic(bootstrap: str, topic: str, partitions: int = 64) -> list[LogRecord]:
    """Every record that the broker holds now. Raises TimeoutError after ``READ`` seconds."""
    # No seeking: the client looks for a new partition's position by itself, and if a seek meets that look under way, the look may win
    # and leave the reader at the log's end, where nothing ever comes.
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest")
    async with asyncio.timeout(READ):
        await consumer.start()
        try:
            places = [TopicPartition(topic, number) for number in range(partitions)]
            consumer.assign(places)
            begin, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
            unread = {place: end for place, end in ends.items() if end > begin[place]}
            records: list[LogRecord] = []
            while unread:
                for place, batch in (await consumer.getmany(timeout_ms=500)).items():
                    records += [LogRecord(place.partition, r.offset, r.value) for r in batch]
                    if batch[-1].offset + 1 >= unread.get(place, 0):
                        unread.pop(place, None)
            return sorted(records, key=lambda record: (record.partition, record.offset))
        finally:
            await consumer.stop()
