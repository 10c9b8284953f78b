"""The decision ledger, applied to the projections again: what a rebuild does with each row.

Gives the rows that the deciding transactions gave, because both use the domain's functions on the same records.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import asyncpg

from orchestrator.adapters.sql import enrolment, rows
from orchestrator.adapters.sql.rules import CampaignRules, RulesCache
from orchestrator.adapters.sql.sweep import retry_row
from orchestrator.domain.assignment import (
    Assignment,
    Offer,
    cancel_requested,
    expiry,
    observe,
    offered,
    offered_again,
    start,
    withdrawal,
)
from schemas.ledger import Cause, Entry, Kind

SHARD = 103
"""Counter shard of replayed decisions."""


class LedgerReplay:
    """Applies ledger rows in order."""

    def __init__(self) -> None:
        self._cache = RulesCache()

    async def apply(self, conn: asyncpg.Connection, entries: Sequence[Entry]) -> None:
        """Apply ``entries`` in the caller's transaction. The rows of one enrolment must not be split over calls."""
        rules = await self._cache.get(conn, {entry.campaign_no for entry in entries})
        enrolments: dict[tuple[int, int], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for entry in entries:
            own = rules[entry.campaign_no]
            match entry.kind:
                case Kind.ENROL:
                    assert entry.phase is not None
                    assert entry.stratum is not None
                    enrolments[entry.campaign_no, entry.phase][own.strata[entry.stratum]] += entry.device_nos
                    continue
                case Kind.OFFER:
                    await self._enrol(conn, rules, enrolments)
                    await self._offer(conn, own, entry)
                case _:
                    await self._observe(conn, own, entry)
        await self._enrol(conn, rules, enrolments)

    @staticmethod
    async def _enrol(
        conn: asyncpg.Connection,
        rules: dict[int, CampaignRules],
        enrolments: dict[tuple[int, int], dict[str, list[int]]],
    ) -> None:
        for (campaign_no, phase), strata in sorted(enrolments.items()):
            if phase == enrolment.HOLDBACK:
                continue
            records = list(enrolment.queue_rows(rules[campaign_no], phase, strata))
            await conn.copy_records_to_table("offer_queue", records=records)
        for campaign_no in sorted({no for no, _ in enrolments}):
            strata_rows = [(campaign_no, i, key) for i, key in enumerate(rules[campaign_no].strata)]
            await conn.copy_records_to_table("stratum", records=strata_rows)
        enrolments.clear()

    @staticmethod
    async def _offer(conn: asyncpg.Connection, rules: CampaignRules, entry: Entry) -> None:
        assert entry.attempt is not None
        assert entry.action_base is not None
        assert entry.phase is not None
        taken = await conn.fetch(
            "DELETE FROM offer_queue WHERE campaign_no = $1 AND phase = $2 AND device_no = ANY($3::int[])"
            " RETURNING device_no, stratum",
            entry.campaign_no,
            entry.phase,
            entry.device_nos,
        )
        strata = {row["device_no"]: row["stratum"] for row in taken}
        found = await rows.lock(conn, [(device, entry.campaign_no) for device in entry.device_nos])
        changes = rows.Changes({entry.campaign_no: rules}, SHARD)
        for index, device in enumerate(entry.device_nos):
            offer = Offer(
                attempt=entry.attempt,
                action_id=entry.action_base + index,
                gate_epoch=entry.gate_epoch or 0,
                at=entry.at,
            )
            old = found.get((device, entry.campaign_no))
            new = (
                offered(entry.campaign_no, device, entry.phase, strata[device], offer)
                if old is None
                else offered_again(old, offer)
            )
            changes.add(old, new)
        # An earlier campaign's end may be a fact that is not replayed yet; the later offer shows that the slot was free.
        await conn.execute(
            "INSERT INTO device_slot (device_no, campaign_no, attempt) SELECT d, $2, $3 FROM unnest($1::int[]) d"
            " ON CONFLICT (device_no) DO UPDATE SET campaign_no = excluded.campaign_no, attempt = excluded.attempt",
            entry.device_nos,
            entry.campaign_no,
            entry.attempt,
        )
        await changes.write(conn)

    @staticmethod
    async def _observe(conn: asyncpg.Connection, rules: CampaignRules, entry: Entry) -> None:
        found = await rows.lock(conn, [(device, entry.campaign_no) for device in entry.device_nos])
        if entry.kind is Kind.RETRY:
            records = [retry_row(row, entry.attempt or 0, entry.not_before or 0) for row in found.values()]
            await conn.copy_records_to_table("offer_queue", records=records)
            return
        changes = rows.Changes({entry.campaign_no: rules}, SHARD)
        for old in found.values():
            changes.add(old, _observed(old, entry))
        await changes.write(conn)


def _observed(row: Assignment, entry: Entry) -> Assignment:
    attempt = entry.attempt or 0
    match entry.kind:
        case Kind.START:
            return observe(row, start(attempt, entry.at, entry.gate_epoch))
        case Kind.EXPIRE:
            return observe(row, expiry(attempt, entry.cause or Cause.OFFER_TTL, entry.at))
        case Kind.WITHDRAW:
            return observe(row, withdrawal(attempt, entry.cause or Cause.HALTED, entry.at))
        case Kind.CANCEL:
            return cancel_requested(row, attempt, entry.at)
        case _:
            return row
