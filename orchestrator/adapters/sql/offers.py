"""The gateway's view of assignments, and the start transaction.

Start is a decision: before the first byte that reveals an image, the ledger says that this device starts, under the control check of
a running campaign. Starts are committed in groups: while one group is being committed the next one fills, so the rate comes from
group size and no timer adds latency.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import asyncpg
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import failpoints
from orchestrator.adapters.sql import breaker, ledger, owners, positions, rows, schedules
from orchestrator.adapters.sql.actions import ActionRange, ActionRanges
from orchestrator.adapters.sql.dispatch import control_state, halted_strata
from orchestrator.adapters.sql.engine import driver, transaction
from orchestrator.adapters.sql.facts import PROJECTION
from orchestrator.adapters.sql.fleet_stop import withheld
from orchestrator.adapters.sql.grouping import Grouped
from orchestrator.adapters.sql.locks import share_control
from orchestrator.adapters.sql.offer_board import OfferBoard
from orchestrator.adapters.sql.offer_views import read_components, read_views
from orchestrator.adapters.sql.rules import RulesCache
from orchestrator.app.ports import OfferView
from orchestrator.domain.assignment import State, due, observe, start
from orchestrator.domain.breaker import Stage
from orchestrator.domain.campaign import CampaignState
from orchestrator.domain.visibility import Shown
from schemas.ledger import Entry, Kind

SHARD = 102
"""Counter shard of starts."""

GROUP = 256
"""Most questions of one read, and starts of one transaction."""


class _StoppedError(Exception):
    pass


_Start = tuple[int, int]
"""(device_no, action_id)"""


class SqlOffers:
    """``orchestrator.app.ports.Offers`` on PostgreSQL; one per gateway process."""

    def __init__(self, engine: AsyncEngine, topic: str, board: OfferBoard | None = None) -> None:
        """With a ``board``, devices that have nothing to do are answered from memory."""
        self._engine = engine
        self._board = board
        self._topic = topic
        self._rules = RulesCache()
        self._actions = ActionRanges()
        self._ranges: Grouped[int, ActionRange] = Grouped(self._find_ranges, GROUP)
        self._views: Grouped[int, OfferView] = Grouped(self._read_views, GROUP)
        self._starts: Grouped[_Start, OfferView] = Grouped(self._start_group, GROUP)
        self._components: Grouped[int, dict[str, str]] = Grouped(self._read_components, GROUP)

    async def current(self, device_no: int) -> OfferView | None:
        if self._board is not None and self._board.idle(device_no):
            return None
        position = 0 if self._board is None else self._board.position
        view = await self._views.ask(device_no)
        if view is None and self._board is not None:
            self._board.take_off(device_no, position)
        return view

    async def owner(self, action_id: int) -> tuple[int, int, int] | None:
        given = await self._given(action_id)
        device = None if given is None else given.device(action_id)
        return None if given is None or device is None else (given.campaign_no, given.attempt, device)

    async def _given(self, action_id: int) -> ActionRange | None:
        return self._actions.known(action_id) or await self._ranges.ask(action_id)

    async def _find_ranges(self, action_ids: Sequence[int]) -> dict[int, ActionRange]:
        # One after the other: a slice of offers is one range, so the first of its ids finds it for all.
        async with driver(self._engine) as conn:
            found = {action_id: await self._actions.find(conn, action_id) for action_id in action_ids}
        return {action_id: given for action_id, given in found.items() if given is not None}

    async def components(self, action_id: int) -> dict[str, str]:
        return await self._components.ask(action_id) or {}

    async def _read_components(self, action_ids: Sequence[int]) -> dict[int, dict[str, str]]:
        given: dict[int, tuple[int, int]] = {}
        for action_id in action_ids:
            owner = await self.owner(action_id)
            if owner is not None:
                given[action_id] = owner[0], owner[2]
        async with driver(self._engine) as conn:
            return await read_components(conn, given)

    async def _read_views(self, device_nos: Sequence[int]) -> dict[int, OfferView]:
        views = await read_views(self._engine, device_nos)
        await self._hide(views)
        return views

    async def _hide(self, views: dict[int, OfferView]) -> None:
        """Show nothing to devices that wait: for their window, for their place in the spread of starts, or for their owner's word."""
        waiting = {
            no: view for no, view in views.items() if view.shown is Shown.DEPLOYMENT and view.state == State.OFFERED
        }
        if not waiting:
            return
        async with driver(self._engine) as conn:
            rules = await self._rules.current(conn, {view.campaign_no for view in waiting.values()})
            asked = {
                no: view for no, view in waiting.items() if view.owner_spoke or rules[view.campaign_no].holds_starts
            }
            now = await _now(conn) if asked else 0
            for campaign_no in {view.campaign_no for view in asked.values()}:
                found = rules[campaign_no]
                own = {no: view for no, view in asked.items() if view.campaign_no == campaign_no}
                hidden = (
                    set(own)
                    if schedules.shut(found, now)
                    else schedules.early(found, own.values(), now)
                    | (await schedules.outside(conn, found, own.keys(), now)).keys()
                    | (await owners.withheld(conn, found, own.keys(), now)).keys()
                )
                for no in hidden:
                    views[no] = replace(views[no], shown=Shown.NOTHING)

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
        async with driver(self._engine) as conn:
            return await positions.positions(conn, PROJECTION, self._topic)

    async def start(self, device_no: int, action_id: int) -> OfferView | None:
        given = await self._given(action_id)
        if given is None or given.device(action_id) != device_no:
            return None
        return await self._starts.ask((device_no, action_id))

    async def _start_group(self, group: Sequence[_Start]) -> dict[_Start, OfferView | Exception]:
        by_campaign: dict[int, set[_Start]] = defaultdict(set)
        for wanted in group:
            given = self._actions.known(wanted[1])
            assert given is not None
            by_campaign[given.campaign_no].add(wanted)
        answers: dict[_Start, OfferView | Exception] = {}
        for campaign_no, starts in sorted(by_campaign.items()):
            try:
                views = await self._start_and_read(campaign_no, starts)
            except Exception as error:  # noqa: BLE001  one campaign's trouble is not another's
                answers |= dict.fromkeys(starts, error)
                continue
            for device_no, action_id in starts:
                view = _revealed(views.get(device_no), action_id)
                if view is None:
                    continue
                if self._board is not None:
                    self._board.put_on(device_no)  # its next request must not be taken for an idle one
                answers[device_no, action_id] = view
        return answers

    async def _start_and_read(self, campaign_no: int, starts: AbstractSet[_Start]) -> dict[int, OfferView]:
        failpoints.hit("start.before_transaction")
        try:
            async with transaction(self._engine) as conn:
                await self._start(conn, campaign_no, starts)
        except _StoppedError:
            pass  # nothing was written; the views say what each device may still see
        else:
            failpoints.hit("start.after_commit")
        return await read_views(self._engine, [device_no for device_no, _ in starts])

    async def _start(self, conn: asyncpg.Connection, campaign_no: int, starts: AbstractSet[_Start]) -> None:
        rules = (await self._rules.current(conn, [campaign_no]))[campaign_no]
        locked = await rows.lock(conn, [(device, campaign_no) for device, _ in starts])
        halted = await halted_strata(conn, campaign_no)
        held = await breaker.hold(conn, campaign_no)
        fresh = [
            row
            for row in locked.values()
            if (row.device_no, row.action_id) in starts
            and row.stratum not in halted
            and row.state in {State.OFFERED, State.UNKNOWN}
            and row.progress is State.OFFERED
            and row.started_at is None
            and row.cancel_requested_at is None
            and (held is None or (held.stage is Stage.PROBING and row.offered_at > held.at))
        ]
        if not fresh:
            return
        now = await _now(conn)
        devices = [row.device_no for row in fresh]
        later = schedules.early(rules, fresh, now)
        later |= (await schedules.outside(conn, rules, devices, now)).keys()
        # After the rows are locked: a will that is being stated is waited for there, and seen here.
        later |= (await owners.withheld(conn, rules, devices, now)).keys()
        fresh = [row for row in fresh if row.device_no not in later]
        if not fresh or schedules.shut(rules, now):
            return
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
        if state != CampaignState.RUNNING or await halted_strata(conn, campaign_no) != halted or await withheld(conn):
            raise _StoppedError
        if await breaker.hold(conn, campaign_no) != held:
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


async def _now(conn: asyncpg.Connection) -> int:
    """The database's clock, ms: starts of all gateways are filed under one clock."""
    now: Any = await conn.fetchval("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
    return now
