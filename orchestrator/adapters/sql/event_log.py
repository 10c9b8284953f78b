"""The event log: append-only, one version line per stream, one hash chain over all.

``hash = sha256(prev_hash ‖ canonical JSON of the row without hashes)``; anyone with the rows can verify it. Positions become
visible in order because the appender holds the log's lock to its commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import asyncpg
import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.clock import now_ms, uuid7
from orchestrator.adapters.sql.engine import driver, transaction
from orchestrator.adapters.sql.locks import own_event_log
from orchestrator.app.ports import Meta, Recorded, VersionConflictError
from schemas import campaign_events, fleet_events, log_events, owner_events, registry_events

TYPES: dict[str, type[msgspec.Struct]] = {
    **campaign_events.EVENT_TYPES,
    **registry_events.EVENT_TYPES,
    **log_events.EVENT_TYPES,
    **fleet_events.EVENT_TYPES,
    **owner_events.EVENT_TYPES,
}

_COLUMNS = "position, stream, version, event_id, type, v, data, meta, command_id, ordinal, recorded_at, prev_hash, hash"


def _chain(prev: bytes, row: dict[str, Any]) -> bytes:
    return sha256(prev + msgspec.json.encode(row, order="sorted")).digest()


def _recorded(row: asyncpg.Record) -> Recorded:
    return Recorded(
        position=row["position"],
        stream=row["stream"],
        version=row["version"],
        event_id=row["event_id"],
        type=row["type"],
        event=msgspec.convert(row["data"], TYPES[row["type"]]),
        meta=msgspec.convert(row["meta"], Meta),
        command_id=row["command_id"],
        recorded_at=row["recorded_at"],
    )


async def append(
    conn: asyncpg.Connection,
    stream: str,
    expected_version: int,
    events: Sequence[msgspec.Struct],
    *,
    command_id: str,
    meta: Meta,
) -> list[Recorded]:
    """Append inside the caller's transaction, as its last statements before the commit.

    Raises VersionConflictError if the stream has moved since ``expected_version`` was read.
    """
    await own_event_log(conn)
    head = await conn.fetchrow("SELECT position, hash FROM event_head")
    assert head is not None
    current = await conn.fetchval("SELECT coalesce(max(version), 0) FROM event_log WHERE stream = $1", stream)
    if current != expected_version:
        raise VersionConflictError(f"Stream {stream} is at version {current}, expected {expected_version}.")
    position, prev, at = head["position"], bytes(head["hash"]), now_ms()
    rows: list[tuple[Any, ...]] = []
    for ordinal, event in enumerate(events):
        position += 1
        row: dict[str, Any] = {
            "position": position,
            "stream": stream,
            "version": expected_version + ordinal + 1,
            "event_id": uuid7(),
            "type": type(event).__name__,
            "v": 1,
            "data": msgspec.to_builtins(event),
            "meta": msgspec.to_builtins(meta),
            "command_id": command_id,
            "ordinal": ordinal,
            "recorded_at": at,
        }
        digest = _chain(prev, row)
        rows.append(
            (
                *(msgspec.json.encode(v).decode() if key in {"data", "meta"} else v for key, v in row.items()),
                prev,
                digest,
            )
        )
        prev = digest
    await conn.executemany(
        f"INSERT INTO event_log ({_COLUMNS}) VALUES ($1,$2,$3,$4,$5,$6,$7::jsonb,$8::jsonb,$9,$10,$11,$12,$13)", rows
    )
    await conn.execute("UPDATE event_head SET position = $1, hash = $2", position, prev)
    return [
        Recorded(
            position=row[0],
            stream=row[1],
            version=row[2],
            event_id=row[3],
            type=row[4],
            event=event,
            meta=meta,
            command_id=command_id,
            recorded_at=at,
        )
        for row, event in zip(rows, events, strict=True)
    ]


async def of_command(conn: asyncpg.Connection, command_id: str) -> list[Recorded]:
    """What a command has already caused; empty if it never took effect."""
    rows = await conn.fetch(f"SELECT {_COLUMNS} FROM event_log WHERE command_id = $1 ORDER BY ordinal", command_id)
    return [_recorded(row) for row in rows]


async def read_stream(conn: asyncpg.Connection, stream: str, after_version: int = 0) -> list[Recorded]:
    """A stream's events, oldest first."""
    rows = await conn.fetch(
        f"SELECT {_COLUMNS} FROM event_log WHERE stream = $1 AND version > $2 ORDER BY version", stream, after_version
    )
    return [_recorded(row) for row in rows]


async def read_all(
    conn: asyncpg.Connection, after_position: int, limit: int, stream: str | None = None
) -> list[Recorded]:
    """Events in the order of the log; a reader that remembers the last position misses none."""
    rows = await conn.fetch(
        f"SELECT {_COLUMNS} FROM event_log WHERE position > $1 AND ($3::text IS NULL OR stream = $3) ORDER BY position LIMIT $2",
        after_position,
        limit,
        stream,
    )
    return [_recorded(row) for row in rows]


class SqlEventLog:
    """``orchestrator.app.ports.EventLog`` on PostgreSQL: each call in a transaction of its own."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def append(
        self, stream: str, expected_version: int, events: Sequence[msgspec.Struct], *, command_id: str, meta: Meta
    ) -> list[Recorded]:
        async with transaction(self._engine) as conn:
            await own_event_log(conn)  # first, so that of two of the same command the second finds what the first did
            if done := await of_command(conn, command_id):
                return done
            return await append(conn, stream, expected_version, events, command_id=command_id, meta=meta)

    async def read_stream(self, stream: str, after_version: int = 0) -> list[Recorded]:
        async with driver(self._engine) as conn:
            return await read_stream(conn, stream, after_version)

    async def read_all(self, after_position: int, limit: int, stream: str | None = None) -> list[Recorded]:
        async with driver(self._engine) as conn:
            return await read_all(conn, after_position, limit, stream)

    async def verify_chain(self) -> tuple[int, int | None]:
        """See :func:`verify_chain`."""
        async with transaction(self._engine) as conn:
            return await verify_chain(conn)


async def verify_chain(conn: asyncpg.Connection) -> tuple[int, int | None]:
    """(rows checked, position of the first row whose hash does not follow, or None)."""
    prev, checked = b"", 0
    async for row in conn.cursor(f"SELECT {_COLUMNS} FROM event_log ORDER BY position"):
        body: dict[str, Any] = {key: row[key] for key in _COLUMNS.split(", ")[:-2]}
        if bytes(row["prev_hash"]) != prev or _chain(prev, body) != bytes(row["hash"]):
            return checked, row["position"]
        prev, checked = bytes(row["hash"]), checked + 1
    return checked, None
