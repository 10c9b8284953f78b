"""Storage that does not keep up: a database that is slow, locked or stands still, a broker that stands still, a stuck projector.

Nobody lends a hand in any of these: what was slow is fast again after a while, and the campaign goes on by itself.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import httpx
import psutil
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from orchestrator.adapters.kafka.topics import DEVICE_EVENTS
from orchestrator.demo.scenario import Play
from tests.chaos.faults import frozen, locked, slow_statements
from tests.chaos.harness import Harness
from tests.chaos.test_long import judged
from tests.support.witnesses import read_topic

pytestmark = pytest.mark.chaos

SLOW: Final = 0.1
"""Seconds more for each statement that writes: some ten of them make a transaction."""
SLOW_FOR: Final = 20.0
STANDS_STILL_FOR: Final = 15.0
"""Seconds: longer than heartbeats of workers, sessions of consumers and requests of devices wait."""
LOCKED_FOR: Final = 65.0
"""Seconds: longer than a statement may take (60) and than anybody waits for a connection (30)."""

PATIENT: Final = {"confirm_deadline": "300s", "offer_ttl": "200s"}
"""Devices that cannot report while the system stands still are late and not silent."""


async def test_a_campaign_outlives_a_database_that_is_slow_then_stands_still_then_is_locked(make_harness):
    harness = make_harness(devices=200)
    async with harness.up():
        url = harness.settings.database_url
        campaign = await harness.launch(Play.GOOD, **PATIENT)
        await harness.started(campaign, 10)
        async with slow_statements(url, SLOW):
            await asyncio.sleep(SLOW_FOR)
        await harness.started(campaign, 60)
        with frozen(harness.system.server("postgres")):
            await asyncio.sleep(STANDS_STILL_FOR)
        await harness.started(campaign, 100)
        assert await harness.in_flight()
        async with locked(url, "assignment", "event_log"):
            await asyncio.sleep(LOCKED_FOR)
        assert await harness.ended(campaign) == "completed"
        await judged(harness)


# --------------------------------------------------------------------------- a broker that stands still

WAVES: Final = 3
WAVE: Final = 1_500
"""Reports at once: more than a gateway takes in hand (1,000), and of a size at which these fill the producer's batches (16 MiB)."""
MEMORY: Final = 256
"""MiB that a gateway may grow by, as ``MAX_REPORTS_IN_HAND`` promises."""


@dataclass
class Flood:
    """What a gateway answered to many reports at once."""

    statuses: Counter[int] = field(default_factory=Counter)
    acknowledged: set[str] = field(default_factory=set)
    """Ids of events."""
    unhelpful: int = 0
    """Refusals that do not say when to come back."""


async def test_a_gateway_whose_broker_stands_still_takes_no_report_and_loses_none(make_harness):
    harness = make_harness(devices=150)
    async with harness.up():
        campaign = await harness.launch(Play.GOOD, **PATIENT)
        await harness.started(campaign, 20)
        refused, taken = Flood(), Flood()
        async with _memory_of(harness, "gateway") as memory:
            with frozen(harness.system.server("kafka")):
                for number in range(WAVES):
                    await flood(harness, refused, f"stopped {number}", WAVE)
        assert refused.statuses.total() == WAVES * WAVE
        assert set(refused.statuses) <= {429, 503}, refused.statuses
        assert refused.unhelpful == 0
        grown = (max(memory) - memory[0]) >> 20
        sys.stdout.write(f"chaos: {dict(refused.statuses)} while stopped, {memory[0] >> 20} MiB and {grown} MiB more\n")
        assert grown < MEMORY
        await harness.until("reports are taken again", lambda: _some_taken(harness, taken))
        await flood(harness, taken, "on", 300)
        sys.stdout.write(f"chaos: {dict(taken.statuses)} after that\n")
        records = await read_topic(harness.settings.kafka_bootstrap, harness.settings.device_events_topic)
        logged = {json.loads(record.value or b"{}").get("id") for record in records}
        assert taken.acknowledged - logged == set()
        assert await harness.ended(campaign) == "completed"
        await judged(harness)


async def _some_taken(harness: Harness, answers: Flood) -> bool:
    await flood(harness, answers, "back", 20)
    return answers.statuses[200] > 0


async def flood(harness: Harness, answers: Flood, what: str, reports: int) -> None:
    """Devices report large attributes, all at once."""
    devices = harness.tokens()
    limits = httpx.Limits(max_connections=reports, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=harness.system.url("gateway"), limits=limits, timeout=60) as client:

        async def report(number: int) -> None:
            device, token = devices[number % len(devices)]
            load = {f"load {key:03}": f"{what} {number} ".ljust(128, "x") for key in range(90)}
            answer = await client.put(
                f"/default/controller/v1/{device}/configData",
                json={"data": load},
                headers={"Authorization": f"TargetToken {token}"},
            )
            answers.statuses[answer.status_code] += 1
            if answer.status_code == httpx.codes.OK:
                answers.acknowledged.add(answer.headers["ota-event-id"])
            elif not answer.headers.get("retry-after", "").isdigit():
                answers.unhelpful += 1

        await asyncio.gather(*(report(number) for number in range(reports)))


@asynccontextmanager
async def _memory_of(harness: Harness, role: str) -> AsyncIterator[list[int]]:
    """Resident bytes of a role's process, looked at ten times a second meanwhile."""
    running = harness.system.process(role)
    assert running is not None
    process = psutil.Process(running.pid)
    seen = [process.memory_info().rss]

    async def look() -> None:
        while True:
            await asyncio.sleep(0.1)
            seen.append(process.memory_info().rss)

    looking = asyncio.create_task(look())
    try:
        yield seen
    finally:
        looking.cancel()


# --------------------------------------------------------------------------- a projector that is stuck

STUCK: Final = 2.0
"""Seconds without a fetch after which a projector is out of its group, so that its partitions can go to another."""
DRIP: Final = 0.05
"""Seconds between two records of a partition: a fetch brings one record of each then, and the projector's buffers count fetches."""


async def test_a_projector_that_is_stuck_in_the_database_loses_its_partitions_and_nothing_else(make_harness):
    harness = make_harness(devices=150, settings={"OTA_PROJECTOR_STUCK_S": str(STUCK)})
    async with harness.up():
        campaign = await harness.launch(Play.GOOD, **PATIENT)
        await harness.started(campaign, 30)
        await harness.until("the projector is in its group", lambda: _members(harness, "projector-0"))
        async with locked(harness.settings.database_url, "timeline"):
            assert await harness.in_flight()
            async with dripping(harness):
                await harness.until("the projector is out of its group", lambda: _members(harness))
            async with harness.further_projector(1):
                await harness.until("another one is in its place", lambda: _members(harness, "projector-1"))
        assert await harness.ended(campaign) == "completed"
        await judged(harness)


@asynccontextmanager
async def dripping(harness: Harness) -> AsyncIterator[None]:
    """Devices go on to say what they have said before, in every partition: the buffers of whoever reads without applying fill up."""
    bootstrap, topic = harness.settings.kafka_bootstrap, harness.settings.device_events_topic
    said = {record.partition: record.value for record in await read_topic(bootstrap, topic)}
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    await producer.start()

    async def drip() -> None:
        while True:
            for partition in range(DEVICE_EVENTS.partitions):
                await producer.send(topic, said.get(partition, b"nothing"), key=b"again", partition=partition)
            await producer.flush()
            await asyncio.sleep(DRIP)

    task = asyncio.create_task(drip())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await producer.stop()


async def _members(harness: Harness, *instances: str) -> bool:
    """Whether the projectors' group consists of these."""
    admin = AIOKafkaAdminClient(bootstrap_servers=harness.settings.kafka_bootstrap)
    await admin.start()
    try:
        (answer,) = await admin.describe_consumer_groups(["ota-fleet"])
    finally:
        await admin.close()
    (group,) = answer.groups
    present = {member[0].rsplit("-", 5)[0] for member in group[5]}  # a static member's id is its instance's with a UUID
    return present == set(instances)
