"""A log that lost what nobody had read: seen by the projector, alarmed, refused again, never skipped.

Facts are lost for good here, and the oracle has nothing to judge: what counts is that nobody goes on as if they had been read.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
import sys
from itertools import product
from typing import Any, Final

import httpx
import pytest
from aiokafka import AIOKafkaProducer

from orchestrator.adapters.kafka.partitions import LogEnds
from orchestrator.adapters.sql.losses import Acceptance
from orchestrator.demo.scenario import Play
from orchestrator.devstack.process import ComponentError
from orchestrator.devstack.roles import LOG_DAMAGE
from orchestrator.stream.log_loss import accept_loss, look_once
from orchestrator.stream.projector import ExitCode
from tests.chaos.faults import lose_records, make_topic_again
from tests.chaos.harness import Harness
from tests.support.witnesses import read_topic

pytestmark = pytest.mark.chaos

UNREAD: Final = 20
"""Facts that devices stated and nobody has read, when the log loses them."""
PATIENT: Final = {"confirm_deadline": "300s", "offer_ttl": "200s"}
NOTICED: Final = 60.0
"""Seconds in which a projector must have found out."""


_SKIPPED: Final = """SELECT count(*) FROM projection_position p WHERE topic = $1 AND next_offset <>
    (SELECT count(*) FROM timeline t WHERE t.partition = p.partition)
    + (SELECT count(*) FROM dead_letter d WHERE d.topic = p.topic AND d.partition = p.partition)"""
"""Partitions whose position has passed anything that was not read."""


_UNKNOWN: Final = "SELECT sum((data->>'devices')::int)::int FROM event_log WHERE type = 'LogLossAccepted'"
"""Devices whose reports may be among the lost ones, as the log tells it."""


async def positions(harness: Harness) -> dict[int, int]:
    """Read position by partition."""
    found = await harness.value(
        "SELECT jsonb_object_agg(partition, next_offset)::text FROM projection_position WHERE topic = $1",
        harness.settings.device_events_topic,
    )
    return {int(partition): offset for partition, offset in json.loads(found).items()}


async def ends(harness: Harness) -> dict[int, int]:
    log = LogEnds(harness.settings.kafka_bootstrap, harness.settings.device_events_topic)
    try:
        return dict(await log.end_offsets())
    finally:
        await log.stop()


async def unread(harness: Harness) -> dict[int, int]:
    """How many records of each partition nobody has read, where there are any."""
    read = await positions(harness)
    return {p: end - read.get(p, 0) for p, end in (await ends(harness)).items() if end > read.get(p, 0)}


async def enough_unread(harness: Harness) -> None:
    """Return when facts are waiting, several of them in one partition: one may be on its way to the projector already."""

    async def waiting() -> bool:
        behind = await unread(harness)
        return sum(behind.values()) >= UNREAD and max(behind.values()) > 1

    await harness.until("devices have said enough", waiting)


async def by_retention(harness: Harness) -> None:
    """Every partition that holds unread facts loses all it has."""
    settings = harness.settings
    behind = await unread(harness)
    before = {partition: end for partition, end in (await ends(harness)).items() if partition in behind}
    await lose_records(settings.kafka_bootstrap, settings.device_events_topic, before)


async def by_new_topic(harness: Harness) -> None:
    """The topic is deleted and made again, and devices go on."""
    settings = harness.settings
    await make_topic_again(settings.kafka_bootstrap, settings.device_events_topic)


def said(harness: Harness) -> list[dict[str, Any]]:
    """The log of the projector that the supervisor runs."""
    lines = (harness.system.logs / "projector.log").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


async def by_grown_topic(harness: Harness) -> None:
    """The same, and before anybody looks the new one has more records than the old one had."""
    settings = harness.settings
    before = await ends(harness)
    records = await read_topic(settings.kafka_bootstrap, settings.device_events_topic)
    await by_new_topic(harness)
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap, acks="all")
    await producer.start()
    try:
        for number, record in product(range(max(before.values()) + 1), records):
            del number
            await producer.send(settings.device_events_topic, record.value, key=b"again", partition=record.partition)
        await producer.flush()
    finally:
        await producer.stop()


LOSSES = {"retention": by_retention, "a new topic": by_new_topic, "a new topic that has grown": by_grown_topic}


async def refused(harness: Harness) -> None:
    """The projector has left with its code, nobody starts it again by himself, and whoever does gets the same answer."""

    async def given_up() -> bool:
        return harness.system.role("projector").state == "damaged"

    await harness.until("the projector has found the damage", given_up, NOTICED)
    assert harness.system.role("projector").exit_status == ExitCode.LOG_DAMAGED == LOG_DAMAGE
    alarms = [line for line in said(harness) if line["event"] == "projector.exit" and line["level"] == "error"]
    assert [line["code"] for line in alarms] == [ExitCode.LOG_DAMAGED], alarms
    sys.stdout.write(f"chaos: {alarms[0]['reason']}\n")
    for _ in range(2):
        async with harness.further_projector(0) as again:
            assert await asyncio.wait_for(again.wait(), NOTICED) == ExitCode.LOG_DAMAGED
    assert await harness.value(_SKIPPED, harness.settings.device_events_topic) == 0


async def alarmed(harness: Harness) -> None:
    """Whoever looks sees it: probes of the roles that go on, the fleet's gauges, `ota doctor`."""
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{harness.system.role('worker').url}/readyz")
        assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
        assert {check["name"]: check["ok"] for check in answer.json()["checks"]}["facts"] is False

        async def shown() -> bool:
            metrics = (await client.get(f"{harness.system.role('relay').url}/metrics")).text
            damaged = [line for line in metrics.splitlines() if line.startswith("ota_projection_log_damaged")]
            return any(float(line.rpartition(" ")[2]) > 0 for line in damaged)

        await harness.until("the gauge shows the damage", shown, NOTICED)
    with pytest.raises(ComponentError, match="ota doctor"):
        await asyncio.to_thread(harness.system.ota, "doctor")


async def accept(harness: Harness) -> None:
    """What somebody does who cannot restore the topic: first one loss by the command that the system proposes, then all others."""
    settings = harness.settings
    first, *others = (await look_once(settings)).losses
    words = shlex.split(first.command.removesuffix("TEXT"))[1:]
    await asyncio.to_thread(harness.system.ota, *words, "the disk was full")
    for loss in others:
        wanted = Acceptance(loss.partition, loss.start, loss.end, "the disk was full", "ann")
        await accept_loss(settings, loss.topic, wanted)
    assert not (await look_once(settings)).losses


async def nothing_unread(harness: Harness) -> bool:
    return not await unread(harness)


@pytest.mark.parametrize("loss", LOSSES)
async def test_unread_facts_that_are_lost_while_the_projector_is_down_are_never_skipped(make_harness, loss):
    harness = make_harness(devices=100)
    async with harness.up():
        campaign = await harness.launch(Play.GOOD, **PATIENT)
        await harness.started(campaign, 10)
        projector = harness.system.process("projector")
        assert projector is not None
        projector.send(signal.SIGSTOP)
        await enough_unread(harness)
        await LOSSES[loss](harness)
        projector.send(signal.SIGKILL)
        await refused(harness)
        await alarmed(harness)
        await asyncio.to_thread(harness.system.stop_fleet)
        await accept(harness)
        assert await harness.value("SELECT state FROM campaign WHERE campaign_id = $1", campaign) == "paused"
        unknown = await harness.value("SELECT count(*) FROM assignment WHERE state = 'unknown'")
        assert unknown == await harness.value(_UNKNOWN) > 0
        async with harness.further_projector(0):
            await harness.until("the projection goes on", lambda: nothing_unread(harness))
            await asyncio.to_thread(harness.system.ota, "projection", "verify")


@pytest.mark.parametrize("loss", LOSSES)
async def test_unread_facts_that_are_lost_while_the_projector_runs_are_never_skipped(make_harness, loss):
    harness = make_harness(devices=100)
    async with harness.up():
        campaign = await harness.launch(Play.GOOD, **PATIENT)
        await harness.started(campaign, 10)
        projector = harness.system.process("projector")
        assert projector is not None
        projector.send(signal.SIGSTOP)  # it is behind, and wakes up in another world
        await enough_unread(harness)
        await LOSSES[loss](harness)
        projector.send(signal.SIGCONT)
        await refused(harness)
