"""The fleet projection: facts into rows, counters, verdicts and the read position, in one transaction.

Exactly once by position: the compare-and-set of the positions is the transaction's first statement, so effects and position
commit together or not at all, and a process that lost its partitions cannot commit. Poison cannot block: what cannot be
decoded or resolved is a dead letter of the same transaction, and a batch that the database refuses is halved until the
record that causes it stands alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import asyncpg
import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import failpoints
from orchestrator.adapters.clock import now_ms
from orchestrator.adapters.sql import component_rows, halting, health, positions, retrying, rows
from orchestrator.adapters.sql.actions import ActionRanges
from orchestrator.adapters.sql.engine import RETRYABLE, transaction
from orchestrator.adapters.sql.fact_batch import FactBatch, Record, dead_letter, read_batch
from orchestrator.adapters.sql.positions import BrokenChainError, Claim, FencedError, LogIdentity
from orchestrator.adapters.sql.rules import RulesCache
from orchestrator.domain.assignment import Assignment, State, observe
from orchestrator.errors import OtaError
from schemas import device_events as d
from schemas.campaign_events import CampaignHalted

PROJECTION = "fleet"

_TIMELINE = (
    "partition",
    "offset",
    "device_no",
    "campaign_no",
    "attempt",
    "event_id",
    "type",
    "recorded_at",
    "failure_class",
    "reason",
    "detail",
    "components",
    "version",
    "digest",
)
_TYPES = {State(state): event_type for event_type, state in d.UPDATE_STATES.items()}
_DEAD = ("topic", "partition", "offset", "code", "detail", "event_id", "key", "value", "recorded_at")


@dataclass(frozen=True, slots=True)
class Delivery:
    """A run of records of one partition and where the run before it ended."""

    partition: int
    records: Sequence[Record]
    previous: int
    """Next offset after the delivery before this one, or the claimed position."""

    @property
    def next_offset(self) -> int:
        return self.records[-1].offset + 1

    def split(self, count: int) -> tuple[Delivery, Delivery]:
        """The first ``count`` records, and the others chained to them; there must be more than ``count``."""
        first = Delivery(self.partition, self.records[:count], self.previous)
        return first, Delivery(self.partition, self.records[count:], first.next_offset)


@dataclass(slots=True)
class Applied:
    """What a transaction did, for instruments."""

    facts: int = 0
    dead: list[str] = field(default_factory=list)
    transitions: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    duplicates: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """By event type: facts that left their row as it was."""
    evaluations: int = 0
    """Campaigns whose halt rules were evaluated."""
    failures: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    halts: list[CampaignHalted] = field(default_factory=list)
    oldest_at: int | None = None


class FactProjection:
    """Applies deliveries. One instance per lane: calls must not overlap for the same partitions."""

    def __init__(self, engine: AsyncEngine, topic: str, *, judge: bool = True) -> None:
        """``judge=False`` for a rebuild: verdicts are events, copied and never taken again, and nothing is filed for a sweep."""
        self._judges = judge
        self._engine = engine
        self._topic = topic
        self._claims: dict[int, Claim] = {}
        self._actions = ActionRanges()
        self._rules = RulesCache()

    async def claim(self, identity: LogIdentity, bounds: Mapping[int, tuple[int, int]]) -> dict[int, int]:
        """Own these partitions from now on; returns where to read from. Raises LogDamageError."""
        async with transaction(self._engine) as conn:
            claims = await positions.claim(conn, PROJECTION, self._topic, identity, bounds)
        self._claims = claims
        return {partition: held.next_offset for partition, held in claims.items()}

    async def apply(self, deliveries: Sequence[Delivery]) -> Applied:
        """Apply and commit. Records before the position are skipped; a gap raises BrokenChainError, a lost claim FencedError.

        Other errors of OtaError's family and RETRYABLE ones pass through with nothing applied; the caller repeats the call.
        """
        records: dict[int, list[Record]] = {}
        ends: dict[int, int] = {}
        for item in deliveries:
            held = self._claims.get(item.partition)
            if held is None:
                continue  # delivered before a rebalance took the partition away
            end = ends.get(item.partition, held.next_offset)
            if item.next_offset <= end:
                continue
            if item.previous > end:
                raise BrokenChainError(
                    f"{self._topic}/{item.partition}: delivered after {item.previous}, the position is {end}."
                )
            # The topic has neither transactions nor compaction: a hole in its offsets is lost data.
            fresh = item.records
            if fresh[0].offset < end:
                fresh = [record for record in fresh if record.offset >= end]
            if fresh[0].offset != end or fresh[-1].offset - fresh[0].offset + 1 != len(fresh):
                raise positions.LogDamageError(
                    f"{self._topic}/{item.partition}: offsets {end}..{fresh[-1].offset} hold {len(fresh)} records."
                )
            records.setdefault(item.partition, []).extend(fresh)
            ends[item.partition] = item.next_offset
        if not records:
            return Applied()
        return await self._apply(records)

    async def _apply(self, records: dict[int, list[Record]]) -> Applied:
        try:
            return await self._commit(records)
        except (FencedError, positions.LogDamageError, *RETRYABLE):
            raise
        except (asyncpg.PostgresError, ValueError, TypeError, OverflowError, LookupError, OtaError) as error:
            if sum(map(len, records.values())) == 1:
                return await self._commit(records, poison=error)
            flat = [(partition, record) for partition in sorted(records) for record in records[partition]]
            middle = len(flat) // 2
            done = await self._apply(_by_partition(flat[:middle]))
            return _merged(done, await self._apply(_by_partition(flat[middle:])))

    async def _commit(self, records: dict[int, list[Record]], poison: Exception | None = None) -> Applied:
        ends = {partition: items[-1].offset + 1 for partition, items in records.items()}
        now = now_ms()
        failpoints.hit("projector.before_transaction")
        async with transaction(self._engine) as conn:
            await positions.advance(conn, PROJECTION, self._topic, self._claims, ends)
            failpoints.hit("projector.after_position")
            if poison is None:
                batch = await read_batch(conn, self._actions, self._topic, dict(records), now)
            else:
                ((partition, (record,)),) = records.items()
                batch = FactBatch(
                    dead=[dead_letter(self._topic, partition, record, "event.unprocessable", repr(poison), None, now)]
                )
            applied, failures = await self._write(conn, batch, min(ends))
            await self._drop_overlay(conn, ends)
            if batch.timeline:
                await conn.copy_records_to_table("timeline", records=batch.timeline, columns=_TIMELINE)
            if batch.dead:
                await conn.copy_records_to_table("dead_letter", records=batch.dead, columns=_DEAD)
            if self._judges:
                applied.halts = await self._judge(conn, failures, now)
                applied.evaluations = len(failures)
            failpoints.hit("projector.before_commit")
        failpoints.hit("projector.after_commit")
        for partition, end in ends.items():
            self._claims[partition] = Claim(end, self._claims[partition].epoch)
        applied.facts = len(batch.timeline)
        applied.dead = [row[3] for row in batch.dead]
        applied.oldest_at = min((row[7] for row in batch.timeline), default=None)
        return applied

    async def _write(
        self, conn: asyncpg.Connection, batch: FactBatch, shard: int
    ) -> tuple[Applied, dict[int, list[halting.Failure]]]:
        applied = Applied()
        failures: dict[int, list[halting.Failure]] = defaultdict(list)
        found = await rows.lock(conn, batch.seen)
        rules = await self._rules.get(conn, {campaign for _, campaign in found})
        changes = rows.Changes(rules, shard)
        again: list[Assignment] = []
        missing = batch.seen.keys() - found.keys()
        if missing:
            raise LookupError(f"no assignment for (device, campaign) {sorted(missing)[:3]}")
        for key, old in found.items():
            new = old
            for seen in batch.seen[key]:
                before, new = new, observe(new, seen.observation)
                if new is before:
                    applied.duplicates[_TYPES[seen.observation.state]] += 1
                    continue
                if new.failed_at is not None and before.failed_at is None:
                    where = {"topic": self._topic, "partition": seen.partition, "offset": seen.offset}
                    failures[new.campaign_no].append(halting.Failure(seen.observation.at, new.stratum, where))
                    applied.failures[seen.observation.failure_class or "unclassified"] += 1
                if new.state is not before.state:
                    applied.transitions[new.state] += 1
            changes.add(old, new)
            if self._judges and retrying.concerns(rules[new.campaign_no], old, new):
                again.append(new)
        if again:
            await retrying.file(conn, again)
        await changes.write(conn)
        await component_rows.write(conn, batch.components, shard)
        await _report_attributes(conn, batch.attributes)
        await health.record(conn, batch.health)
        return applied, failures

    async def _judge(
        self, conn: asyncpg.Connection, failures: Mapping[int, Sequence[halting.Failure]], now: int
    ) -> list[CampaignHalted]:
        """Evaluate the halt rules of every campaign that got a failure, in the order of their numbers."""
        rules = await self._rules.get(conn, failures)
        halts = [
            await halting.evaluate(conn, rules[no], sorted(failures[no], key=lambda failure: failure.at), now)
            for no in sorted(failures)
        ]
        return [halt for halt in halts if halt is not None]

    @staticmethod
    async def _drop_overlay(conn: asyncpg.Connection, ends: Mapping[int, int]) -> None:
        await conn.execute(
            "DELETE FROM report_overlay o USING unnest($1::int[], $2::bigint[]) u(partition, after)"
            ' WHERE o.partition = u.partition AND o."offset" < u.after',
            list(ends),
            list(ends.values()),
        )


def merged_attributes(known: dict[str, str], report: d.Attributes) -> dict[str, str]:
    """HawkBit's modes: merge (a null deletes), replace, remove."""
    given = {key.replace("\0", ""): value for key, value in report.attributes.items()}
    if report.mode == "remove":
        return {key: value for key, value in known.items() if key not in given}
    base = {} if report.mode == "replace" else dict(known)
    for key, value in given.items():
        if value is None:
            base.pop(key, None)
        else:
            base[key] = value.replace("\0", "")
    return base


async def _report_attributes(
    conn: asyncpg.Connection, reported: Mapping[int, Sequence[tuple[int, d.Attributes]]]
) -> None:
    if not reported:
        return
    found = await conn.fetch(
        "SELECT device_no, attributes, version, digest FROM device WHERE device_no = ANY($1::int[])"
        " ORDER BY device_no FOR UPDATE",
        sorted(reported),
    )
    updates: list[tuple[int, str, str | None, str | None, int]] = []
    for row in found:
        attributes, version, digest = row["attributes"], row["version"], row["digest"]
        at = 0
        for recorded_at, report in reported[row["device_no"]]:
            attributes = merged_attributes(attributes, report)
            version, digest = report.version or version, report.digest or digest
            at = recorded_at
        updates.append(
            (row["device_no"], msgspec.json.encode(attributes, order="sorted").decode(), version, digest, at)
        )
    if updates:
        await conn.execute(
            "UPDATE device t SET attributes = u.attributes::jsonb, version = u.version, digest = u.digest,"
            " reported_at = u.at"
            " FROM unnest($1::int[], $2::text[], $3::text[], $4::text[], $5::bigint[]) u(no, attributes, version, digest, at)"
            " WHERE t.device_no = u.no",
            *(list(column) for column in zip(*updates, strict=True)),
        )


def _by_partition(flat: Sequence[tuple[int, Record]]) -> dict[int, list[Record]]:
    found: dict[int, list[Record]] = defaultdict(list)
    for partition, record in flat:
        found[partition].append(record)
    return dict(found)


def _merged(first: Applied, second: Applied) -> Applied:
    for kind, n in second.transitions.items():
        first.transitions[kind] += n
    for kind, n in second.failures.items():
        first.failures[kind] += n
    for kind, n in second.duplicates.items():
        first.duplicates[kind] += n
    first.evaluations += second.evaluations
    first.facts += second.facts
    first.dead += second.dead
    first.halts += second.halts
    return first
