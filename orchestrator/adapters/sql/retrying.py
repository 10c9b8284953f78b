"""Further attempts: who waits for one, and who no longer does.

That an attempt ended is a fact, that another one follows is a decision. So the projector only files a device whose row gives a reason
for a retry, or no longer gives one (``due_queue``, what ``retry``); the sweep asks the domain about the row as it then is, and writes
the ledger's ``retry`` and the offer queue's entry, or the ledger's ``unqueue``. Reports may still come when the entry stands: the
slice asks once more before it offers.

An entry's place in the queue follows from its device, so there is at most one for a device in a campaign. Nothing is decided of a
campaign that has ended; of one that is paused or halted it is, and offered once it runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

import asyncpg

from orchestrator.adapters.sql import rows
from orchestrator.adapters.sql.rules import CampaignRules
from orchestrator.domain.assignment import Assignment
from orchestrator.domain.campaign import TERMINAL
from orchestrator.domain.retry import ENDED, Retry, again, spread, stands
from schemas.ledger import Cause, Entry, Kind

RETRY_RANK: Final = 1_000_000_000
"""Queued again behind everything that waits for its first offer; plus the device's number it is unique within a phase."""

RETRY: Final = "retry"
"""What is filed in ``due_queue``."""

AT_ONCE: Final = 0
"""When it is due: a prefix of the key by which all that are filed of a campaign are found."""

_FILE: Final = """INSERT INTO due_queue (due_at, campaign_no, device_no, attempt, what)
SELECT $4, u.c, u.d, u.a, $5 FROM unnest($1::int[], $2::int[], $3::smallint[]) u(c, d, a)
JOIN control k ON k.campaign_no = u.c AND k.stratum = -1 AND k.state <> ALL($6::text[])
ORDER BY u.c, u.d ON CONFLICT DO NOTHING"""
_QUEUED: Final = """SELECT q.device_no, q.campaign_no FROM unnest($1::int[], $2::smallint[], $3::int[]) u(campaign_no, phase, rank)
JOIN offer_queue q USING (campaign_no, phase, rank)"""
# An entry that a slice has claimed is left to it: it asks about the row as this transaction leaves it.
_UNQUEUE: Final = """WITH c AS MATERIALIZED (
    SELECT q.phase, q.rank FROM offer_queue q JOIN unnest($2::smallint[], $3::int[]) u(phase, rank) USING (phase, rank)
    WHERE q.campaign_no = $1 ORDER BY q.phase, q.rank FOR UPDATE OF q SKIP LOCKED)
DELETE FROM offer_queue q USING c WHERE q.campaign_no = $1 AND q.phase = c.phase AND q.rank = c.rank RETURNING q.device_no"""
_PAUSED: Final = """SELECT count(*) AS n, count(*) FILTER (WHERE a.first_started_at IS NULL) AS unstarted
FROM (SELECT device_no, campaign_no FROM offer_queue WHERE campaign_no = $1 AND phase = $2 AND stratum <> ALL($3::smallint[])
    AND rank >= $4 AND not_before > $5 AND withheld IS NULL LIMIT 1000) q JOIN assignment a USING (device_no, campaign_no)"""
_UNDECIDED: Final = """SELECT count(*) FROM (SELECT 1 FROM due_queue q JOIN assignment a USING (device_no, campaign_no)
    WHERE q.due_at = $4 AND q.campaign_no = $1 AND q.what = $5 AND a.phase = $2 AND a.stratum <> ALL($3::smallint[]) LIMIT 1000) d"""


def concerns(rules: CampaignRules, old: Assignment, new: Assignment) -> bool:
    """Whether a row's change gives a reason to try again, or takes it away."""
    if old is new or not (old.state in ENDED or new.state in ENDED):
        return False
    policy = rules.dossier.plan.retry
    return stands(policy, old) != stands(policy, new)


async def file(conn: asyncpg.Connection, ended: Iterable[Assignment]) -> None:
    """Ask the sweep to look at these rows, unless their campaign has ended."""
    keys = [(row.campaign_no, row.device_no, row.attempt) for row in ended]
    if keys:
        campaigns, devices, attempts = (list(column) for column in zip(*keys, strict=True))
        await conn.execute(_FILE, campaigns, devices, attempts, AT_ONCE, RETRY, sorted(TERMINAL))


async def queued(conn: asyncpg.Connection, found: Sequence[Assignment]) -> set[rows.Key]:
    """Those of these rows whose device waits in the offer queue for a further attempt."""
    keys = [(row.campaign_no, row.phase, RETRY_RANK + row.device_no) for row in found]
    if not keys:
        return set()
    waits = await conn.fetch(_QUEUED, *(list(column) for column in zip(*keys, strict=True)))
    return {(row["device_no"], row["campaign_no"]) for row in waits}


async def decide(
    conn: asyncpg.Connection, rules: CampaignRules, ended: Sequence[Assignment], now: int
) -> list[tuple[Assignment, Retry | None]]:
    """The retry of each of these locked rows that needs one; None for those that are taken out of the queue here."""
    if not ended:
        return []
    policy = rules.dossier.plan.retry
    waits = {device for device, _ in await queued(conn, ended)}
    decided: list[tuple[Assignment, Retry | None]] = []
    for row in ended:
        retry = again(policy, row, now, rules.offer_ttl)
        if retry is not None and row.device_no not in waits:
            decided.append((row, retry))
    over = [row for row in ended if row.device_no in waits and not stands(policy, row)]
    if over:
        places = [row.phase for row in over], [RETRY_RANK + row.device_no for row in over]
        taken = {row["device_no"] for row in await conn.fetch(_UNQUEUE, rules.campaign_no, *places)}
        decided += [(row, None) for row in over if row.device_no in taken]
    return decided


async def queue(conn: asyncpg.Connection, retries: Iterable[tuple[Assignment, Retry]], now: int) -> None:
    """Put these into the offer queue."""
    records = [
        _record(row, retry.attempt, now, retry.not_before, spreads=retry.cause is not None)
        for row, retry in sorted(retries, key=lambda item: item[0].device_no)
    ]
    if records:
        await conn.copy_records_to_table("offer_queue", columns=rows.QUEUED, records=records)


def replayed(row: Assignment, entry: Entry) -> tuple[int, ...]:
    """The queue row that a ``retry`` of the ledger made."""
    not_before = entry.not_before or 0
    return _record(row, entry.attempt or 0, entry.at, not_before, spreads=entry.cause is not None)


def _record(row: Assignment, attempt: int, now: int, not_before: int, *, spreads: bool) -> tuple[int, ...]:
    at = spread(now, not_before, row.campaign_no, row.device_no) if spreads else not_before
    return row.campaign_no, row.phase, RETRY_RANK + row.device_no, row.device_no, row.stratum, attempt, at


# --------------------------------------------------------------------------- the slice


def over(rules: CampaignRules, existing: Mapping[rows.Key, Assignment]) -> set[int]:
    """Devices whose row, as it is now, is no reason for the further attempt that they were claimed for."""
    policy = rules.dossier.plan.retry
    return {device for (device, _), row in existing.items() if not stands(policy, row)}


async def give_back(conn: asyncpg.Connection, campaign_no: int, devices: AbstractSet[int]) -> None:
    """Free the slots that this transaction took for them."""
    if devices:
        await conn.execute(
            "DELETE FROM device_slot WHERE device_no = ANY($1::int[]) AND campaign_no = $2",
            sorted(devices),
            campaign_no,
        )


def unqueued(
    campaign_no: int,
    devices: Iterable[int],
    attempts: Mapping[int, int],
    causes: Mapping[int, Cause],
    epoch: int,
    now: int,
) -> list[Entry]:
    """What the ledger says of devices that a slice claimed and does not offer to; those without a cause had a late report."""
    alike: dict[tuple[int, Cause | None], list[int]] = defaultdict(list)
    for device in sorted(devices):
        alike[attempts[device], causes.get(device)].append(device)
    return [
        Entry(
            campaign_no=campaign_no,
            kind=Kind.UNQUEUE,
            device_nos=alike[attempt, cause],
            at=now,
            gate_epoch=epoch,
            attempt=attempt,
            cause=cause,
        )
        for attempt, cause in sorted(alike, key=lambda key: (key[0], key[1] or ""))
    ]


# --------------------------------------------------------------------------- reading


async def waiting(
    conn: asyncpg.Connection, campaign_no: int, phase: int, halted: Collection[int], now: int
) -> tuple[int, int]:
    """Devices of a phase whose next attempt is not due yet or is still to be decided, and those of the former that never started.

    Counted up to 1,000 of each.
    """
    scope = campaign_no, phase, list(halted)
    paused = await conn.fetchrow(_PAUSED, *scope, RETRY_RANK, now)
    undecided: Any = await conn.fetchval(_UNDECIDED, *scope, AT_ONCE, RETRY)
    assert paused is not None
    return paused["n"] + undecided, paused["unstarted"]
