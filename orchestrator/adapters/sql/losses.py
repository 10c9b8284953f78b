"""Accepting that facts were destroyed before they were read: the only way past a damaged log.

One transaction, and in it everything that follows: the position moves to where the log goes on, what had been read of the partition
becomes the record of it, every device of the partition with an assignment in flight becomes unknown in the ledger, their campaigns
pause, and the event log says who accepted what and why. Refused unless it names exactly what is missing: a person who read the numbers
an hour ago may be about to accept another loss.

Not here: finding out what the broker holds. The caller passes a look at the log that is younger than the command.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.clock import now_ms
from orchestrator.adapters.kafka.partitions import partition_of
from orchestrator.adapters.sql import campaigns, event_log, fact_archive, ledger, positions, rows
from orchestrator.adapters.sql.dispatch import control_state
from orchestrator.adapters.sql.engine import transaction
from orchestrator.adapters.sql.facts import PROJECTION
from orchestrator.adapters.sql.locks import own_control
from orchestrator.adapters.sql.rules import RulesCache
from orchestrator.adapters.sql.shadow import drop_shadow
from orchestrator.app.ports import Meta, Standing
from orchestrator.domain import campaign as c
from orchestrator.domain.assignment import ACTIVE, Assignment, State, loss, observe
from orchestrator.domain.log_loss import Bookmark, LogState, Loss, find_loss
from orchestrator.errors import ConflictError, InvalidInputError, NotFoundError
from schemas.ledger import Cause, Entry, Kind
from schemas.log_events import LogLossAccepted

SHARD: Final = 104
"""Counter shard of accepted losses."""

LEDGER_DEVICES: Final = 5_000
"""Devices of one ledger row."""

_IN_FLIGHT: Final = """SELECT s.device_no, s.campaign_no, i.device_id FROM device_slot s
JOIN device_identity i ON i.device_no = s.device_no
JOIN assignment a ON a.device_no = s.device_no AND a.campaign_no = s.campaign_no
WHERE a.state = ANY($1::text[])"""


class NothingLostError(ConflictError):
    """Everything that was not read is still in the log."""

    code = "projection.nothing_lost"
    remedy = "Start the projector: it reads on by itself."


class OtherLossError(ConflictError):
    """Something is lost, but not what the command names."""

    code = "projection.other_loss"


class UnexplainedLossError(InvalidInputError):
    """A loss is accepted with a reason, which the event log keeps."""

    code = "projection.loss_unexplained"
    remedy = "Say with --reason what happened to the log."


class PartitionNotFoundError(NotFoundError):
    """The topic has no such partition."""

    code = "projection.partition_not_found"


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What a person accepts, exactly."""

    partition: int
    start: int
    """Offset of the first fact that was not read: the projection's position."""
    end: int
    """Offset at which reading goes on, in the log that there is now."""
    reason: str
    actor: str


async def accept(
    engine: AsyncEngine, topic: str, log: LogState, wanted: Acceptance, traceparent: str | None = None
) -> LogLossAccepted:
    """Accept one loss. Repeating a command that took effect returns what it did.

    Args:
        engine: connections to the live tables.
        topic: full name of the topic of facts.
        log: what the broker has now.
        wanted: what is accepted.
        traceparent: of the command.

    Raises:
        UnexplainedLossError: no reason.
        PartitionNotFoundError: the topic has no such partition.
        NothingLostError: what was not read is still there.
        OtherLossError: the position or the log is not where the command says.
    """
    if not wanted.reason.strip():
        raise UnexplainedLossError
    if wanted.partition not in log.bounds:
        raise PartitionNotFoundError(f"{topic} has partitions 0 to {max(log.bounds)}.")
    async with transaction(engine) as conn:
        # An unfinished rebuild has read the log as it was. Its tables come first of all locks: it takes positions while it holds them.
        await drop_shadow(conn)
        bookmark = await _own_position(conn, topic, wanted.partition, log)
        stream = fact_archive.stream_of(topic, wanted.partition)
        before = await event_log.read_stream(conn, stream)
        found = find_loss(topic, wanted.partition, bookmark, log)
        if found is None:
            if before and _is(before[-1].event, wanted, bookmark):
                return before[-1].event
            raise NothingLostError(
                f"{topic}/{wanted.partition}: the position is {bookmark.next_offset}, the log holds"
                f" {log.bounds[wanted.partition][0]} to {log.bounds[wanted.partition][1]}."
            )
        if (found.start, found.end) != (wanted.start, wanted.end):
            raise OtherLossError(str(found), remedy=f"Look again, then: `{found.command}`")
        return await _accept(conn, found, len(log.bounds), wanted, len(before), traceparent)


async def _own_position(conn: asyncpg.Connection, topic: str, partition: int, log: LogState) -> Bookmark:
    """Lock the position, against every projector; one that was never claimed is at the beginning of the log that there is."""
    await conn.execute(
        "INSERT INTO projection_position (projection, topic, partition, topic_id, cluster_id, next_offset, epoch)"
        " VALUES ($1, $2, $3, $4, $5, 0, 0) ON CONFLICT DO NOTHING",
        *(PROJECTION, topic, partition, log.identity.topic_id, log.identity.cluster_id),
    )
    await conn.execute(
        "SELECT 1 FROM projection_position WHERE projection = $1 AND topic = $2 AND partition = $3 FOR UPDATE",
        *(PROJECTION, topic, partition),
    )
    return (await positions.bookmarks(conn, PROJECTION, topic))[partition]


def _is(event: LogLossAccepted, wanted: Acceptance, bookmark: Bookmark) -> bool:
    return (event.from_offset, event.to_offset, event.after_topic_id) == (
        wanted.start,
        wanted.end,
        bookmark.identity.topic_id,
    )


async def _accept(
    conn: asyncpg.Connection, found: Loss, partitions: int, wanted: Acceptance, earlier: int, traceparent: str | None
) -> LogLossAccepted:
    now = now_ms()
    where = (PROJECTION, found.topic, found.partition)
    # The epoch fences whoever held the partition: it cannot commit what it read before.
    await conn.execute(
        "UPDATE projection_position SET next_offset = $4, topic_id = $5, cluster_id = $6, epoch = epoch + 1"
        " WHERE projection = $1 AND topic = $2 AND partition = $3",
        *where,
        *(found.end, found.after.topic_id, found.after.cluster_id),
    )
    archived = await fact_archive.keep(conn, found.topic, found.partition, earlier + 1)
    await _forget_overlay(conn, found)
    in_flight = await _lock_in_flight(conn, found.partition, partitions)
    changed = await _become_unknown(conn, in_flight, now)
    campaign_nos = sorted({row.campaign_no for row in in_flight})
    for campaign_no in campaign_nos:  # all of them before the logs' locks, which come after
        await own_control(conn, campaign_no)
    controls = {campaign_no: await control_state(conn, campaign_no) for campaign_no in campaign_nos}
    entries = _entries(changed, controls, now)
    position = await ledger.append(conn, entries) if entries else (await ledger.head(conn))[0]
    ids: dict[int, str] = {
        row["campaign_no"]: row["campaign_id"]
        for row in await conn.fetch(
            "SELECT campaign_no, campaign_id FROM campaign WHERE campaign_no = ANY($1::int[])", campaign_nos
        )
    }
    running = [no for no in campaign_nos if controls[no][0] == c.CampaignState.RUNNING]
    event = LogLossAccepted(
        topic=found.topic,
        partition=found.partition,
        kind=str(found.kind),
        from_offset=found.start,
        to_offset=found.end,
        before_cluster_id=found.before.cluster_id,
        before_topic_id=found.before.topic_id,
        after_cluster_id=found.after.cluster_id,
        after_topic_id=found.after.topic_id,
        archived=archived,
        devices=len(changed),
        campaigns=[ids[no] for no in campaign_nos],
        paused=[ids[no] for no in running],
        ledger_position=position,
        at=now,
        actor=wanted.actor,
        reason=wanted.reason,
    )
    stream = fact_archive.stream_of(found.topic, found.partition)
    command = f"accept-loss/{found.topic}/{found.partition}/{earlier + 1}"
    meta = Meta(actor=wanted.actor, reason=wanted.reason, traceparent=traceparent)
    await event_log.append(conn, stream, earlier, [event], command_id=command, meta=meta)
    for no in running:
        await _pause(conn, ids[no], found, command, meta)
    return event


async def _pause(conn: asyncpg.Connection, campaign_id: str, found: Loss, command: str, meta: Meta) -> None:
    reason = f"Log loss: {found} {meta.reason}"

    def build(_: c.Campaign, standing: Standing) -> c.Command:
        return c.Pause(actor=meta.actor, reason=reason, ledger_position=standing.ledger_position)

    await campaigns.execute(conn, campaign_id, build, command_id=f"{command}/{campaign_id}", meta=meta)


async def _forget_overlay(conn: asyncpg.Connection, found: Loss) -> None:
    """Reports that were answered before their projection, which will not come. In another log old offsets mean nothing."""
    same = found.before == found.after and found.end > found.start
    await conn.execute(
        'DELETE FROM report_overlay WHERE partition = $1 AND ($2::bigint IS NULL OR "offset" < $2)',
        *(found.partition, found.end if same else None),
    )


async def _lock_in_flight(conn: asyncpg.Connection, partition: int, partitions: int) -> list[Assignment]:
    """Assignments in flight of the devices whose facts are in the partition."""
    in_flight = await conn.fetch(_IN_FLIGHT, sorted(ACTIVE))
    own = [
        (row["device_no"], row["campaign_no"])
        for row in in_flight
        if partition_of(row["device_id"], partitions) == partition
    ]
    locked = await rows.lock(conn, own)
    return [row for row in locked.values() if row.state in ACTIVE]  # it may have ended while its lock was waited for


async def _become_unknown(conn: asyncpg.Connection, in_flight: Sequence[Assignment], now: int) -> list[Assignment]:
    """The rows that changed, as they were before; one that was unknown already stays as it is."""
    changes = rows.Changes(await RulesCache().get(conn, {row.campaign_no for row in in_flight}), SHARD)
    changed: list[Assignment] = []
    for row in in_flight:
        new = observe(row, loss(row.attempt, row.progress, now))
        if new != row:
            changes.add(row, new)
            changed.append(row)
    await changes.write(conn)
    return changed


def _entries(changed: Sequence[Assignment], controls: Mapping[int, tuple[str, int, int]], now: int) -> list[Entry]:
    alike: dict[tuple[int, int, State], list[int]] = defaultdict(list)
    for row in changed:
        alike[row.campaign_no, row.attempt, row.progress].append(row.device_no)
    return [
        Entry(
            campaign_no=campaign_no,
            kind=Kind.UNKNOWN,
            device_nos=devices[first : first + LEDGER_DEVICES],
            at=now,
            attempt=attempt,
            cause=Cause.LOG_LOSS,
            gate_epoch=controls[campaign_no][2],
            control_version=controls[campaign_no][1],
            seen=str(seen),
        )
        for (campaign_no, attempt, seen), devices in sorted(alike.items())
        for first in range(0, len(devices), LEDGER_DEVICES)
    ]
