"""The decision ledger, applied to the projections again: what a rebuild does with its rows.

Gives the rows that the deciding transactions gave, because both use the domain's functions on the same records. Many ledger rows are
applied at once: what they say of one device is folded in their order, and its rows are read once and written once.

Queue and slots are written as they are after the last of these rows. An earlier campaign's row may still hold a slot here because its
end is a fact that is not replayed yet: the slot is the later one's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby

import asyncpg
import msgspec

from orchestrator.adapters.sql import enrolment, joining, retrying, rows
from orchestrator.adapters.sql.rules import CampaignRules, RulesCache
from orchestrator.domain.assignment import (
    Assignment,
    Offer,
    State,
    cancel_requested,
    expiry,
    loss,
    observe,
    offered,
    offered_again,
    start,
    withdrawn,
)
from schemas.ledger import Cause, Entry, Kind

SHARD = 103
"""Counter shard of replayed decisions."""

_UNQUEUE = """DELETE FROM offer_queue q USING unnest($1::int[], $2::int[]) u(campaign, device)
WHERE q.campaign_no = u.campaign AND q.device_no = u.device RETURNING q.campaign_no, q.device_no, q.stratum"""


class LedgerReplay:
    """Applies ledger rows in order."""

    def __init__(self) -> None:
        self._cache = RulesCache()

    async def apply(self, conn: asyncpg.Connection, entries: Sequence[Entry]) -> None:
        """Apply ``entries`` in the caller's transaction. The rows of one enrolment must not be split over calls."""
        rules = await self._cache.get(conn, {entry.campaign_no for entry in entries})
        for enrols, group in groupby(entries, lambda entry: entry.kind is Kind.ENROL):
            run = list(group)
            if enrols:
                await _enrol(conn, rules, run)
            else:
                await _decide(conn, rules, run)


async def _enrol(conn: asyncpg.Connection, rules: dict[int, CampaignRules], entries: Sequence[Entry]) -> None:
    phases: dict[tuple[int, int], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    late = [entry for entry in entries if entry.cause is Cause.JOINED]
    for entry in entries:
        if entry.cause is Cause.JOINED:
            continue
        assert entry.phase is not None
        assert entry.stratum is not None
        strata = rules[entry.campaign_no].strata
        phases[entry.campaign_no, entry.phase][strata[entry.stratum]] += entry.device_nos
    for (campaign_no, phase), strata in sorted(phases.items()):
        if phase != enrolment.HOLDBACK:
            queued = enrolment.queue_rows(rules[campaign_no], phase, strata)
            await conn.copy_records_to_table("offer_queue", columns=rows.QUEUED, records=list(queued))
    for campaign_no in sorted({no for no, _ in phases}):
        keys = [(campaign_no, i, key) for i, key in enumerate(rules[campaign_no].strata)]
        await conn.copy_records_to_table("stratum", records=keys)
    if late:
        await conn.copy_records_to_table("offer_queue", columns=rows.QUEUED, records=list(joining.queue_rows(late)))


async def _decide(conn: asyncpg.Connection, rules: dict[int, CampaignRules], entries: Sequence[Entry]) -> None:
    found = await rows.lock(conn, _keys(entries))
    strata = await _unqueue(conn, entries)
    changes = rows.Changes(rules, SHARD)
    queued: dict[rows.Key, tuple[int, ...]] = {}
    offered_to: set[int] = set()
    for entry in entries:
        for index, device in enumerate(entry.device_nos):
            key = device, entry.campaign_no
            old = found.get(key)
            if entry.kind is Kind.OFFER:
                queued.pop(key, None)
                offered_to.add(device)
                new = _offered(entry, index, old, strata)
            elif entry.kind is Kind.UNQUEUE:
                queued.pop(key, None)
                continue
            elif old is None:
                raise LookupError(f"ledger {entry.position}: {entry.kind} before an offer to device {device}")
            elif entry.kind is Kind.RETRY:
                queued[key] = retrying.replayed(old, entry)
                continue
            else:
                new = _observed(old, entry)
            changes.add(old, new)
            found[key] = new
    await changes.write(conn)
    await rows.settle_slots(conn, offered_to)
    if queued:
        await conn.copy_records_to_table("offer_queue", columns=rows.QUEUED, records=list(queued.values()))


def _keys(entries: Sequence[Entry]) -> Iterator[rows.Key]:
    for entry in entries:
        for device in entry.device_nos:
            yield device, entry.campaign_no


async def _unqueue(conn: asyncpg.Connection, entries: Sequence[Entry]) -> dict[rows.Key, int]:
    """Take what is offered, or no longer waits, out of the queue; the strata that it named."""
    keys = list(_keys([entry for entry in entries if entry.kind in {Kind.OFFER, Kind.UNQUEUE}]))
    if not keys:
        return {}
    taken = await conn.fetch(_UNQUEUE, [campaign for _, campaign in keys], [device for device, _ in keys])
    return {(row["device_no"], row["campaign_no"]): row["stratum"] for row in taken}


def _offered(entry: Entry, index: int, old: Assignment | None, strata: dict[rows.Key, int]) -> Assignment:
    assert entry.attempt is not None
    assert entry.action_base is not None
    assert entry.phase is not None
    offer = Offer(
        attempt=entry.attempt,
        action_id=entry.action_base + index,
        gate_epoch=entry.gate_epoch or 0,
        at=entry.at,
    )
    if old is not None:
        return offered_again(old, offer)
    device = entry.device_nos[index]
    return offered(entry.campaign_no, device, entry.phase, strata[device, entry.campaign_no], offer)


def _observed(row: Assignment, entry: Entry) -> Assignment:
    attempt = entry.attempt or 0
    match entry.kind:
        case Kind.START:
            return observe(row, start(attempt, entry.at, entry.gate_epoch))
        case Kind.EXPIRE:
            return observe(row, expiry(attempt, entry.cause or Cause.OFFER_TTL, entry.at))
        case Kind.WITHDRAW:
            return withdrawn(row, attempt, entry.cause or Cause.HALTED, entry.at)
        case Kind.CANCEL:
            return cancel_requested(row, attempt, entry.at)
        case Kind.UNKNOWN:
            assert entry.seen is not msgspec.UNSET
            return observe(row, loss(attempt, State(entry.seen), entry.at))
        case _:
            return row
