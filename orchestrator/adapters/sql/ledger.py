"""The decision ledger: appended by every transaction that offers, starts, expires or withdraws; hash-chained.

Its lock is held to the commit, so nothing follows an append but the event log and COMMIT.

Action ids are ``action_base + index``: int32 (SWUpdate, Zephyr), from 1,000,001 up, never reused, and no range holds a number whose
digits after the first are all zeros (old Zephyr clients drop the first digit in a cancel).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import asyncpg
import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.sql.engine import transaction
from orchestrator.adapters.sql.locks import own_ledger
from orchestrator.errors import ConflictError
from schemas.ledger import Cause, Entry, Kind

LAST_ACTION = 2**31 - 1

_COLUMNS = (
    "position, campaign_no, kind, phase, stratum, gate_epoch, attempt, cause, device_nos, action_base, control_version,"
    " command_id, not_before, seen, at"
)


class ActionIdsExhaustedError(ConflictError):
    """All int32 action ids are used up."""

    code = "ledger.action_ids.exhausted"
    remedy = "Clients parse action ids as int32; a fresh deployment starts a fresh range."


def next_base(free: int, count: int) -> int:
    """First base at or after ``free`` whose range of ``count`` ids holds no d·10^k."""
    while True:
        power = 10 ** (len(str(free)) - 1)
        trap = free if free % power == 0 else (free // power + 1) * power
        if trap >= free + count:
            return free
        free = trap + 1


def _chain(prev: bytes, entry: Entry) -> bytes:
    return sha256(prev + msgspec.json.encode(entry, order="sorted")).digest()


async def reserve_actions(engine: AsyncEngine, count: int) -> int:
    """Reserve ``count`` action ids for ever and return the first; in a transaction of its own, so no slice waits for another.

    Raises ActionIdsExhaustedError.
    """
    async with transaction(engine) as conn:
        free: Any = await conn.fetchval("SELECT next_action FROM action_head FOR UPDATE")
        base = next_base(free, count)
        if base + count - 1 > LAST_ACTION:
            raise ActionIdsExhaustedError
        await conn.execute("UPDATE action_head SET next_action = $1", base + count)
        return base


async def append(conn: asyncpg.Connection, entries: Sequence[Entry]) -> int:
    """Append rows inside the caller's transaction; returns the head's position."""
    await own_ledger(conn)
    head = await conn.fetchrow("SELECT position, hash FROM ledger_head")
    assert head is not None
    position, prev = head["position"], bytes(head["hash"])
    rows: list[tuple[Any, ...]] = []
    for entry in entries:
        position += 1
        placed = msgspec.structs.replace(entry, position=position)
        digest = _chain(prev, placed)
        rows.append(
            (
                position,
                entry.campaign_no,
                str(entry.kind),
                entry.phase,
                entry.stratum,
                entry.gate_epoch,
                entry.attempt,
                None if entry.cause is None else str(entry.cause),
                entry.device_nos,
                entry.action_base,
                entry.control_version,
                entry.command_id,
                entry.not_before,
                None if entry.seen is msgspec.UNSET else entry.seen,
                entry.at,
                prev,
                digest,
            )
        )
        prev = digest
    await conn.executemany(
        f"INSERT INTO decision_ledger ({_COLUMNS}, prev_hash, hash)"
        " VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17)",
        rows,
    )
    await conn.execute("UPDATE ledger_head SET position = $1, hash = $2", position, prev)
    return position


async def head(conn: asyncpg.Connection) -> tuple[int, str]:
    """(position, hex hash) of the last committed row. Stable for a campaign while its control lock is held exclusively."""
    row = await conn.fetchrow("SELECT position, hash FROM ledger_head")
    assert row is not None
    return row["position"], bytes(row["hash"]).hex()


def entry(row: asyncpg.Record) -> Entry:
    """A row as read with :func:`read`."""
    return Entry(
        campaign_no=row["campaign_no"],
        kind=Kind(row["kind"]),
        device_nos=row["device_nos"],
        at=row["at"],
        phase=row["phase"],
        stratum=row["stratum"],
        gate_epoch=row["gate_epoch"],
        attempt=row["attempt"],
        cause=None if row["cause"] is None else Cause(row["cause"]),
        action_base=row["action_base"],
        control_version=row["control_version"],
        command_id=row["command_id"],
        not_before=row["not_before"],
        seen=msgspec.UNSET if row["seen"] is None else row["seen"],
        position=row["position"],
    )


async def read(conn: asyncpg.Connection, after_position: int, limit: int) -> list[Entry]:
    """Rows in order, oldest first."""
    rows = await conn.fetch(
        f"SELECT {_COLUMNS} FROM decision_ledger WHERE position > $1 ORDER BY position LIMIT $2", after_position, limit
    )
    return [entry(row) for row in rows]


async def verify_chain(conn: asyncpg.Connection) -> tuple[int, int | None]:
    """(rows checked, position of the first row whose hash does not follow, or None)."""
    prev, checked = b"", 0
    async for row in conn.cursor(f"SELECT {_COLUMNS}, prev_hash, hash FROM decision_ledger ORDER BY position"):
        if bytes(row["prev_hash"]) != prev or _chain(prev, entry(row)) != bytes(row["hash"]):
            return checked, row["position"]
        prev, checked = bytes(row["hash"]), checked + 1
    return checked, None
