"""What operators see of the projector's progress in the broker."""

from __future__ import annotations

from aiokafka.admin import AIOKafkaAdminClient

from schemas import device_events as d
from tests.support.role import running
from tests.support.site import eventually


async def test_the_groups_committed_offsets_come_to_the_end_of_the_log(site):
    devices = list(site.offers.items())
    group = f"{site.settings.topic_prefix}ota-fleet"

    async def committed() -> int:
        admin = AIOKafkaAdminClient(bootstrap_servers=site.settings.kafka_bootstrap)
        await admin.start()
        try:
            return sum(found.offset for found in (await admin.list_consumer_group_offsets(group)).values())
        finally:
            await admin.close()

    async def projected() -> bool:
        return await site.world.value("SELECT count(*) FROM timeline") == len(devices)

    async def all_committed() -> bool:
        return await committed() == 2 * len(devices)

    async with running("projector", site.settings, site.log):
        await site.produce(site.facts([d.TRIAL], devices))
        await eventually(projected)
        await site.produce(site.facts([d.CONFIRMED], devices))
        await eventually(all_committed)
