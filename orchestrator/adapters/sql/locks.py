"""The order in which transactions take locks, and the advisory locks among them.

Order: projection_position → pacing → budget → offer_queue / due_queue (SKIP LOCKED) → device_slot insert → assignment (by
device_no, campaign_no) → device_slot delete → counters (by key) → gate → control → ledger head → event log. Every transaction
follows it.
Slots stand on both sides of the rows without harm: an offer inserts only where no slot is, a change of hands happens only where one
is, by the row's locker. It may look at the device's row of another campaign, out of order: of a deadlock one side tries again.
A slice that takes offers over locks the rows of both campaigns in the one order, and writes the other's counters beside its own.

``HEALTH`` keeps two workers from counting the same reports; it comes first, and only control, ledger and event log are taken under it.

Control is a *fair* lock: row locks let new sharers overtake a waiting exclusive locker, so a halt could starve; advisory locks queue.
"""

from __future__ import annotations

import asyncpg

CONTROL = 7001
LEDGER = 7002
EVENT_LOG = 7003
RELAY = 7004
GATE = 7005
REBUILD = 7006
BUDGET = 7007
HEALTH = 7008


FLEET = 0
"""In place of a campaign's number: control over all of them. Campaigns count from 1."""


async def share_control(conn: asyncpg.Connection, campaign_no: int) -> None:
    """Taken by every transaction that offers or starts, before it reads ``control`` in a new statement."""
    await conn.execute(
        "SELECT pg_advisory_xact_lock_shared($1, $2), pg_advisory_xact_lock_shared($1, $3)",
        CONTROL,
        FLEET,
        campaign_no,
    )


async def own_control(conn: asyncpg.Connection, campaign_no: int) -> None:
    """Taken by every transaction that changes ``control``: when it is granted, no offer or start is in flight."""
    await conn.execute("SELECT pg_advisory_xact_lock($1, $2)", CONTROL, campaign_no)


async def own_budget(conn: asyncpg.Connection) -> None:
    """Taken by the slices of campaigns with a budget, before they count what is in flight, and held to the commit.

    Of two slices the second sees what the first granted, whatever campaigns they belong to. Slices without a budget do not take it:
    what they have committed counts, and what they commit meanwhile comes after.
    """
    await conn.execute("SELECT pg_advisory_xact_lock($1)", BUDGET)


async def own_ledger(conn: asyncpg.Connection) -> None:
    """Held to the commit, so ledger positions become visible in order."""
    await conn.execute("SELECT pg_advisory_xact_lock($1)", LEDGER)


async def own_event_log(conn: asyncpg.Connection) -> None:
    """Held to the commit, so event positions become visible in order; the last lock of any transaction."""
    await conn.execute("SELECT pg_advisory_xact_lock($1)", EVENT_LOG)
