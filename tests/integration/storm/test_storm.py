"""A small storm on the real parts: gateway and projector as processes, the log and the database real, every address its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from uuid import uuid4

import asyncpg
import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from orchestrator.adapters.kafka import topics
from orchestrator.adapters.kafka.partitions import LogEnds
from orchestrator.config import Settings
from orchestrator.devstack.ports import free_ports
from schemas.device_events import decode_event
from tests.bench import fleet
from tests.bench.common import answering, child, reached
from tests.bench.reconnect import STATES, Account, Order, Second
from tests.support.role import running

DEVICES, UPDATING, PER_ADDRESS = 300, 60, 30
PATIENCE = 200.0
"""Seconds for what should take twenty; a loaded machine is no failure."""

pytestmark = pytest.mark.timeout(PATIENCE + 60)


@pytest.fixture
async def settings(database_url: str, kafka: str, tmp_path: Path) -> Settings:
    (port,) = free_ports(1)
    settings = Settings(
        database_url=database_url,
        kafka_bootstrap=kafka,
        topic_prefix=f"{uuid4().hex[:8]}.",
        state_dir=tmp_path,
        instance=f"projector-{uuid4().hex[:8]}",
        gateway_port=port,
        address_rate=30.0,
        address_burst=8,
        overload_requests=24,
        retry_after_min=1,
        retry_after_max=3,
    )
    await topics.apply(kafka, settings.topic_prefix)
    return settings


async def order(settings: Settings, engine, account: Path) -> Order:
    conn = await asyncpg.connect(settings.database_url)
    try:
        await fleet.register(conn, DEVICES)
    finally:
        await conn.close()
    launched = await fleet.launch(engine, UPDATING)
    actions = await fleet.offer(engine, launched, range(1, UPDATING + 1))
    return Order(
        host="127.0.0.1",
        port=settings.gateway_port,
        account=str(account),
        devices=DEVICES,
        actions=[actions[device] for device in sorted(actions)],
        per_address=PER_ADDRESS,
        sockets=200,
        spread=1.0,
        heedless=2,
    )


async def seconds(process: asyncio.subprocess.Process) -> AsyncIterator[Second]:
    assert process.stdout is not None
    while line := await process.stdout.readline():
        yield msgspec.json.decode(line, type=Second)


async def logged(settings: Settings) -> list[str]:
    ends = LogEnds(settings.kafka_bootstrap, settings.device_events_topic)
    found = await ends.end_offsets()
    await ends.stop()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap, auto_offset_reset="earliest", enable_auto_commit=False
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(settings.device_events_topic, partition) for partition in found])
        ids: list[str] = []
        while len(ids) < sum(found.values()):
            for batch in (await consumer.getmany(timeout_ms=200)).values():
                ids += [decode_event(record.value).id for record in batch if record.value is not None]
        return ids
    finally:
        await consumer.stop()


async def positions(conn: asyncpg.Connection) -> int:
    found = await conn.fetchval("SELECT coalesce(sum(next_offset), 0)::int FROM projection_position")
    assert isinstance(found, int)
    return found


async def test_in_a_storm_devices_are_put_off_and_nothing_that_was_acknowledged_is_lost(
    settings: Settings, engine, tmp_path: Path
):
    async with asyncio.timeout(PATIENCE), AsyncExitStack() as roles:
        given = await order(settings, engine, tmp_path / "account.json")
        await roles.enter_async_context(running("projector", settings, tmp_path / "projector.log"))
        first = await roles.enter_async_context(running("gateway", settings, tmp_path / "gateway.log"))
        await answering(settings.gateway_port)
        async with child("reconnect") as process:
            assert process.stdin is not None
            process.stdin.write(msgspec.json.encode(given) + b"\n")
            acknowledged = 0
            async for second in seconds(process):
                acknowledged += second.reports
                if acknowledged >= UPDATING:
                    break
            first.kill()
            process.stdin.write(b"cut\n")
            await first.wait()
            await roles.enter_async_context(running("gateway", settings, tmp_path / "gateway.log"))
            await answering(settings.gateway_port)
            process.stdin.write(b"back\n")
            async for second in seconds(process):
                acknowledged += second.reports
            assert await process.wait() == 0
        account = msgspec.json.decode((tmp_path / "account.json").read_bytes(), type=Account)
        assert account.served == DEVICES
        assert account.statuses["429"] > 0
        assert {wait for wait in account.waits if not 1 <= wait <= 3} == set()
        assert set(account.statuses) == {"200", "429"}
        assert len(account.acknowledged) == acknowledged
        assert len(set(account.acknowledged)) == UPDATING * len(STATES)

        ids = await logged(settings)
        assert set(ids) == set(account.acknowledged)
        conn = await asyncpg.connect(settings.database_url)
        try:
            await reached(partial(positions, conn), len(ids), 0.05)
            projected = {row["event_id"] for row in await conn.fetch("SELECT event_id FROM timeline")}
            states = [row["state"] for row in await conn.fetch("SELECT state FROM assignment")]
            assert await conn.fetchval("SELECT count(*)::int FROM dead_letter") == 0
        finally:
            await conn.close()
        assert projected == set(ids)
        assert states == ["confirmed"] * UPDATING
