"""The shadow, brought to a cut of the logs by the live code.

A cut is where the logs stand in one snapshot, and so is what the live tables show in it. Within a cut every fact that was projected
speaks of an offer whose ledger row is in the cut too, and every ledger row of a campaign whose events are. So it is followed in the
order events, ledger, facts, which is one of the orders that the fold allows. A fact beyond the cut would find no offer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import failpoints
from orchestrator.adapters.sql import campaigns, event_log, fact_archive, fleet_stop, ledger, owners, registry
from orchestrator.adapters.sql.comparison import SHADOW, Changed, Progress
from orchestrator.adapters.sql.engine import driver, transaction
from orchestrator.adapters.sql.facts import PROJECTION, Delivery, FactProjection
from orchestrator.adapters.sql.locks import FLEET
from orchestrator.adapters.sql.positions import LogDamageError, LogIdentity
from orchestrator.adapters.sql.replay import LedgerReplay
from orchestrator.adapters.sql.shadow import Shadow, check_identity, move
from orchestrator.domain import campaign as c
from schemas.campaign_events import EVENT_TYPES as CAMPAIGN_EVENTS
from schemas.fleet_events import EVENT_TYPES as FLEET_EVENTS
from schemas.ledger import Entry, Kind
from schemas.owner_events import EVENT_TYPES as OWNER_EVENTS
from schemas.registry_events import DevicesRegistered

EVENTS_PAGE: Final = 200
"""Events per transaction; one may register 500 devices."""

LEDGER_PAGE: Final = 1_000
"""Ledger rows read at once: a row may name one device or thousands."""

LEDGER_DEVICES: Final = 20_000
"""Devices whose rows one transaction of decisions touches, about."""

LANES: Final = 2
"""Connections that apply facts at once, on disjoint partitions: while one waits for the server, the other folds."""


class FactSource(Protocol):
    """Reads the topic again (``adapters.kafka.fact_log``)."""

    async def identity(self) -> LogIdentity: ...
    async def bounds(self, partitions: list[int]) -> dict[int, tuple[int, int]]: ...
    def read(self, spans: Mapping[int, tuple[int, int]], most: int) -> AsyncIterator[list[Delivery]]: ...
    async def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Cut:
    """Where the logs stand in one snapshot, as far as the live tables are made from them."""

    events: int
    decisions: int
    facts: Mapping[int, int]
    """Partition to the offset of the next record that is not projected yet."""
    identity: LogIdentity | None
    """Of the topic; None if no fact was ever projected."""

    def lag(self, behind: Cut) -> int:
        """Records of all logs between an earlier cut and this one."""
        facts = sum(end - behind.facts.get(partition, 0) for partition, end in self.facts.items())
        return self.events - behind.events + self.decisions - behind.decisions + facts


NOTHING: Final = Cut(0, 0, {}, None)


async def read_cut(conn: asyncpg.Connection, topic: str) -> Cut:
    """One statement, so one snapshot also outside of a transaction.

    Raises:
        LogDamageError: the topic was made anew, and not all of its partitions are read on in the new one.
    """
    found = await conn.fetch(
        "SELECT e.position AS events, l.position AS decisions, p.partition, p.next_offset, p.topic_id, p.cluster_id"
        " FROM event_head e CROSS JOIN ledger_head l"
        " LEFT JOIN projection_position p ON p.projection = $1 AND p.topic = $2 ORDER BY p.partition",
        PROJECTION,
        topic,
    )
    facts = {row["partition"]: row["next_offset"] for row in found if row["partition"] is not None}
    identities = {LogIdentity(row["cluster_id"], row["topic_id"]) for row in found} if facts else {None}
    if len(identities) > 1:
        raise LogDamageError(f"{topic}: the positions belong to {len(identities)} incarnations of the topic.")
    return Cut(found[0]["events"], found[0]["decisions"], facts, identities.pop())


class CatchUp:
    """Follows the logs from the checkpoint of an opened shadow. After an error it is worth nothing; the shadow is opened again."""

    def __init__(
        self,
        live: AsyncEngine,
        fresh: AsyncEngine,
        topic: str,
        shadow: Shadow,
        sources: Sequence[FactSource],
        *,
        batch: int,
        progress: Progress,
    ) -> None:
        """``fresh`` gives connections on which the shadow's tables hide the live ones; ``sources`` one reader per lane."""
        self._live = live
        self._fresh = fresh
        self._topic = topic
        self._epoch = shadow.epoch
        self._events_done = shadow.events
        self._decisions_done = shadow.decisions
        self._sources = sources
        self._batch = batch
        self._progress = progress
        self._campaigns: dict[str, c.Campaign] = {}
        self._ledger = LedgerReplay()
        self._lanes = [FactProjection(fresh, topic, judge=False) for _ in sources]
        self._offsets: dict[int, int] = {}

    async def follow(self, cut: Cut) -> None:
        """Bring the shadow to ``cut``, which is not earlier than any before it."""
        while self._events_done < cut.events:
            await self._events(cut.events)
        while self._decisions_done < cut.decisions:
            await self._decisions(cut.decisions)
        await self._facts(cut)

    # ---- events

    async def _events(self, end: int) -> None:
        async with transaction(self._fresh) as conn:
            page = await event_log.read_all(conn, self._events_done, EVENTS_PAGE)
            page = [item for item in page if item.position <= end]
            for item in page:
                if item.type in CAMPAIGN_EVENTS:
                    campaign = c.evolve(await self._campaign(conn, item), item.event)
                    self._campaigns[item.stream] = campaign
                    await campaigns.project(conn, campaign, item)
                elif item.type in FLEET_EVENTS:
                    await fleet_stop.project(conn, item)
                elif item.type in OWNER_EVENTS:
                    await owners.project(conn, item)
                else:
                    await registry.project(conn, item)
            done = page[-1].position
            await move(conn, "events", self._epoch, self._events_done, done)
            failpoints.hit("rebuild.before_commit")
        self._events_done = done
        self._progress("events", done, end)

    async def _campaign(self, conn: asyncpg.Connection, item: event_log.Recorded) -> c.Campaign:
        known = self._campaigns.get(item.stream)
        if known is not None or item.version == 1:
            return known or c.Campaign()
        # Its earlier events were followed before this process began.
        earlier = await event_log.read_stream(conn, item.stream)
        return c.fold([before.event for before in earlier if before.version < item.version])

    # ---- decisions

    async def _decisions(self, end: int) -> None:
        async with driver(self._live) as conn:
            page = await _whole_enrolments(conn, self._decisions_done)
        for run in _runs([entry for entry in page if entry.position <= end], LEDGER_DEVICES):
            done = run[-1].position
            async with transaction(self._fresh) as conn:
                await self._ledger.apply(conn, run)
                await move(conn, "decisions", self._epoch, self._decisions_done, done)
                failpoints.hit("rebuild.before_commit")
            self._decisions_done = done
            self._progress("decisions", done, end)

    # ---- facts

    async def _facts(self, cut: Cut) -> None:
        if cut.identity is None:
            return
        if cut.facts.keys() - self._offsets.keys():
            await self._claim(cut)
        shares = [
            {p: (self._offsets[p], end) for p, end in sorted(cut.facts.items()) if self._lane(p) == lane}
            for lane in range(len(self._lanes))
        ]
        total = sum(cut.facts.values())
        try:
            async with asyncio.TaskGroup() as group:
                for lane, share in enumerate(shares):
                    spans = {p: (start, end) for p, (start, end) in share.items() if start < end}
                    if spans:
                        group.create_task(self._lane_facts(lane, spans, total))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors

    def _lane(self, partition: int) -> int:
        return partition % len(self._lanes)

    async def _claim(self, cut: Cut) -> None:
        assert cut.identity is not None
        source = self._sources[0]
        identity = await source.identity()
        if identity != cut.identity:
            raise LogDamageError(
                f"{self._topic}: the projection has read id {cut.identity.topic_id} of cluster {cut.identity.cluster_id},"
                f" the broker has {identity.topic_id} of {identity.cluster_id}."
            )
        async with transaction(self._fresh) as conn:
            await check_identity(conn, self._topic, identity)
            await fact_archive.restore(conn, PROJECTION, self._topic, identity, cut.facts)
        bounds = await source.bounds(list(cut.facts))
        for partition, (_, end) in bounds.items():
            if end < cut.facts[partition]:
                raise LogDamageError(
                    f"{self._topic}/{partition}: the log ends at {end}, the projection has read up to {cut.facts[partition]}."
                )
        for lane, projection in enumerate(self._lanes):
            own = {p: limits for p, limits in bounds.items() if self._lane(p) == lane}
            self._offsets |= await projection.claim(identity, own)

    async def _lane_facts(self, lane: int, spans: Mapping[int, tuple[int, int]], total: int) -> None:
        async for deliveries in self._sources[lane].read(spans, self._batch):
            await self._lanes[lane].apply(deliveries)
            for item in deliveries:
                self._offsets[item.partition] = item.next_offset
            self._progress("facts", sum(self._offsets.values()), total)


async def _whole_enrolments(conn: asyncpg.Connection, after: int) -> list[Entry]:
    """A page of the ledger that splits no enrolment: the rows of one are consecutive, because one transaction appended them."""
    page = await ledger.read(conn, after, LEDGER_PAGE)
    while page[-1].kind is Kind.ENROL:
        more = await ledger.read(conn, page[-1].position, LEDGER_PAGE)
        if not more:
            break
        page += more
    return page


def _runs(page: Sequence[Entry], devices: int) -> list[list[Entry]]:
    """Cut a page into runs of about as many devices, enrolments whole."""
    runs: list[list[Entry]] = []
    size = devices
    for entry in page:
        enrols = entry.kind is Kind.ENROL
        if size >= devices and not (enrols and runs and runs[-1][-1].kind is Kind.ENROL):
            runs.append([])
            size = 0
        runs[-1].append(entry)
        size += len(entry.device_nos)
    return runs


_FACTS_SINCE: Final = f"""SELECT DISTINCT t.device_no, t.campaign_no FROM unnest($1::int[], $2::bigint[]) u(p, o)
JOIN {SHADOW}.timeline t ON t."partition" = u.p AND t."offset" >= u.o LIMIT $3"""
_DECISIONS_SINCE: Final = "SELECT campaign_no, device_nos FROM decision_ledger WHERE position > $1 LIMIT $2"
_EVENTS_SINCE: Final = "SELECT stream, type, data FROM event_log WHERE position > $1 LIMIT $2"


async def changed_since(conn: asyncpg.Connection, cut: Cut, most: int) -> Changed | None:
    """What the logs changed from ``cut`` to where the shadow is; None if it is more than about ``most`` devices or records."""
    changed = Changed(offsets=cut.facts)
    facts = await conn.fetch(_FACTS_SINCE, list(cut.facts), list(cut.facts.values()), most)
    decisions = await conn.fetch(_DECISIONS_SINCE, cut.decisions, most)
    events = await conn.fetch(_EVENTS_SINCE, cut.events, most)
    for row in facts:
        changed.devices.add(row["device_no"])
        if row["campaign_no"] is not None:
            changed.campaigns.add(row["campaign_no"])
    for row in decisions:
        changed.devices.update(row["device_nos"])
        changed.campaigns.add(row["campaign_no"])
    for row in events:
        if row["type"] == DevicesRegistered.__name__:
            changed.devices.update(device["device_no"] for device in row["data"]["devices"])
        elif row["type"] in FLEET_EVENTS:
            changed.campaigns.add(FLEET)
        elif row["type"] in OWNER_EVENTS:
            changed.devices.add(row["data"]["device_no"])
    ids = [row["stream"].removeprefix("campaign/") for row in events if row["type"] in CAMPAIGN_EVENTS]
    nos = await conn.fetch("SELECT campaign_no FROM campaign WHERE campaign_id = ANY($1::text[])", ids)
    changed.campaigns.update(row["campaign_no"] for row in nos)
    small = max(len(facts), len(decisions), len(events), len(changed.devices) + 1) < most
    return changed if small else None
