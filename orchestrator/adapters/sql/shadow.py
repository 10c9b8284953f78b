"""The tables that a rebuild fills: a schema beside the live one, and in it how far each log has been followed.

Everything that moves a position commits together with the rows that follow from it, and only if the position is where the mover
believes it to be and nobody has opened the shadow since. So a rebuild may die at any point, or lose the last commits with the
database (they are not flushed one by one, but PostgreSQL loses only a tail of them): it goes on from the checkpoint.

A shadow is continued only by the code that began it, judged by its source, and on the logs that it was made from, judged by the
hashes at its positions and by the ids of topic and cluster.

While it is loading it lacks the indexes that only readers need; they are built over the finished tables, which costs less.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import asyncpg
from sqlalchemy import MetaData
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlmodel import SQLModel

import schemas
from orchestrator import domain
from orchestrator.adapters.sql import tables
from orchestrator.adapters.sql.comparison import COMPARED, LIVE, SHADOW, Progress
from orchestrator.adapters.sql.facts import PROJECTION
from orchestrator.adapters.sql.positions import FencedError, LogIdentity
from orchestrator.errors import ConflictError

REBUILT: Final = tuple(compared.table for compared in COMPARED)
"""The tables that a rebuild makes again."""

LARGE: Final = (
    "device",
    "device_slot",
    "assignment",
    "component_state",
    "offer_queue",
    "health_report",
    "timeline",
    "dead_letter",
)
"""Those that take the place of the live ones; the others' contents do."""

SMALL: Final = tuple(name for name in REBUILT if name not in LARGE)

RETIRED: Final = "rebuild_retired"
"""Schema of large tables that were live until the switch."""

_SUPPORT: Final = ("projection_position", "report_overlay")
"""Tables that the live code writes beside; they stay behind."""

_READERS: Final = {
    "timeline": 'ALTER TABLE {0}.timeline ADD CONSTRAINT timeline_pkey PRIMARY KEY ("partition", "offset")',
}
"""Primary keys that nothing reads while the tables are filled; the positions keep records from being applied twice."""

_LATE_INDEXES: Final = frozenset(
    {
        "timeline_device",
        "assignment_campaign",
        "offer_queue_device",
        "offer_queue_withheld",
        "health_report_recorded",
        "health_report_events",
    }
)

_OWN_INDEX: Final = f"CREATE INDEX offer_queue_replay ON {SHADOW}.offer_queue (campaign_no, device_no)"
"""The live code claims by rank; the ledger names devices. Dropped by the switch."""

_BUILD_MEMORY: Final = "256MB"
"""For each index that is built over a full table: sorts of millions of rows without a spill to disk, once, one at a time."""

BUILD_TIMEOUT: Final = 3_600.0
"""Seconds for one index or one ANALYZE over a full table: a million devices take some seconds."""

_CHECKPOINT: Final = f"""CREATE TABLE {SHADOW}.checkpoint (one smallint PRIMARY KEY, stage text NOT NULL, code text NOT NULL,
topic text NOT NULL, epoch bigint NOT NULL,
events bigint NOT NULL, event_hash bytea, decisions bigint NOT NULL, decision_hash bytea)"""

_MOVE: Final = {
    "events": f"UPDATE {SHADOW}.checkpoint SET events = $3, event_hash = (SELECT hash FROM event_log WHERE position = $3)"
    " WHERE epoch = $1 AND events = $2 RETURNING 1",
    "decisions": f"UPDATE {SHADOW}.checkpoint SET decisions = $3,"
    " decision_hash = (SELECT hash FROM decision_ledger WHERE position = $3) WHERE epoch = $1 AND decisions = $2 RETURNING 1",
}


class OtherShadowError(ConflictError):
    """An unfinished rebuild is there, but not one that can be continued."""

    code = "rebuild.not_resumable"
    remedy = "Run it again with --restart, which throws the unfinished one away."


class DependentError(ConflictError):
    """Views or publications were made for tables that are to be replaced."""

    code = "rebuild.dependents"
    remedy = "Drop them, rebuild, and create them again."


class Stage(StrEnum):
    """What a shadow is good for."""

    LOADING = "loading"
    FOLLOWING = "following"
    """Complete once, with all indexes; the logs' tails are added."""
    SWITCHED = "switched"
    """Its tables are the live ones; what is left is to file deadlines."""


@dataclass(frozen=True, slots=True)
class Shadow:
    """An opened shadow. Whoever opens it next takes it over: this one can then commit nothing more."""

    stage: Stage
    epoch: int
    events: int
    """Position in the event log."""
    decisions: int
    """Position in the ledger."""
    resumed: bool


@cache
def code_version() -> str:
    """A digest of the source that makes the rows: of another version's shadow nobody knows what is in it."""
    digest = sha256()
    for package in (schemas, domain, tables):
        folder = Path(package.__file__ or "").parent
        for file in sorted(folder.rglob("*.py")):
            digest.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


async def open_shadow(conn: asyncpg.Connection, topic: str, *, restart: bool = False) -> Shadow:
    """Continue the shadow that is there, or begin one; in the caller's transaction.

    Raises:
        OtherShadowError: the one that is there was made by other code or from other logs.
    """
    resumed = await conn.fetchval("SELECT to_regclass($1)", f"{SHADOW}.checkpoint") is not None
    if resumed and restart:
        # After the switch there is nothing to throw away, but something to finish.
        resumed = await conn.fetchval(f"SELECT stage FROM {SHADOW}.checkpoint") == Stage.SWITCHED.value
    if not resumed:
        await drop_shadow(conn)
        await _create(conn, topic)
    row = await conn.fetchrow(f"UPDATE {SHADOW}.checkpoint SET epoch = epoch + 1 RETURNING *")
    assert row is not None
    stage = Stage(row["stage"])
    if stage is not Stage.SWITCHED:
        await _check(conn, row, topic)
    return Shadow(stage, row["epoch"], row["events"], row["decisions"], resumed)


async def drop_shadow(conn: asyncpg.Connection) -> None:
    """Leave nothing behind."""
    await conn.execute(f"DROP SCHEMA IF EXISTS {SHADOW}, {RETIRED} CASCADE")


async def _create(conn: asyncpg.Connection, topic: str) -> None:
    await conn.execute(f"CREATE SCHEMA {SHADOW}")
    await conn.execute(_CHECKPOINT)
    await conn.execute(
        f"INSERT INTO {SHADOW}.checkpoint VALUES (1, $1, $2, $3, 0, 0, NULL, 0, NULL)",
        *(Stage.LOADING.value, code_version(), topic),
    )
    dialect = postgresql.dialect()
    for name in (*REBUILT, *_SUPPORT):
        table = SQLModel.metadata.tables[name].to_metadata(MetaData(), schema=SHADOW)
        await conn.execute(str(CreateTable(table).compile(dialect=dialect)))
        if name in _READERS:
            await conn.execute(f"ALTER TABLE {SHADOW}.{name} DROP CONSTRAINT {name}_pkey")
        for index in table.indexes:
            if index.name not in _LATE_INDEXES:
                await conn.execute(str(CreateIndex(index).compile(dialect=dialect)))
    await conn.execute(_OWN_INDEX)


async def _check(conn: asyncpg.Connection, row: asyncpg.Record, topic: str) -> None:
    if row["code"] != code_version():
        raise OtherShadowError("The unfinished rebuild was begun by another version of this software.")
    if row["topic"] != topic:
        raise OtherShadowError(f"The unfinished rebuild is of the topic {row['topic']}, not of {topic}.")
    for log, name, position, known in (
        ("event_log", "event log", row["events"], row["event_hash"]),
        ("decision_ledger", "decision ledger", row["decisions"], row["decision_hash"]),
    ):
        if position and await conn.fetchval(f"SELECT hash FROM {log} WHERE position = $1", position) != known:
            raise OtherShadowError(f"The unfinished rebuild has read another {name} up to position {position}.")


async def check_identity(conn: asyncpg.Connection, topic: str, identity: LogIdentity) -> None:
    """Raises OtherShadowError if facts were read from another incarnation of the topic."""
    other = await conn.fetchrow(
        f"SELECT topic_id, cluster_id FROM {SHADOW}.projection_position WHERE projection = $1 AND topic = $2"
        " AND (topic_id, cluster_id) <> ($3, $4) LIMIT 1",
        *(PROJECTION, topic, identity.topic_id, identity.cluster_id),
    )
    if other is not None:
        raise OtherShadowError(
            f"The unfinished rebuild has read {topic} with id {other['topic_id']} of cluster {other['cluster_id']};"
            f" now it is {identity.topic_id} of {identity.cluster_id}."
        )


async def move(conn: asyncpg.Connection, log: str, epoch: int, before: int, after: int) -> None:
    """Move the position in ``events`` or ``decisions``, in the transaction of the rows. Raises FencedError."""
    if not await conn.fetch(_MOVE[log], epoch, before, after):
        raise FencedError(
            f"The position in {log} is not {before}: another rebuild has taken over, or commits were lost."
        )


async def set_stage(conn: asyncpg.Connection, epoch: int, stage: Stage) -> None:
    """Raises FencedError if another rebuild has taken over."""
    done = await conn.fetch(
        f"UPDATE {SHADOW}.checkpoint SET stage = $2 WHERE epoch = $1 RETURNING 1", epoch, stage.value
    )
    if not done:
        raise FencedError("Another rebuild has taken over.")


async def finish_loading(conn: asyncpg.Connection, epoch: int, progress: Progress) -> None:
    """Build what was left out, so that the tables are as the live ones are; in the caller's transaction."""
    await conn.execute(f"SET LOCAL maintenance_work_mem = '{_BUILD_MEMORY}'")
    dialect = postgresql.dialect()
    for number, name in enumerate(REBUILT, 1):
        if name in _READERS:
            await conn.execute(_READERS[name].format(SHADOW), timeout=BUILD_TIMEOUT)
        table = SQLModel.metadata.tables[name].to_metadata(MetaData(), schema=SHADOW)
        for index in table.indexes:
            if index.name in _LATE_INDEXES:
                await conn.execute(str(CreateIndex(index).compile(dialect=dialect)), timeout=BUILD_TIMEOUT)
        # Plans are made anew at the switch, and must not be made for an empty table.
        await conn.execute(f"ANALYZE {SHADOW}.{name}", timeout=BUILD_TIMEOUT)
        progress("tables finished", number, len(REBUILT))
    await set_stage(conn, epoch, Stage.FOLLOWING)


async def check_replaceable(conn: asyncpg.Connection) -> None:
    """Raises DependentError if something hangs on a live table that would be lost with it."""
    found = await conn.fetch(
        "SELECT DISTINCT c.relname AS name, v.oid::regclass::text AS by FROM pg_depend d"
        " JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid JOIN pg_class v ON v.oid = r.ev_class"
        " JOIN pg_class c ON d.refclassid = 'pg_class'::regclass AND c.oid = d.refobjid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1 WHERE c.relname = ANY($2::text[]) AND v.oid <> c.oid"
        " UNION SELECT p.tablename, 'publication ' || p.pubname FROM pg_publication_tables p JOIN pg_publication b"
        " ON b.pubname = p.pubname AND NOT b.puballtables WHERE p.schemaname = $1 AND p.tablename = ANY($2::text[]) ORDER BY 1, 2",
        LIVE,
        list(LARGE),
    )
    if found:
        named = ", ".join(f"{row['by']} of {row['name']}" for row in found)
        raise DependentError(f"A table that takes the place of another does not inherit what was made for it: {named}.")


async def grants(conn: asyncpg.Connection, name: str) -> list[str]:
    """Statements that give a table's privileges and owner to the one that takes its place."""
    table = f"{LIVE}.{name}"
    rows: list[Any] = await conn.fetch(
        "SELECT format('GRANT %s ON TABLE %s TO %s%s', a.privilege_type, $1::text,"
        " CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(g.rolname) END,"
        " CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END) AS statement"
        " FROM pg_class c, aclexplode(c.relacl) a LEFT JOIN pg_roles g ON g.oid = a.grantee"
        " WHERE c.oid = $1::text::regclass AND a.grantee <> c.relowner ORDER BY 1",
        table,
    )
    owner = await conn.fetchval(
        "SELECT format('ALTER TABLE %s OWNER TO %s', $1::text, relowner::regrole) FROM pg_class"
        " WHERE oid = $1::text::regclass AND relowner <> current_user::regrole",
        table,
    )
    return [*(row["statement"] for row in rows), *([] if owner is None else [owner])]
