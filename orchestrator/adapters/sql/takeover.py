"""Offers that pass from one campaign to another of higher priority: the older one's part of the slice that takes them.

The older assignment ends as superseded in the transaction that offers the newer one, so there is no moment at which a device has two,
and none at which it could start the older one although the newer one was given its slot. A start locks the same row: whoever commits
first wins, and the other finds the row changed. The slot changes hands where rows are written (``rows.settle_slots``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import asyncpg

from orchestrator.adapters.sql import rows
from orchestrator.adapters.sql.rules import CampaignRules
from orchestrator.domain.assignment import Assignment, withdrawn
from orchestrator.domain.conflict import may_take_over
from schemas.ledger import Cause, Entry, Kind

# A device that has answered, though the answer is not projected yet, is no longer waiting. One with a second row that holds it (in
# trial of a campaign that wrote it off) is nobody's to take.
_TAKEABLE = f"""SELECT s.device_no FROM unnest($1::int[], $2::int[], $3::bigint[]) u(d, c, action)
JOIN device_slot s ON s.device_no = u.d AND s.campaign_no = u.c
WHERE NOT EXISTS (SELECT FROM report_overlay o WHERE o.device_no = u.d AND o.action_id = u.action)
AND NOT EXISTS (SELECT FROM assignment a WHERE a.device_no = u.d AND a.campaign_no <> u.c AND {rows.HOLDS})"""


async def takeable(
    conn: asyncpg.Connection,
    rules: CampaignRules,
    holders: Mapping[int, CampaignRules],
    held: Mapping[int, int],
    locked: Mapping[rows.Key, Assignment],
) -> dict[int, Assignment]:
    """The assignments that give their devices up, of those that hold ``held`` (device to campaign); their rows are locked."""
    plan = rules.dossier.plan
    waiting = [
        row
        for row in (locked.get((device, no)) for device, no in sorted(held.items()))
        if row is not None
        and may_take_over(plan.supersede, plan.priority, row, holders[row.campaign_no].dossier.plan.priority)
    ]
    found = await conn.fetch(
        _TAKEABLE,
        [row.device_no for row in waiting],
        [row.campaign_no for row in waiting],
        [row.action_id for row in waiting],
    )
    free = {row["device_no"] for row in found}
    return {row.device_no: row for row in waiting if row.device_no in free}


def withdraw(changes: rows.Changes, taken: Mapping[int, Assignment], now: int) -> list[Entry]:
    """End these assignments; their ledger rows, without the version of control."""
    entries: dict[tuple[int, int], list[int]] = defaultdict(list)
    for device, row in sorted(taken.items()):
        changes.add(row, withdrawn(row, row.attempt, Cause.SUPERSEDED, now))
        entries[row.campaign_no, row.attempt].append(device)
    return [
        Entry(
            campaign_no=campaign_no,
            kind=Kind.WITHDRAW,
            device_nos=devices,
            at=now,
            attempt=attempt,
            cause=Cause.SUPERSEDED,
        )
        for (campaign_no, attempt), devices in sorted(entries.items())
    ]
