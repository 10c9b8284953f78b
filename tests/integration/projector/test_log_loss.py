"""A log that lost facts before they were read: what the projector says, what a person may accept, and what follows from that."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import UnknownTopicOrPartitionError
from aiokafka.structs import TopicPartition

from orchestrator.adapters.kafka import topics
from orchestrator.adapters.kafka.partitions import LogEnds, partition_of
from orchestrator.adapters.kafka.topics import DEVICE_EVENTS
from orchestrator.adapters.sql import losses, positions, rebuild
from orchestrator.adapters.sql.engine import transaction
from orchestrator.adapters.sql.event_log import verify_chain as verify_events
from orchestrator.adapters.sql.facts import PROJECTION, Delivery
from orchestrator.adapters.sql.ledger import verify_chain as verify_ledger
from orchestrator.domain import campaign as c
from orchestrator.domain.log_loss import LogDamageError, Loss
from orchestrator.stream import projector
from orchestrator.stream.log_loss import LogWatch, accept_loss
from schemas import device_events as d
from schemas.campaign_events import CampaignHalted
from tests.support.role import environment, running
from tests.support.site import PATIENCE, Site, eventually
from tests.support.world import T0, LogRecord

DAMAGED = 5


@asynccontextmanager
async def _admin(site: Site) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=site.settings.kafka_bootstrap)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def forget(site: Site, ends: Mapping[int, int]) -> None:
    """What retention does: everything before these offsets is gone."""
    topic = site.settings.device_events_topic
    async with _admin(site) as admin:
        await admin.delete_records(
            {TopicPartition(topic, p): RecordsToDelete(before_offset=end) for p, end in ends.items()}
        )


async def make_anew(site: Site) -> None:
    """Delete the topic and create it again."""
    topic = site.settings.device_events_topic
    async with _admin(site) as admin:
        await admin.delete_topics([topic])
        await eventually(lambda: _gone(admin, topic))
    await topics.apply(site.settings.kafka_bootstrap, site.settings.topic_prefix)


async def _gone(admin: AIOKafkaAdminClient, topic: str) -> bool:
    return topic not in await admin.list_topics()


def by_partition(site: Site) -> dict[int, list[int]]:
    """Devices with an offer, by the partition that their facts are in."""
    found: dict[int, list[int]] = defaultdict(list)
    for device in site.offers:
        found[partition_of(f"dev-{device:04}", DEVICE_EVENTS.partitions)].append(device)
    return dict(found)


def some(site: Site, devices: list[int]) -> list[tuple[int, int]]:
    return [(device, site.offers[device]) for device in devices]


async def project(site: Site, kinds: list[str], devices: list[int] | None = None) -> None:
    """State facts, and run the projector until it has them."""
    values = site.facts(kinds, some(site, list(site.offers) if devices is None else devices))
    wanted = await known(site) + len(values)
    await site.produce(values)
    await run_until(site, wanted)


async def known(site: Site) -> int:
    return await site.world.value("SELECT (SELECT count(*) FROM timeline) + (SELECT count(*) FROM fact_archive)")


async def run_until(site: Site, wanted: int) -> None:
    async def reached() -> bool:
        return await known(site) == wanted

    async with running("projector", site.settings, site.log):
        await eventually(reached)


async def lost(site: Site) -> list[Loss]:
    watch = LogWatch(site.world.engine, site.settings)
    try:
        return (await watch.look()).losses
    finally:
        await watch.stop()


async def accept(site: Site, loss: Loss, **changed: Any) -> Any:
    wanted = {"start": loss.start, "end": loss.end, "reason": "the disk was full", "actor": "ann"} | changed
    return await accept_loss(
        site.settings, site.settings.device_events_topic, losses.Acceptance(loss.partition, **wanted)
    )


async def ota(site: Site, *arguments: str) -> tuple[int, str, str]:
    """Run ``ota``: exit code, standard output, standard error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "orchestrator.cli.main", *arguments),
        env=environment(site.settings) | {"COLUMNS": "1000"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def states(site: Site) -> dict[int, str]:
    rows = await site.world.rows("SELECT device_no, state FROM assignment")
    return {row["device_no"]: row["state"] for row in rows}


async def in_order(site: Site) -> None:
    """Counters follow from the rows, rows from the logs, and the logs from themselves."""
    await site.world.recount()
    assert await rebuild.verify(site.settings) == []
    async with transaction(site.world.engine) as conn:
        assert (await verify_ledger(conn))[1] is None
        assert (await verify_events(conn))[1] is None


async def forgotten(site: Site) -> tuple[Loss, list[int]]:
    """Two facts that were read and one that was not are gone from the fullest partition; its devices."""
    partition, devices = max(by_partition(site).items(), key=lambda item: len(item[1]))
    await project(site, [d.ACCEPTED, d.TRIAL])
    await site.produce(site.facts([d.CONFIRMED], some(site, devices)))
    end = await site.world.value("SELECT next_offset FROM projection_position WHERE partition = $1", partition)
    await forget(site, {partition: end + len(devices)})
    (loss,) = await lost(site)
    assert (loss.partition, loss.kind, loss.start, loss.end) == (partition, "forgotten", end, end + len(devices))
    return loss, devices


async def test_retention_ate_unread_facts_and_a_person_accepts_exactly_that(site):
    loss, devices = await forgotten(site)
    others = [device for device in site.offers if device not in devices]
    async with running("projector", site.settings, site.log) as process:
        assert await asyncio.wait_for(process.wait(), PATIENCE) == DAMAGED
    assert loss.command in site.log.read_text()

    code, out, err = await ota(site, "projection", "status", "--json")
    found = json.loads(out)
    assert (code, found["damaged"], found["remedies"]) == (1, 1, [loss.command])
    assert loss.command in err
    watch = LogWatch(site.world.engine, site.settings)
    with pytest.raises(LogDamageError, match="unread events begin at"):
        await watch.check()
    await watch.stop()
    code, out, _ = await ota(site, "doctor", "--json")
    (checked,) = [check for check in json.loads(out)["checks"] if check["name"] == "projection"]
    assert (checked["ok"], loss.command in checked["remedy"]) == (False, True)

    command = loss.command.removesuffix(" TEXT").split()[1:]
    code, out, err = await ota(site, *command, "the disk was full", "--json")
    campaign = (await site.world.rows("SELECT campaign_id, state FROM campaign"))[0]
    assert (code, f"ota campaign resume {campaign['campaign_id']}" in err) == (0, True)
    assert campaign["state"] == "paused"
    assert json.loads(out) == {
        "topic": loss.topic,
        "partition": loss.partition,
        "kind": "forgotten",
        "from": loss.start,
        "to": loss.end,
        "archived": 2 * len(devices),
        "devices": len(devices),
        "campaigns": [campaign["campaign_id"]],
        "paused": [campaign["campaign_id"]],
    }
    assert {device for device, state in (await states(site)).items() if state == "unknown"} == set(devices)
    assert (await ota(site, "projection", "status"))[0] == 0
    await in_order(site)

    # Reading goes on, also for the devices that were not heard: their next word makes them known.
    await project(site, [d.CONFIRMED], others)
    assert set((await states(site)).values()) == {"confirmed", "unknown"}
    await project(site, [d.CONFIRMED], devices)
    assert set((await states(site)).values()) == {"confirmed"}
    await in_order(site)


async def test_only_what_is_lost_can_be_accepted_and_only_once(site):
    loss, _ = await forgotten(site)
    before = await site.world.value("SELECT count(*) FROM event_log")
    refusals = [
        ({"start": loss.start - 1}, losses.OtherLossError),
        ({"end": loss.end - 1}, losses.OtherLossError),
        ({"end": loss.end + 1}, losses.OtherLossError),
        ({"reason": " "}, losses.UnexplainedLossError),
    ]
    for changed, error in refusals:
        with pytest.raises(error):
            await accept(site, loss, **changed)
    healthy = Loss(
        loss.topic, loss.partition + 1 if loss.partition == 0 else 0, loss.kind, 0, 1, loss.before, loss.after
    )
    with pytest.raises(losses.NothingLostError):
        await accept(site, healthy)
    nowhere = Loss(loss.topic, DEVICE_EVENTS.partitions, loss.kind, 0, 1, loss.before, loss.after)
    with pytest.raises(losses.PartitionNotFoundError):
        await accept(site, nowhere)
    assert await site.world.value("SELECT count(*) FROM event_log") == before
    assert set((await states(site)).values()) == {"trial"}

    first = await accept(site, loss)
    after = await site.world.value("SELECT count(*) FROM event_log")
    assert await accept(site, loss) == first
    with pytest.raises(losses.NothingLostError):
        await accept(site, loss, end=loss.end + 1)
    assert await site.world.value("SELECT count(*) FROM event_log") == after


async def test_silence_after_a_loss_is_not_the_releases_failure(site):
    loss, devices = await forgotten(site)
    await accept(site, loss)
    campaign = (await site.world.rows("SELECT campaign_no, campaign_id FROM campaign"))[0]
    later = T0 + 3_600_000
    await site.world.decisions.sweep(campaign["campaign_id"], later, later)
    rows = await site.world.rows(
        "SELECT device_no, state, reason, failed_at FROM assignment WHERE device_no = ANY($1::int[])", devices
    )
    assert {(row["state"], row["reason"], row["failed_at"]) for row in rows} == {("expired", "log_loss", None)}
    # They were last seen in trial: nothing else may be offered to them until they speak.
    held = await site.world.rows("SELECT device_no FROM device_slot WHERE device_no = ANY($1::int[])", devices)
    assert {row["device_no"] for row in held} == set(devices)
    excluded = await site.world.value("SELECT sum(excluded)::int FROM maturity")
    assert excluded == len(devices)
    silent = await site.world.value("SELECT count(*) FROM assignment WHERE failed_class = 'silence'")
    assert silent == len(site.offers) - len(devices)
    await in_order(site)


async def test_a_topic_that_was_made_anew_is_read_from_its_beginning_once_every_partition_was_accepted(site):
    await project(site, [d.ACCEPTED, d.TRIAL])
    await site.produce([("x", b"poison")])
    async with running("projector", site.settings, site.log):
        await eventually(lambda: site.world.value("SELECT count(*) FROM dead_letter"))
    await site.produce(site.facts([d.CONFIRMED], list(site.offers.items())))
    await make_anew(site)
    found = await lost(site)
    assert {(loss.kind, loss.end) for loss in found} == {("recreated", 0)}
    assert len(found) == DEVICE_EVENTS.partitions

    # As many facts as before: by offsets alone everything that was not read would count as read.
    await site.produce(site.facts([d.ACCEPTED, d.TRIAL, d.CONFIRMED], list(site.offers.items())))
    for loss in found[:-1]:
        await accept(site, loss)
    async with running("projector", site.settings, site.log) as process:
        assert await asyncio.wait_for(process.wait(), PATIENCE) == DAMAGED
    await accept(site, found[-1])
    assert set((await states(site)).values()) == {"unknown"}
    await in_order(site)

    await run_until(site, 5 * len(site.offers))
    assert set((await states(site)).values()) == {"confirmed"}
    assert await site.world.value("SELECT count(*) FROM dead_letter") == 0
    assert await site.world.value("SELECT count(*) FROM dead_letter_archive") == 1
    await in_order(site)


async def test_a_topic_that_was_made_anew_and_has_outgrown_the_position_is_not_read_on(site, monkeypatch):
    left: list[tuple[int, str]] = []

    def leave(code: int, reason: object) -> None:
        left.append((code, str(reason)))

    monkeypatch.setattr(projector, "leave", leave)
    device, action = next(iter(site.offers.items()))
    partition = partition_of(f"dev-{device:04}", DEVICE_EVENTS.partitions)
    applying = projector.Projector(site.world.engine, site.settings)

    def delivery(kind: str, offset: int) -> Delivery:
        ((key, value),) = site.facts([kind], [(device, action)])
        record = LogRecord(offset=offset, key=key.encode(), value=value)
        return Delivery(partition=partition, records=[record], previous=offset)

    assert await applying.claim({partition: (0, 0)}) == {partition: 0}
    await applying.deliver(delivery(d.ACCEPTED, 0))
    await eventually(lambda: known(site))
    assert left == []
    await make_anew(site)
    await applying.deliver(delivery(d.CONFIRMED, 1))  # it fits the position, and comes from another log
    await eventually(lambda: _any(left))
    await applying.stop()
    ((code, reason),) = left
    assert (code, "made anew" in reason) == (DAMAGED, True)
    assert (await states(site))[device] == "accepted"


async def _any(found: list[Any]) -> bool:
    return bool(found)


async def test_nothing_that_devices_stated_counts_as_heard_while_the_log_is_damaged(site):
    await project(site, [d.ACCEPTED, d.TRIAL])

    async def bookmarks() -> Any:
        async with transaction(site.world.engine) as conn:
            return await positions.bookmarks(conn, PROJECTION, site.settings.device_events_topic)

    ends = LogEnds(site.settings.kafka_bootstrap, site.settings.device_events_topic, bookmarks)
    try:
        assert sum((await ends.end_offsets()).values()) == 2 * len(site.offers)
        await make_anew(site)
        await eventually(lambda: _refused(ends))
    finally:
        await ends.stop()


async def _refused(ends: LogEnds) -> bool:
    try:
        await ends.end_offsets()
    except LogDamageError as error:
        return "accept-loss" in error.remedy
    except UnknownTopicOrPartitionError:
        return False
    return False


async def test_attributes_that_were_read_before_a_loss_survive_a_rebuild(site):
    device = next(iter(site.offers))
    name = f"dev-{device:04}"

    def attributes(at: int, mode: str, **given: str) -> tuple[str, bytes]:
        report = d.Attributes(mode=mode, attributes={**given}, version=f"1.{at}")
        event = d.DeviceEvent(
            id=f"attributes-{at}",
            source="test",
            type=d.ATTRIBUTES,
            subject=name,
            device_no=device,
            recorded_at=T0 + at,
            data=msgspec.Raw(msgspec.json.encode(report)),
        )
        return name, d.encode(event)

    await site.produce([attributes(1, "merge", colour="red"), attributes(2, "merge", size="small")])
    await run_until(site, 2)
    await site.produce([attributes(3, "merge", colour="lost")])
    partition = partition_of(name, DEVICE_EVENTS.partitions)
    await forget(site, {partition: 3})
    (loss,) = await lost(site)
    await accept(site, loss)
    await site.produce([attributes(4, "merge", weight="heavy")])
    await run_until(site, 3)
    (row,) = await site.world.rows("SELECT attributes, version FROM device WHERE device_no = $1", device)
    assert {"colour": "red", "size": "small", "weight": "heavy"}.items() <= row["attributes"].items()
    await in_order(site)


async def test_health_that_was_read_before_a_loss_survives_a_rebuild(site):
    device = next(iter(site.offers))
    name = f"dev-{device:04}"

    def health(period: int, at: int, events: int) -> tuple[str, bytes]:
        report = d.Health(signal="crash", period=period, events=events, exposure_ms=3_600_000)
        event = d.DeviceEvent(
            id=d.health_id(name, report),
            source="test",
            type=d.HEALTH,
            subject=name,
            device_no=device,
            recorded_at=T0 + at,
            data=msgspec.Raw(d.encode(report)),
        )
        return name, d.encode(event)

    await site.produce([health(1, 1, 0), health(2, 2, 3), health(1, 3, 9)])
    await run_until(site, 3)
    await site.produce([health(3, 4, 1)])
    partition = partition_of(name, DEVICE_EVENTS.partitions)
    await forget(site, {partition: 4})
    (loss,) = await lost(site)
    await accept(site, loss)
    await site.produce([health(4, 5, 0)])
    await run_until(site, 4)
    rows = await site.world.rows("SELECT period, recorded_at, events FROM health_report ORDER BY period")
    assert [tuple(row.values()) for row in rows] == [(1, T0 + 1, 0), (2, T0 + 2, 3), (4, T0 + 5, 0)]
    await in_order(site)


async def test_a_fact_of_an_earlier_attempt_keeps_its_epoch_in_the_archive(site):
    world = site.world
    row = (await world.rows("SELECT campaign_no, campaign_id, digest FROM campaign"))[0]
    campaign_id = row["campaign_id"]
    halted = {"by": "ann", "reason": "test", "phase": 0, "gate_epoch": 1}
    await world.command(
        campaign_id, lambda _, s: c.Halt(event=CampaignHalted(**halted, ledger_position=s.ledger_position))
    )
    await world.decisions.sweep(campaign_id, T0 + 1, 0)
    await world.command(campaign_id, lambda *_: c.Approve(actor="bob", digest=row["digest"]))
    await world.command(
        campaign_id, lambda _, s: c.Resume(actor="ann", reason="test", ledger_position=s.ledger_position)
    )
    await world.decisions.dispatch(campaign_id, 0, 500, T0 + 3_600_000)
    again = await world.offered(row["campaign_no"])
    device = next(device for device, action in again.items() if action != site.offers[device])
    await project(site, [d.ACCEPTED, d.TRIAL], [device])  # of the first offer, which the halt took back
    await site.produce(site.facts([d.CONFIRMED], some(site, [device])))
    await forget(site, {partition_of(f"dev-{device:04}", DEVICE_EVENTS.partitions): 3})
    (loss,) = await lost(site)
    done = await accept(site, loss)
    assert done.archived == 2
    assert await world.value("SELECT gate_epoch FROM fact_archive LIMIT 1") == 1
    (kept,) = await world.rows(
        "SELECT attempt, state, gate_epoch, first_started_epoch FROM assignment WHERE device_no = $1", device
    )
    assert kept == {"attempt": 2, "state": "unknown", "gate_epoch": 2, "first_started_epoch": 1}
    await in_order(site)
