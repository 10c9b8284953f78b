"""Records that devices, or whoever writes in their name, should not have sent: repeated, late, out of order, malformed, too large."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Final

import msgspec
from aiokafka import AIOKafkaProducer

from tests.support.witnesses import LogRecord, read_topic

DISTORTED: Final = 20
"""Records that are distorted at a time; each in one of nine ways."""

OVERSIZED: Final = (1 << 20) + 1
"""Bytes: one more than a record may have."""


async def inject(bootstrap: str, topic: str, dice: random.Random) -> int:
    """Write a third of what the topic says about updates once more, shuffled, and some of it distorted; returns how many records."""
    told = [record for record in await read_topic(bootstrap, topic) if _of_an_update(record)]
    wrong = [_distorted(record, dice) for record in dice.sample(told, min(DISTORTED, len(told)))]
    again = dice.sample(told, len(told) // 3)
    # Compressed, an oversized record passes the broker's own limit, as a client's could.
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", max_request_size=4 << 20, compression_type="gzip"
    )
    await producer.start()
    try:
        for record in [*wrong, *again]:
            await producer.send(topic, record.value, key=b"again", partition=record.partition)
        await producer.flush()
    finally:
        await producer.stop()
    return len(wrong) + len(again)


def _of_an_update(record: LogRecord) -> bool:
    value = record.value or b""
    return value.startswith(b'{"id"') and b"device.update" in value


def _distorted(record: LogRecord, dice: random.Random) -> LogRecord:
    event = msgspec.json.decode(record.value or b"")
    action = event["data"]["action_id"]
    ways: list[Callable[[], bytes | None]] = [
        lambda: b"{" + (record.value or b""),
        lambda: b"x" * OVERSIZED,
        lambda: b"",
        lambda: None,
        lambda: json.dumps(event | {"v": 9}).encode(),
        lambda: json.dumps(event | {"type": "device.update.exploded"}).encode(),
        lambda: json.dumps(event | {"data": {"action_id": 3}}).encode(),
        lambda: json.dumps(event | {"device_no": event["device_no"] + 1}).encode(),
        lambda: json.dumps(event | {"data": {"action_id": action, "detail": "\0" * 5, "reason": "r" * 500}}).encode(),
    ]
    return LogRecord(record.partition, record.offset, dice.choice(ways)())
