"""The gateway's view of assignments, and the start transaction.

Start is a decision: before the first byte that reveals an image, the ledger says that this device starts, under the control check of
a running campaign. Starts are committed in groups: while one group is being committed the next one fills, so the rate comes from
group size and no timer adds latency.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import failpoints
from orchestrator.adapters.sql import ledger, positions, rows
from orchestrator.adapters.sql.actions import ActionRanges
from orchestrator.adapters.sql.dispatch import control_state, halted_strata
from orchestrator.adapters.sql.engine import transaction
from orchestrator.adapters.sql.facts import PROJECTION
from orchestrator.adapters.sql.locks import share_control
from orchestrator.adapters.sql.offer_board import OfferBoard
from orchestrator.adapters.sql.rules import RulesCache
from orchestrator.app.ports import OfferView
from orchestrator.domain.assignment import State, due, observe, standing, start
from orchestrator.domain.campaign import CampaignState
from orchestrator.domain.visibility import Shown, shown
from schemas.ledger import Entry, Kind

SHARD = 102
"""Counter shard of starts."""

GROUP = 256
"""Most starts of one transaction."""

_VIEW = """SELECT a.device_no, a.campaign_no, a.action_id, a.attempt, a.state, a.progress,
    a.cancel_requested_at IS NOT NULL AS cancel,
    c.campaign_id, coalesce((SELECT h.state FROM control h WHERE h.campaign_no = a.campaign_no AND h.stratum = a.stratum),
        k.state) AS control, r.release_id, r.name AS release_name, r.version AS release_version,
    f.sha256, f.sha1, f.md5, f.size, f.filename,
    (SELECT array_agg(o.state) FROM report_overlay o WHERE o.device_no = a.device_no AND o.action_id = a.action_id) AS overlay
FROM device_slot s JOIN assignment a ON a.device_no = s.device_no AND a.campaign_no = s.campaign_no
JOIN campaign c ON c.campaign_no = a.campaign_no
JOIN control k ON k.campaign_no = a.campaign_no AND k.stratum = -1
JOIN device_identity d ON d.device_no = a.device_no
JOIN release r ON r.release_id = c.release_id
JOIN artifact f ON f.hardware_model = d.hardware_model AND f.sha256 = r.artifacts ->> d.hardware_model
WHERE s.device_no = ANY($1::int[])"""


def _view(row: asyncpg.Record) -> OfferView:
    progress = State(row["progress"])
    states = [State(row["state"]), *(State(state) for state in row["overlay"] or ())]
    state = max(states, key=lambda each: standing(each, progress))
    return OfferView(
        campaign_no=row["campaign_no"],
        campaign_id=row["campaign_id"],
        device_no=row["device_no"],
        action_id=row["action_id"],
        attempt=row["attempt"],
        state=(progress if state is State.UNKNOWN else state).value,
        shown=shown(state, CampaignState(row["control"]), cancel_requested=row["cancel"], progress=progress),
        release_id=row["release_id"],
        release_name=row["release_name"],
        release_version=row["release_version"],
        sha256=row["sha256"],
        sha1=row["sha1"],
        md5=row["md5"],
        size=row["size"],
        filename=row["filename"],
    )


class _StoppedError(Exception):
    pass


@dataclass(slots=True)
class _Waiting:
    device_no: int
    action_id: int
    answer: asyncio.Future[OfferView | None]


class SqlOffers:
    """``orchestrator.app.ports.Offers`` on PostgreSQL; one per gateway process."""

    def __init__(self, engine: AsyncEngine, topic: str, board: OfferBoard | None = None) -> None:
        """With a ``board``, devices that have nothing to do are answered from memory."""
        self._engine = engine
        self._board = board
        self._topic = topic
        self._rules = RulesCache()
        self._actions = ActionRanges()
        self._waiting: list[_Waiting] = []
        self._flusher: asyncio.Task[None] | None = None

    async def current(self, device_no: int) -> OfferView | None:
        if self._board is not None and self._board.idle(device_no):
            return None
        position = 0 if self._board is None else self._board.position
        async with transaction(self._engine) as conn:
            row = await conn.fetchrow(_VIEW, [device_no])
        if row is not None:
            return _view(row)
        if self._board is not None:
            self._board.take_off(device_no, position)
        return None

    async def owner(self, action_id: int) -> tuple[int, int, int] | None:
        async with transaction(self._engine) as conn:
            given = await self._actions.find(conn, action_id)
        if given is None:
            return None
        device = given.device(action_id)
        return None if device is None else (given.campaign_no, given.attempt, device)

    async def overlay(self, device_no: int, action_id: int, state: str, partition: int, offset: int) -> None:
        async with transaction(self._engine) as conn:
            await conn.execute(
                'INSERT INTO report_overlay (device_no, action_id, state, partition, "offset")'
                " SELECT $1, $2, $3, $4, $5 WHERE NOT EXISTS (SELECT 1 FROM projection_position"
                " WHERE projection = $6 AND topic = $7 AND partition = $4 AND next_offset > $5) ON CONFLICT DO NOTHING",
                device_no,
                action_id,
                state,
                partition,
                offset,
                PROJECTION,
                self._topic,
            )

    async def positions(self) -> dict[int, int]:
        async with transaction(self._engine) as conn:
            return await positions.positions(conn, PROJECTION, self._topic)

    async def start(self, device_no: int, action_id: int) -> OfferView | None:
        waiting = _Waiting(device_no, action_id, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        return await waiting.answer

    async def _flush(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[:GROUP], self._waiting[GROUP:]
            try:
                await self._start_group(group)
            except Exception as error:  # noqa: BLE001  every waiter learns of it; the next group is tried
                for waiting in group:
                    if not waiting.answer.done():
                        waiting.answer.set_exception(error)

    async def _start_group(self, group: Sequence[_Waiting]) -> None:
        by_campaign: dict[int, list[_Waiting]] = defaultdict(list)
        async with transaction(self._engine) as conn:
            for waiting in group:
                given = await self._actions.find(conn, waiting.action_id)
                if given is None or given.device(waiting.action_id) != waiting.device_no:
                    _answer(waiting, None)
                else:
                    by_campaign[given.campaign_no].append(waiting)
        for campaign_no, starts in sorted(by_campaign.items()):
            failpoints.hit("start.before_transaction")
            failpoints.hit("start.before_transaction")
            try:
                async with transaction(self._engine) as conn:
                    await self._start(conn, campaign_no, starts)
            except _StoppedError:
                pass  # nothing was written; the views below say what each device may still see
            else:
                failpoints.hit("start.after_commit")
            async with transaction(self._engine) as conn:
                found = await conn.fetch(_VIEW, [waiting.device_no for waiting in starts])
            views = {row["device_no"]: _view(row) for row in found}
            for waiting in starts:
                view = _revealed(views.get(waiting.device_no), waiting.action_id)
                if view is not None and self._board is not None:
                    self._board.put_on(waiting.device_no)  # its next request must not be taken for an idle one
                _answer(waiting, view)

    async def _start(self, conn: asyncpg.Connection, campaign_no: int, starts: Sequence[_Waiting]) -> None:
        rules = (await self._rules.get(conn, [campaign_no]))[campaign_no]
        wanted = {waiting.device_no: waiting.action_id for waiting in starts}
        locked = await rows.lock(conn, [(device, campaign_no) for device in wanted])
        halted = await halted_strata(conn, campaign_no)
        fresh = [
            row
            for row in locked.values()
            if row.action_id == wanted[row.device_no]
            and row.stratum not in halted
            and row.state in {State.OFFERED, State.UNKNOWN}
            and row.progress is State.OFFERED
            and row.started_at is None
            and row.cancel_requested_at is None
        ]
        if not fresh:
            return
        now = await _now(conn)
        changes = rows.Changes({campaign_no: rules}, SHARD)
        deadlines: list[tuple[int, int, int, int, str]] = []
        for row in fresh:
            new = observe(row, start(row.attempt, now))
            changes.add(row, new)
            what = due(new, rules.offer_ttl, rules.confirm_deadline)
            assert what is not None
            deadlines.append((what[1], campaign_no, row.device_no, row.attempt, what[0]))
        await rows.queue_due(conn, deadlines)
        await changes.write(conn)
        await share_control(conn, campaign_no)
        state, version, epoch = await control_state(conn, campaign_no)
        if state != CampaignState.RUNNING or await halted_strata(conn, campaign_no) != halted:
            raise _StoppedError
        by_attempt: dict[int, list[int]] = defaultdict(list)
        for row in fresh:
            by_attempt[row.attempt].append(row.device_no)
        await ledger.append(
            conn,
            [
                Entry(
                    campaign_no=campaign_no,
                    kind=Kind.START,
                    device_nos=sorted(devices),
                    at=now,
                    attempt=attempt,
                    gate_epoch=epoch,
                    control_version=version,
                )
                for attempt, devices in sorted(by_attempt.items())
            ],
        )
        failpoints.hit("start.before_commit")


def _revealed(view: OfferView | None, action_id: int) -> OfferView | None:
    """The view if its image may be revealed: the right action, started, and still shown."""
    if view is None or view.action_id != action_id or view.shown is not Shown.DEPLOYMENT:
        return None
    return None if view.state == State.OFFERED.value else view


def _answer(waiting: _Waiting, view: OfferView | None) -> None:
    if not waiting.answer.done():
        waiting.answer.set_result(view)


async def _now(conn: asyncpg.Connection) -> int:
    """The database's clock, ms: starts of all gateways are filed under one clock."""
    now: Any = await conn.fetchval("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
    return now
