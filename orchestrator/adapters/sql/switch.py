"""The switch: rebuilt tables take the place of the live ones in one transaction, while devices and people go on.

Writers wait from its first lock to its commit, which is a matter of the few records that came since the shadow last caught up; readers
only while the large tables change places. Small tables keep their place and get new contents, because writers read them first and
write later: to wait for those would be to wait for each other.

The locks are table locks, so whoever has changed anything, or holds a row, is done before the last records are read; who waits here
has changed nothing yet, and goes on with the new tables, whose rows are the same. Orders of locks that could block each other for ever
cannot be excluded, so all of them must be had within ``lock_ms``, less than the second after which PostgreSQL looks for
deadlocks: it is always the switch that lets go, and tries again.

A reader under REPEATABLE READ whose snapshot is from before the switch sees the rebuilt tables as they were at that moment.

What was made for a large table by hand, such as triggers or statistics, is gone with it; privileges stay.

Not switched: positions, pacing, presence, overlay, verdicts last looked at, and the queue of deadlines; :func:`refile` completes them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import SQLModel

from orchestrator import failpoints
from orchestrator.adapters.sql import retrying, rows
from orchestrator.adapters.sql.comparison import LIVE, SHADOW
from orchestrator.adapters.sql.engine import transaction
from orchestrator.adapters.sql.rules import RulesCache
from orchestrator.adapters.sql.shadow import LARGE, RETIRED, SMALL, Stage, grants, set_stage
from orchestrator.domain.assignment import ACTIVE, Assignment, due
from orchestrator.domain.retry import ENDED, again

_WRITTEN: Final = (
    "projection_position",
    "pacing",
    "assignment",
    "offer_queue",
    "device_slot",
    "counter",
    "gate_count",
    "maturity",
    "delivery",
    "component_state",
    "component_count",
    "device",
    "health_report",
    "timeline",
    "dead_letter",
    "campaign",
    "control",
    "stratum",
    "hardware_model",
    "trusted_key",
    "artifact",
    "release",
    "owner_will",
)
"""In the order in which most writers come to them: those that wait at the first ones hold nothing that is still wanted."""

_READ: Final = (
    "device_slot",
    "assignment",
    "device",
    "component_state",
    "offer_queue",
    "health_report",
    "timeline",
    "dead_letter",
)
"""The large ones in the order in which the gateway's query names them."""

REFILE_PAGE: Final = 5_000
"""Devices whose deadlines and retries one transaction files."""

_FILED: Final = f"""SELECT {", ".join(Assignment.__struct_fields__)} FROM assignment
WHERE (device_no, campaign_no) > ($1, $2) AND state = ANY($3::text[]) ORDER BY device_no, campaign_no LIMIT $4"""


async def lock_writers(conn: asyncpg.Connection, lock_ms: int) -> None:
    """Wait for every writer in flight and keep later ones waiting. Raises LockNotAvailableError after ``lock_ms``."""
    await _lock(conn, _WRITTEN, "EXCLUSIVE", lock_ms)


async def put_in_place(conn: asyncpg.Connection, epoch: int, lock_ms: int) -> None:
    """Exchange the tables, with the privileges that the live ones had. The caller holds :func:`lock_writers` and commits at once.

    Raises:
        LockNotAvailableError: readers did not end within ``lock_ms``.
        FencedError: another rebuild has taken over.
    """
    await set_stage(conn, epoch, Stage.SWITCHED)
    for name in SMALL:
        await conn.execute(f"DELETE FROM {LIVE}.{name}")
        columns = ", ".join(SQLModel.metadata.tables[name].columns.keys())
        await conn.execute(f"INSERT INTO {LIVE}.{name} ({columns}) SELECT {columns} FROM {SHADOW}.{name}")
    given = {name: await grants(conn, name) for name in LARGE}
    await _lock(conn, _READ, "ACCESS EXCLUSIVE", lock_ms)
    await conn.execute(f"DROP INDEX {SHADOW}.offer_queue_replay")
    await conn.execute(f"CREATE SCHEMA {RETIRED}")
    for name in LARGE:
        # Put away and dropped afterwards: to delete their files takes longer than all the rest.
        await conn.execute(f"ALTER TABLE {LIVE}.{name} SET SCHEMA {RETIRED}")
        await conn.execute(f"ALTER TABLE {SHADOW}.{name} SET SCHEMA {LIVE}")
        for statement in given[name]:
            await conn.execute(statement)
    failpoints.hit("rebuild.before_switch")


async def _lock(conn: asyncpg.Connection, tables: Iterable[str], mode: str, lock_ms: int) -> None:
    deadline = time.monotonic() + lock_ms / 1000
    for name in tables:
        left = max(1, round((deadline - time.monotonic()) * 1000))
        await conn.execute(f"SET LOCAL lock_timeout = {left}")
        await conn.execute(f"LOCK TABLE {LIVE}.{name} IN {mode} MODE")


async def refile(engine: AsyncEngine) -> None:
    """File what the switched rows need and may lack beside them.

    That is a deadline for each device in flight, a look at each that may be tried again and is not queued, and pacing for each
    campaign. What is filed already stays. What is too much is harmless: the sweep looks at the row, and at the offer queue.
    """
    cache = RulesCache()
    after = (-1, -1)
    async with transaction(engine) as conn:
        await conn.execute(
            "INSERT INTO pacing (campaign_no, granted, slices, phase, credit, bucket_at)"
            " SELECT campaign_no, 0, 0, -1, 0, 0 FROM campaign WHERE enrolment IS NOT NULL ON CONFLICT DO NOTHING"
        )
    while True:
        async with transaction(engine) as conn:
            page = rows.parse(await conn.fetch(_FILED, *after, sorted(ACTIVE | ENDED), REFILE_PAGE))
            if not page:
                return
            rules = await cache.get(conn, {row.campaign_no for row in page})
            deadlines: list[tuple[int, int, int, int, str]] = []
            ended: list[Assignment] = []
            for row in page:
                own = rules[row.campaign_no]
                if again(own.dossier.plan.retry, row, 0, own.offer_ttl) is not None:
                    ended.append(row)
                what = due(row, own.offer_ttl, own.confirm_deadline)
                if what is not None:
                    deadlines.append((what[1], row.campaign_no, row.device_no, row.attempt, what[0]))
            await rows.queue_due(conn, deadlines)
            queued = await retrying.queued(conn, ended)
            await retrying.file(conn, [row for row in ended if (row.device_no, row.campaign_no) not in queued])
        after = (page[-1].device_no, page[-1].campaign_no)
