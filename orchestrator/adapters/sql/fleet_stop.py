"""The stop of the whole fleet: a control row that belongs to no campaign, under a lock that every offer and start shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import failpoints
from orchestrator.adapters.sql import event_log, ledger
from orchestrator.adapters.sql.engine import driver, transaction
from orchestrator.adapters.sql.locks import FLEET, own_control
from orchestrator.app.fleet import FleetStatus
from orchestrator.app.ports import Meta, Recorded
from orchestrator.domain import fleet as f
from schemas.fleet_events import FleetStopped

STREAM: Final = "fleet"

_CONTROL: Final = """INSERT INTO control (campaign_no, stratum, state, version, gate_epoch) VALUES ($1, -1, $2, $3, 0)
ON CONFLICT (campaign_no, stratum) DO UPDATE SET state = excluded.state, version = excluded.version"""
_AFTER: Final = """SELECT coalesce(sum(cardinality(device_nos)) FILTER (WHERE kind = 'offer'), 0)::bigint AS offers,
coalesce(sum(cardinality(device_nos)) FILTER (WHERE kind = 'start'), 0)::bigint AS starts
FROM decision_ledger WHERE position > $1 AND kind IN ('offer', 'start')"""


async def withheld(conn: asyncpg.Connection) -> bool:
    """Whether the fleet is stopped; a statement of its own, after the shared control lock."""
    state = await conn.fetchval("SELECT state FROM control WHERE campaign_no = $1 AND stratum = -1", FLEET)
    return state == "stopped"


async def project(conn: asyncpg.Connection, item: Recorded) -> None:
    """Write the control row that follows from one event; used by the append and by the rebuild."""
    state = "stopped" if isinstance(item.event, FleetStopped) else "running"
    await conn.execute(_CONTROL, FLEET, state, item.version)


class SqlFleetControl:
    """``orchestrator.app.fleet.FleetControl`` on PostgreSQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def stop(self, reason: str, *, command_id: str, meta: Meta) -> None:
        await self._execute(
            lambda position: f.StopFleet(actor=meta.actor, reason=reason, ledger_position=position), command_id, meta
        )

    async def release(self, reason: str, *, command_id: str, meta: Meta) -> None:
        await self._execute(
            lambda position: f.ReleaseFleet(actor=meta.actor, reason=reason, ledger_position=position), command_id, meta
        )

    async def _execute(self, build: Callable[[int], f.StopFleet | f.ReleaseFleet], command_id: str, meta: Meta) -> None:
        async with transaction(self._engine) as conn:
            await own_control(conn, FLEET)
            if await event_log.of_command(conn, command_id):
                return
            state = f.fold([item.event for item in await event_log.read_stream(conn, STREAM)])
            position, _ = await ledger.head(conn)
            events = f.decide(state, build(position))
            if not events:
                return
            for item in await event_log.append(conn, STREAM, state.version, events, command_id=command_id, meta=meta):
                await project(conn, item)
            failpoints.hit("command.before_commit")

    async def status(self) -> FleetStatus:
        async with driver(self._engine) as conn, conn.transaction(isolation="repeatable_read", readonly=True):
            recorded = await event_log.read_stream(conn, STREAM)
            if not recorded or not isinstance(recorded[-1].event, FleetStopped):
                return FleetStatus(stopped=False)
            stop = recorded[-1]
            after = await conn.fetchrow(_AFTER, stop.event.ledger_position)
            assert after is not None
            return FleetStatus(
                stopped=True,
                by=stop.event.actor,
                reason=stop.event.reason,
                at=stop.recorded_at,
                position=stop.event.ledger_position,
                offers_after=after["offers"],
                starts_after=after["starts"],
            )
