"""The projector role on the real broker and database, killed while it works."""

from __future__ import annotations

import asyncio
import random

from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import TopicPartition

from orchestrator.adapters.sql import rebuild
from schemas import device_events as d
from tests.support.role import running
from tests.support.site import PATIENCE, Site, eventually


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
