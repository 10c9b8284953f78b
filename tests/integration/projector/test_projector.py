"""The projector role on the real broker and database, killed while it works."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import TopicPartition

from orchestrator.adapters.kafka import topics
from orchestrator.adapters.sql import rebuild
from orchestrator.config import Settings
from schemas import device_events as d
from tests.support.role import running
from tests.support.world import T0, World

PATIENCE = 60.0
"""Seconds for what should take two; a loaded machine is no failure."""


@dataclass
class Site:
    world: World
    settings: Settings
    log: Path
    offers: dict[int, int]

    async def produce(self, values: list[tuple[str, bytes]]) -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=self.settings.kafka_bootstrap, acks="all", enable_idempotence=True
        )
        await producer.start()
        try:
            sent = [
                await producer.send(self.settings.device_events_topic, value, key=key.encode()) for key, value in values
            ]
            await asyncio.gather(*sent)
        finally:
            await producer.stop()

    def facts(self, kinds: list[str], devices: list[tuple[int, int]]) -> list[tuple[str, bytes]]:
        for at, kind in enumerate(kinds):
            for device, action in devices:
                self.world.fact(device, action, kind, T0 + at, failure_class="transport" if kind == d.FAILED else None)
        made = [record.value for records in self.world.log.values() for record in records]
        for records in self.world.log.values():
            records.clear()
        return [(d.decode_event(value).subject, value) for value in made if value is not None]


async def eventually(check: Callable[[], Awaitable[Any]]) -> None:
    """Wait until ``check`` returns something true."""
    async with asyncio.timeout(PATIENCE):
        while not await check():  # noqa: ASYNC110  what it waits for happens in another process
            await asyncio.sleep(0.05)


@pytest.fixture
async def site(engine, database_url, kafka, tmp_path) -> Site:
    settings = Settings(
        database_url=database_url,
        kafka_bootstrap=kafka,
        topic_prefix=f"{uuid4().hex[:8]}.",
        state_dir=tmp_path,
        instance=f"projector-{uuid4().hex[:8]}",
    )
    await topics.apply(kafka, settings.topic_prefix)
    world = World(engine)
    await world.setup()
    await world.rows("DELETE FROM projection_position RETURNING 1")
    campaign = await world.launch(max_in_flight={"initial": 500, "maximum": 500})
    await world.open_phase(campaign.campaign_id, 0, T0)
    await world.decisions.dispatch(campaign.campaign_id, 0, 500, T0)
    return Site(world, settings, tmp_path / "projector.log", await world.offered(campaign.campaign_no))


async def test_killed_at_random_it_applies_every_fact_exactly_once(site):
    rng = random.Random(11)
    devices = list(site.offers.items())
    path = [d.ACCEPTED, d.DOWNLOADING, d.INSTALLED, d.TRIAL, d.CONFIRMED]
    values = site.facts(path, devices)
    values += rng.sample(values, 20)  # the gateway's producer may repeat a record
    await site.produce(values[:100])
    for kill in range(4):
        async with running("projector", site.settings, site.log) as process:
            before = await site.world.value("SELECT count(*) FROM timeline")
            await site.produce(values[100 + kill * 20 : 120 + kill * 20])
            await eventually(lambda before=before: _more(site, before))
            process.kill()
            await process.wait()
    async with running("projector", site.settings, site.log):
        await site.produce(values[180:])
        await eventually(lambda: _count(site, len(values)))
    assert await site.world.value("SELECT count(DISTINCT event_id) FROM timeline") == len(path) * len(devices)
    assert await site.world.value("SELECT count(*) FROM assignment WHERE state = 'confirmed'") == len(devices)
    await site.world.recount()
    assert await rebuild.verify(site.settings) == []


async def _more(site: Site, before: int) -> bool:
    return await site.world.value("SELECT count(*) FROM timeline") > before


async def _count(site: Site, wanted: int) -> bool:
    return await site.world.value("SELECT count(*) FROM timeline") == wanted


async def test_a_rebuild_takes_the_place_of_the_live_tables_and_work_goes_on(site):
    devices = list(site.offers.items())
    async with running("projector", site.settings, site.log):
        await site.produce([("x", b"poison"), *site.facts([d.TRIAL], devices)])
        await eventually(lambda: _count(site, len(devices)))
        await site.world.rows("UPDATE assignment SET state = 'failed' WHERE device_no = $1 RETURNING 1", devices[0][0])
        found = await rebuild.verify(site.settings)
        assert [(item.table, item.side) for item in found] == [("assignment", "live"), ("assignment", "rebuilt")]
        counts = await rebuild.rebuild(site.settings)
        assert (counts["assignment"], counts["timeline"], counts["dead_letter"]) == (len(devices), len(devices), 1)
        assert await rebuild.verify(site.settings) == []
        await site.produce(site.facts([d.CONFIRMED], devices))
        await eventually(lambda: _count(site, 2 * len(devices)))
    await site.world.recount()
    assert await rebuild.verify(site.settings) == []


async def test_a_log_that_lost_unread_events_stops_the_projector_with_its_own_exit_code(site):
    async with running("projector", site.settings, site.log):
        await site.produce(site.facts([d.TRIAL], list(site.offers.items())))
        await eventually(lambda: _count(site, len(site.offers)))
    key, value = site.facts([d.CONFIRMED], list(site.offers.items())[:1])[0]
    await site.produce([(key, value), (key, value)])
    partition, end = await _partition_of(site, key)
    admin = AIOKafkaAdminClient(bootstrap_servers=site.settings.kafka_bootstrap)
    await admin.start()
    try:
        tp = TopicPartition(site.settings.device_events_topic, partition)
        await admin.delete_records({tp: RecordsToDelete(before_offset=end)})
    finally:
        await admin.close()
    async with running("projector", site.settings, site.log) as process:
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 5
    assert await site.world.value("SELECT count(*) FROM assignment WHERE state = 'confirmed'") == 0


async def _partition_of(site: Site, key: str) -> tuple[int, int]:
    """Partition that a key's records go to, and the offset after its next unread one."""
    device = int(key.removeprefix("dev-"))
    rows = await site.world.rows(
        'SELECT t.partition, p.next_offset + 1 AS "end" FROM timeline t JOIN projection_position p USING (partition)'
        " WHERE t.device_no = $1 LIMIT 1",
        device,
    )
    return rows[0]["partition"], rows[0]["end"]
