"""The slice transaction: the one place where room is granted.

It holds the campaign's pacing row exclusively, so parallel slices never see the same room, and takes the control lock before
it appends: a slice that commits was allowed at its commit. Busy devices go back into the queue, because claiming took them out; those
whose late report made a further attempt needless, and those that a remediation is not for any more, leave it for good.

Not here: which devices are claimed (``claims``), which are withheld by their owners (``sieve``), and what becomes of an offer that is
taken over (``takeover``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import failpoints
from orchestrator.adapters.sql import breaker, claims, ledger, retrying, rows, schedules, takeover
from orchestrator.adapters.sql.engine import transaction
from orchestrator.adapters.sql.fleet_stop import withheld
from orchestrator.adapters.sql.locks import share_control
from orchestrator.adapters.sql.pace import in_force
from orchestrator.adapters.sql.rules import CampaignRules, RulesCache
from orchestrator.app.ports import DispatchedSlice
from orchestrator.domain import pacing
from orchestrator.domain.assignment import ACTIVE, Offer, due, offered, offered_again
from orchestrator.domain.breaker import Stage
from orchestrator.domain.campaign import CampaignState
from schemas.ledger import Entry, Kind

SHARD = 100
"""Counter shard of slices; projectors use their partitions' numbers, 0 to 63."""

_SLOTS = """INSERT INTO device_slot (device_no, campaign_no, attempt)
SELECT d, $2, a FROM unnest($1::int[], $3::smallint[]) u(d, a) ORDER BY d ON CONFLICT DO NOTHING RETURNING device_no"""


_HELD = {
    Stage.OPEN: "The breaker is open: infrastructure trouble holds offers.",
    Stage.PROBING: "The breaker's probes are out.",
}


class _StoppedError(Exception):
    def __init__(self, state: str) -> None:
        self.state = state


async def control_state(conn: asyncpg.Connection, campaign_no: int) -> tuple[str, int, int]:
    """(state, version, gate epoch) of a campaign's control row; a statement of its own, after the lock."""
    row = await conn.fetchrow(
        "SELECT state, version, gate_epoch FROM control WHERE campaign_no = $1 AND stratum = -1", campaign_no
    )
    if row is None:
        return "none", 0, 0
    return row["state"], row["version"], row["gate_epoch"]


async def halted_strata(conn: asyncpg.Connection, campaign_no: int) -> list[int]:
    """Numbers of the strata that were halted alone; a statement of its own, after the lock."""
    rows = await conn.fetch(
        "SELECT stratum FROM control WHERE campaign_no = $1 AND stratum >= 0 AND state = 'halted' ORDER BY stratum",
        campaign_no,
    )
    return [row["stratum"] for row in rows]


async def in_flight(conn: asyncpg.Connection, campaign_no: int) -> int:
    """Offers outstanding or started and not yet ended."""
    total: Any = await conn.fetchval(
        "SELECT coalesce(sum(n), 0)::bigint FROM counter WHERE campaign_no = $1 AND state = ANY($2::text[])",
        campaign_no,
        sorted(state.value for state in ACTIVE),
    )
    return total


async def _left(conn: asyncpg.Connection, campaign_no: int, phase: int) -> tuple[int, int | None]:
    row = await conn.fetchrow(
        "SELECT count(*) AS n, min(not_before) AS next FROM (SELECT not_before FROM offer_queue"
        " WHERE campaign_no = $1 AND phase = $2 AND withheld IS NULL AND stratum <> ALL($3::smallint[]) LIMIT 1000) q",
        campaign_no,
        phase,
        await halted_strata(conn, campaign_no),
    )
    assert row is not None
    return row["n"], row["next"]


async def dispatch(
    engine: AsyncEngine, ids: AsyncEngine, cache: RulesCache, campaign_no: int, phase: int, limit: int, now: int
) -> DispatchedSlice:
    """One slice. ``remaining`` counts at most 1,000: it answers whether the queue is empty."""
    try:
        async with transaction(engine) as conn:
            done = await _dispatch(ids, conn, cache, campaign_no, phase, limit, now)
    except _StoppedError as stopped:
        async with transaction(engine) as conn:
            remaining, _ = await _left(conn, campaign_no, phase)
        return DispatchedSlice(granted=0, remaining=remaining, state=stopped.state, room=0)
    if done.granted:
        failpoints.hit("slice.after_commit")
    return done


async def _dispatch(
    ids: AsyncEngine,
    conn: asyncpg.Connection,
    cache: RulesCache,
    campaign_no: int,
    phase: int,
    limit: int,
    now: int,
) -> DispatchedSlice:
    held = await conn.fetchrow("SELECT * FROM pacing WHERE campaign_no = $1 FOR UPDATE", campaign_no)
    state, version, _ = await control_state(conn, campaign_no)
    if held is None or state != CampaignState.RUNNING or await withheld(conn):
        raise _StoppedError(state)
    # What is read from here on is of this version or a later one, and a slice of another version does not commit.
    rules = (await cache.current(conn, [campaign_no]))[campaign_no]
    hold = await breaker.hold(conn, campaign_no)
    if hold is not None:
        limit = min(limit, await breaker.probes_left(conn, rules)) if hold.stage is Stage.PROBING else 0
        if not limit:
            remaining, _ = await _left(conn, campaign_no, phase)
            return DispatchedSlice(granted=0, remaining=remaining, state=state, room=0, hold=_HELD[hold.stage])
        now = max(now, hold.at + 1)  # only later offers may be started
    if shut := schedules.shut(rules, now):
        remaining, _ = await _left(conn, campaign_no, phase)
        return DispatchedSlice(
            granted=0, remaining=remaining, state=state, room=0, next_due_at=shut.until, hold=shut.detail
        )
    pace = await in_force(conn, rules, phase)
    bucket, available, per_minute = None, None, pace.per_minute
    if per_minute is not None:
        bucket = (
            pacing.Bucket(held["credit"], held["bucket_at"])
            if held["phase"] == phase
            else pacing.full_bucket(per_minute, now)
        )
        available = pacing.tokens(bucket, per_minute, now)
    room = pacing.grant(
        cap=pace.cap, in_flight=await in_flight(conn, campaign_no), available=available, slice_size=limit
    )
    offers = _Offers()
    if room:
        asking = claims.Asking(rules, phase, now, room, await halted_strata(conn, campaign_no))
        offers = await _offer(ids, conn, cache, asking, version, hold)
    granted = offers.granted
    if granted:
        if bucket is not None and per_minute is not None:
            bucket = pacing.spend(bucket, per_minute, now, granted)
        await conn.execute(
            "UPDATE pacing SET granted = granted + $2, slices = slices + 1, phase = $3, credit = $4, bucket_at = $5"
            " WHERE campaign_no = $1",
            campaign_no,
            granted,
            phase,
            bucket.credit if bucket else 0,
            bucket.at_ms if bucket else now,
        )
    remaining, next_due = await _left(conn, campaign_no, phase)
    return DispatchedSlice(
        granted=granted,
        remaining=remaining,
        state=state,
        room=room - granted,
        next_due_at=next_due,
        hold=None if granted else offers.hold,
        over_budget=offers.over_budget,
        outranked=offers.outranked,
        superseded=offers.superseded,
    )


@dataclass(slots=True)
class _Offers:
    """What became of the devices that were looked at."""

    granted: int = 0
    superseded: int = 0
    over_budget: int = 0
    outranked: int = 0

    @property
    def hold(self) -> str | None:
        """Why nothing was offered, if devices had to be passed over."""
        why: list[str] = []
        if self.over_budget:
            why.append(f"{self.over_budget} devices wait for room in the budget.")
        if self.outranked:
            why.append(f"{self.outranked} devices wait for a campaign of higher priority.")
        return " ".join(why) or None


async def _offer(
    ids: AsyncEngine,
    conn: asyncpg.Connection,
    cache: RulesCache,
    asking: claims.Asking,
    paced: int,
    held: breaker.Hold | None,
) -> _Offers:
    """Offer to as many as there is room for, if the campaign is still at version ``paced``: its pace may have changed otherwise."""
    rules, phase, now = asking.rules, asking.phase, asking.now
    claim = await claims.claim(conn, cache, asking)
    done = _Offers(over_budget=claim.over_budget, outranked=claim.outranked)
    claimed = claim.rows
    if not claimed:
        return done
    kept = [row["device_no"] for row in claimed if row["device_no"] not in claim.dismissed]
    later = await schedules.outside(conn, rules, kept, now)
    await _put_back(conn, rules, phase, [row for row in claimed if row["device_no"] in later], later)
    claimed = [row for row in claimed if row["device_no"] not in later]
    attempts = {row["device_no"]: row["attempt"] for row in claimed}
    strata = {row["device_no"]: row["stratum"] for row in claimed}
    unheld = sorted(attempts.keys() - claim.held.keys())
    free = {
        row["device_no"] for row in await conn.fetch(_SLOTS, unheld, rules.campaign_no, [attempts[d] for d in unheld])
    }
    holders = await cache.get(conn, claim.held.values())
    existing = await rows.lock(
        conn,
        [*((device, rules.campaign_no) for device, attempt in attempts.items() if attempt > 1), *claim.held.items()],
    )
    over = retrying.over(rules, {key: row for key, row in existing.items() if key[1] == rules.campaign_no})
    over |= claim.dismissed.keys()
    await retrying.give_back(conn, rules.campaign_no, over.intersection(free))
    theirs = {device: no for device, no in claim.held.items() if device not in over}
    taken = await takeover.takeable(conn, rules, holders, theirs, existing) if theirs else {}
    offered_to = sorted({*free, *taken} - over)
    busy = [row for row in claimed if row["device_no"] not in over.union(free, taken)]
    again = {row["device_no"]: claims.passed_over(asking, row["device_no"]) for row in busy}
    await _put_back(conn, rules, phase, busy, again)
    if not offered_to and not over:
        return done
    _, _, epoch = await control_state(conn, rules.campaign_no)
    placed = await _place(ids, rules.campaign_no, phase, epoch, now, offered_to, attempts) if offered_to else []
    changes = rows.Changes({rules.campaign_no: rules, **holders}, SHARD)
    withdrawn = takeover.withdraw(changes, taken, now)
    deadlines: list[tuple[int, int, int, int, str]] = []
    for entry in placed:
        assert entry.attempt is not None
        assert entry.action_base is not None
        for index, device in enumerate(entry.device_nos):
            offer = Offer(attempt=entry.attempt, action_id=entry.action_base + index, gate_epoch=epoch, at=now)
            old = existing.get((device, rules.campaign_no))
            new = (
                offered(rules.campaign_no, device, phase, strata[device], offer)
                if old is None
                else offered_again(old, offer)
            )
            changes.add(old, new)
            what = due(new, rules.offer_ttl, rules.confirm_deadline)
            assert what is not None
            deadlines.append((what[1], rules.campaign_no, device, new.attempt, what[0]))
    await rows.queue_due(conn, deadlines)
    await changes.write(conn)
    failpoints.hit("slice.before_ledger")
    await share_control(conn, rules.campaign_no)
    state, version, still = await control_state(conn, rules.campaign_no)
    if (
        state != CampaignState.RUNNING
        or still != epoch
        or await halted_strata(conn, rules.campaign_no) != asking.halted
    ):
        raise _StoppedError(state)
    if version != paced or await withheld(conn) or await breaker.hold(conn, rules.campaign_no) != held:
        raise _StoppedError(state)
    placed += retrying.unqueued(rules.campaign_no, over, attempts, claim.dismissed, epoch, now)
    ended = [await _versioned(conn, entry) for entry in withdrawn]
    await ledger.append(conn, [*ended, *(replace(entry, control_version=version) for entry in placed)])
    failpoints.hit("slice.before_commit")
    done.granted, done.superseded = len(offered_to), len(taken)
    return done


async def _versioned(conn: asyncpg.Connection, entry: Entry) -> Entry:
    """The row of an offer that was taken over, with its own campaign's control as it is seen now."""
    _, version, epoch = await control_state(conn, entry.campaign_no)
    return replace(entry, control_version=version, gate_epoch=epoch)


async def _put_back(
    conn: asyncpg.Connection,
    rules: CampaignRules,
    phase: int,
    claimed: Sequence[asyncpg.Record],
    not_before: Mapping[int, int],
) -> None:
    """Back to where they were in the queue, to be looked at again at their time: claiming took them out."""
    if not claimed:
        return
    kept = ("rank", "device_no", "stratum", "attempt")
    await conn.copy_records_to_table(
        "offer_queue",
        columns=rows.QUEUED,
        records=[
            (rules.campaign_no, phase, *(row[name] for name in kept), not_before[row["device_no"]]) for row in claimed
        ],
    )


async def _place(
    ids: AsyncEngine,
    campaign_no: int,
    phase: int,
    epoch: int,
    now: int,
    devices: Sequence[int],
    attempts: Mapping[int, int],
) -> list[Entry]:
    """Offer rows, one per attempt number, with action ids reserved for all of them."""
    by_attempt: dict[int, list[int]] = defaultdict(list)
    for device in sorted(devices):
        by_attempt[attempts[device]].append(device)
    base = await ledger.reserve_actions(ids, len(devices))
    placed: list[Entry] = []
    for attempt in sorted(by_attempt):
        placed.append(
            Entry(
                campaign_no=campaign_no,
                kind=Kind.OFFER,
                device_nos=by_attempt[attempt],
                at=now,
                phase=phase,
                gate_epoch=epoch,
                attempt=attempt,
                action_base=base,
            )
        )
        base += len(by_attempt[attempt])
    return placed
