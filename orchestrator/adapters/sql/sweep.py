"""Deadlines, and what a halt or an abort does to devices: the transactions that end attempts.

An offer that was not started within its time to live expires. A started device that fell silent expires at its confirm deadline;
silence after the image was installed is a release failure and is judged in the same transaction. What may be tried again is queued
again, also what projectors filed because a report ended an attempt (``retrying``). After a halt or abort unstarted offers are
withdrawn and started ones that have not installed are asked to cancel; installed and trial devices are left alone until their verdict.
While the breaker is not closed no deadline passes: an opening waits for the sweep that is about to decide, or is seen by it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import failpoints
from orchestrator.adapters.sql import breaker, halting, ledger, retrying, rows
from orchestrator.adapters.sql.dispatch import control_state, halted_strata
from orchestrator.adapters.sql.engine import transaction
from orchestrator.adapters.sql.locks import GATE, own_control, share_control
from orchestrator.adapters.sql.rules import CampaignRules, RulesCache
from orchestrator.app.ports import DeadlineSweep
from orchestrator.domain.assignment import (
    IN_TRIAL,
    Assignment,
    State,
    cancel_requested,
    due,
    expiry,
    observe,
    overdue,
    withdrawn,
)
from orchestrator.domain.campaign import LIVE, TERMINAL, CampaignState
from orchestrator.domain.retry import Retry, again
from orchestrator.domain.running import Pauses, paused
from schemas.ledger import Cause, Entry, Kind

SHARD = 101
"""Counter shard of sweeps."""

MOST = 1_000
"""Devices per transaction: bounds how long their rows stay locked."""

_BEFORE_ALL = -1
"""In place of a moment up to which deadlines are looked at, ms: none is."""

# Materialized for the same reason as the slice's claim.
_CLAIM = """WITH c AS MATERIALIZED (
    SELECT due_at, campaign_no, device_no, attempt, what FROM due_queue
    WHERE campaign_no = $1
        AND ((what = 'offer' AND due_at <= $2) OR (what = 'confirm' AND due_at <= $3) OR what = 'retry')
    ORDER BY due_at, device_no LIMIT $4 FOR UPDATE SKIP LOCKED)
DELETE FROM due_queue q USING c
WHERE (q.due_at, q.campaign_no, q.device_no, q.attempt, q.what) = (c.due_at, c.campaign_no, c.device_no, c.attempt, c.what)
RETURNING q.device_no, q.attempt, q.what"""


_FORGET = """DELETE FROM due_queue q WHERE q.campaign_no = $1 AND NOT EXISTS (
    SELECT 1 FROM device_slot s WHERE s.device_no = q.device_no AND s.campaign_no = q.campaign_no)"""


class _EndedError(Exception):
    """The campaign ended meanwhile: nothing may be queued again."""


@dataclass(slots=True)
class _Work:
    changes: rows.Changes
    pauses: Pauses
    entries: dict[tuple[Kind, Cause | None, int], list[int]] = field(default_factory=lambda: defaultdict(list))
    again: list[tuple[Assignment, Retry]] = field(default_factory=list)
    failures: list[halting.Failure] = field(default_factory=list)
    not_before: dict[tuple[Cause | None, int], int] = field(default_factory=dict[tuple[Cause | None, int], int])
    """By cause and attempt of a retry."""

    def try_again(self, row: Assignment, retry: Retry) -> None:
        self.again.append((row, retry))
        self.entries[Kind.RETRY, retry.cause, retry.attempt].append(row.device_no)
        self.not_before[retry.cause, retry.attempt] = retry.not_before


class _MovedError(Exception):
    """The breaker moved while deadlines were looked at."""


async def sweep(engine: AsyncEngine, cache: RulesCache, campaign_no: int, now: int, facts_until: int) -> DeadlineSweep:
    """One pass over what is due and, in a stopped campaign, over what is still out. At most ``MOST`` devices of each."""
    while True:
        try:
            return await _sweep(engine, cache, campaign_no, now, facts_until)
        except (_EndedError, _MovedError):
            continue  # what it decides is another matter now


async def _sweep(engine: AsyncEngine, cache: RulesCache, campaign_no: int, now: int, facts_until: int) -> DeadlineSweep:
    async with transaction(engine) as conn:
        state, _, _ = await control_state(conn, campaign_no)
        found = await cache.get(conn, [campaign_no])
        if campaign_no not in found:
            return DeadlineSweep(expired=0, silent=0, requeued=0, withdrawn=0, cancels=0, state=state)
        rules = found[campaign_no]
        pauses = await breaker.pauses(conn, campaign_no)
        # While deadlines stand still none is reached, and to look at each again and again would only cost time.
        until = (_BEFORE_ALL, _BEFORE_ALL) if paused(pauses, now) else (now, facts_until)
        claimed = await conn.fetch(_CLAIM, campaign_no, *until, MOST)
        out: list[int] = []
        halted_alone = await halted_strata(conn, campaign_no)
        stopped = state in {CampaignState.HALTED, CampaignState.ABORTED}
        if stopped or halted_alone:
            slots = await conn.fetch(
                "SELECT s.device_no FROM device_slot s JOIN assignment a USING (device_no, campaign_no)"
                " WHERE s.campaign_no = $1 AND a.cancel_requested_at IS NULL"
                " AND (a.state = ANY($2::text[]) OR (a.state = 'unknown' AND a.started_at IS NULL))"
                " AND ($4 OR a.stratum = ANY($5::smallint[])) ORDER BY s.device_no LIMIT $3",
                campaign_no,
                [State.OFFERED.value, State.ACCEPTED.value, State.DOWNLOADING.value],
                MOST,
                stopped,
                halted_alone,
            )
            out = [row["device_no"] for row in slots]
        # An earlier attempt that was withdrawn leaves its deadline behind; the latest one's must not be taken for it.
        claimed_attempt = {row["device_no"]: row["attempt"] for row in sorted(claimed, key=lambda row: row["attempt"])}
        locked = await rows.lock(conn, [(device, campaign_no) for device in {*claimed_attempt, *out}])
        work = _Work(rows.Changes({campaign_no: rules}, SHARD), pauses)
        reported = {row["device_no"] for row in claimed if row["what"] == retrying.RETRY}
        ended: list[Assignment] = []
        later: list[tuple[int, int, int, int, str]] = []
        for (device, _), row in locked.items():
            if claimed_attempt.get(device) == row.attempt:
                if _expire(work, rules, row, state, now, facts_until):
                    continue
                later.extend(_later(rules, row, pauses))
                if device in reported and state in LIVE and row.stratum not in halted_alone:
                    ended.append(row)
            if device in out:
                _stop(work, rules, row, state, now, alone=row.stratum in halted_alone)
        for row, retry in await retrying.decide(conn, rules, ended, now):
            if retry is None:
                work.entries[Kind.UNQUEUE, None, row.attempt + 1].append(row.device_no)
            else:
                work.try_again(row, retry)
        await rows.queue_due(conn, later)
        await retrying.queue(conn, work.again, now)
        await work.changes.write(conn)
        halted = await _finish(conn, rules, work, now)
        if state in TERMINAL:
            # What was filed for devices that are done; nobody sweeps an ended campaign for ever.
            await conn.execute(_FORGET, campaign_no)
        next_due = await conn.fetchval("SELECT min(due_at) FROM due_queue WHERE campaign_no = $1", campaign_no)
    if work.entries:
        failpoints.hit("sweep.after_commit")
    counted = {kind: sum(len(d) for (k, _, _), d in work.entries.items() if k is kind) for kind in Kind}
    return DeadlineSweep(
        expired=counted[Kind.EXPIRE],
        silent=len(work.failures),
        requeued=len(work.again),
        withdrawn=counted[Kind.WITHDRAW],
        cancels=counted[Kind.CANCEL],
        state=state,
        halted=halted,
        next_due_at=next_due,
    )


def _expire(work: _Work, rules: CampaignRules, row: Assignment, state: str, now: int, facts_until: int) -> bool:
    """Expire one row if it is overdue. Facts move rows after they are filed, so what was filed is only a reason to look."""
    looked_at = now if row.started_at is None else facts_until
    cause = overdue(row, looked_at, rules.offer_ttl, rules.confirm_deadline, work.pauses)
    if cause is None:
        return False
    new = observe(row, expiry(row.attempt, cause, now))
    work.changes.add(row, new)
    work.entries[Kind.EXPIRE, cause, row.attempt].append(row.device_no)
    if new.failed_at is not None and row.failed_at is None:
        work.failures.append(halting.Failure(now, new.stratum))
    retry = again(rules.dossier.plan.retry, new, now, rules.offer_ttl) if state in LIVE else None
    if retry is not None:
        work.try_again(row, retry)
    return True


def _later(rules: CampaignRules, row: Assignment, pauses: Pauses) -> Iterator[tuple[int, int, int, int, str]]:
    """The deadline that a row has now: a device that reports without a start has only that of its offer filed."""
    what = due(row, rules.offer_ttl, rules.confirm_deadline, pauses)
    if what is not None:
        yield what[1], row.campaign_no, row.device_no, row.attempt, what[0]


def _stop(work: _Work, rules: CampaignRules, row: Assignment, state: str, now: int, *, alone: bool) -> None:
    cause = Cause.ABORTED if state == CampaignState.ABORTED else Cause.HALTED
    if row.state is State.OFFERED or (row.state is State.UNKNOWN and row.started_at is None):
        work.changes.add(row, withdrawn(row, row.attempt, cause, now))
        work.entries[Kind.WITHDRAW, cause, row.attempt].append(row.device_no)
        if (
            cause is Cause.HALTED and not alone
        ):  # a resume offers again; nothing of this attempt was revealed, so it does not count
            work.try_again(row, Retry(attempt=row.attempt + 1, not_before=now + rules.offer_ttl, cause=None))
    elif row.state not in IN_TRIAL:
        work.changes.add(row, cancel_requested(row, row.attempt, now))
        work.entries[Kind.CANCEL, cause, row.attempt].append(row.device_no)


def _rows(rules: CampaignRules, work: _Work, version: int, epoch: int, now: int) -> list[Entry]:
    order = {kind: i for i, kind in enumerate(Kind)}
    return [
        Entry(
            campaign_no=rules.campaign_no,
            kind=kind,
            device_nos=sorted(devices),
            at=now,
            attempt=attempt,
            cause=cause,
            gate_epoch=epoch,
            control_version=version,
            not_before=work.not_before[cause, attempt] if kind is Kind.RETRY else None,
        )
        for (kind, cause, attempt), devices in sorted(
            work.entries.items(), key=lambda item: (order[item[0][0]], str(item[0][1]), item[0][2])
        )
    ]


async def _finish(conn: asyncpg.Connection, rules: CampaignRules, work: _Work, now: int) -> bool:
    """Ledger rows and, if a release failure was added, the verdict: in the lock order gate, control, ledger, event log.

    Raises:
        _EndedError: the campaign ended since the sweep began, and something would be queued again.
    """
    if not work.entries:
        return False
    if work.failures:
        await conn.execute("SELECT pg_advisory_xact_lock($1, $2)", GATE, rules.campaign_no)
        await own_control(conn, rules.campaign_no)
    else:
        await share_control(conn, rules.campaign_no)
    if await breaker.pauses(conn, rules.campaign_no) != work.pauses:
        raise _MovedError
    state, version, epoch = await control_state(conn, rules.campaign_no)
    if work.again and state in TERMINAL:
        raise _EndedError
    await ledger.append(conn, _rows(rules, work, version, epoch, now))
    failpoints.hit("sweep.before_commit")
    if not work.failures:
        return False
    return await halting.evaluate(conn, rules, work.failures, now) is not None
