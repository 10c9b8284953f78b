"""What the promote test of a phase reads, in one snapshot."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.sql import breaker, retrying
from orchestrator.adapters.sql.dispatch import halted_strata
from orchestrator.adapters.sql.engine import driver
from orchestrator.adapters.sql.retrying import RETRY_RANK
from orchestrator.adapters.sql.rules import CampaignRules, RulesCache
from orchestrator.app.ports import GateReading
from orchestrator.domain.assignment import ACTIVE, State
from orchestrator.domain.running import cut

_JOINED = """SELECT coalesce(array_agg(device_no), '{}') FROM decision_ledger, unnest(device_nos) AS u(device_no)
WHERE campaign_no = $1 AND kind = 'enrol' AND cause = 'joined'"""
_QUEUED = """SELECT count(*) FROM (SELECT 1 FROM offer_queue
WHERE campaign_no = $1 AND phase = $2 AND withheld IS NULL AND stratum <> ALL($3::smallint[])
AND (rank < $4 OR not_before <= $5) AND device_no {}($6::int[]) LIMIT 1000) q"""


async def read_gate(engine: AsyncEngine, cache: RulesCache, campaign_no: int, phase: int, now: int) -> GateReading:
    """Matured devices are those of buckets that ended at least one confirm deadline of running time before ``now`` (ms)."""
    async with driver(engine) as conn, conn.transaction(isolation="repeatable_read", readonly=True):
        rules = (await cache.get(conn, [campaign_no]))[campaign_no]
        return await reading_of(conn, rules, phase, now)


async def reading_of(conn: asyncpg.Connection, rules: CampaignRules, phase: int, now: int) -> GateReading:
    """The same within the caller's snapshot."""
    campaign_no = rules.campaign_no
    halted = await halted_strata(conn, campaign_no)
    grown = cut(await breaker.pauses(conn, campaign_no), now, rules.confirm_deadline)
    ripe = grown // rules.bucket  # buckets below this number ended before the cut
    mature = await conn.fetch(
        "SELECT m.stratum, m.bucket < $3 AS ripe, sum(m.started)::bigint AS started, sum(m.good)::bigint AS good,"
        " sum(m.excluded)::bigint AS excluded FROM maturity m JOIN control k"
        " ON k.campaign_no = m.campaign_no AND k.stratum = -1 AND k.gate_epoch = m.gate_epoch"
        " WHERE m.campaign_no = $1 AND m.phase = $2 GROUP BY m.stratum, ripe",
        campaign_no,
        phase,
        ripe,
    )
    states = await conn.fetch(
        "SELECT phase, stratum, state, sum(n)::bigint AS n FROM counter WHERE campaign_no = $1 GROUP BY phase, stratum, state",
        campaign_no,
    )
    offered: Any = await conn.fetchval(
        "SELECT coalesce(sum(n), 0)::bigint FROM counter"
        " WHERE campaign_no = $1 AND phase = $2 AND state = $3 AND stratum <> ALL($4::smallint[])",
        campaign_no,
        phase,
        State.OFFERED.value,
        halted,
    )
    joined: Any = []
    if rules.dossier.plan.cohort.membership == "continuous":
        joined = await conn.fetchval(_JOINED, campaign_no)
    scope = campaign_no, phase, halted, RETRY_RANK, now, joined
    queued: Any = await conn.fetchval(_QUEUED.format("<> ALL"), *scope)
    late: Any = joined and await conn.fetchval(_QUEUED.format("= ANY"), *scope)
    held = await conn.fetch(
        "SELECT stratum, count(*) AS n FROM offer_queue WHERE campaign_no = $1 AND phase = $2 AND withheld IS NOT NULL"
        " AND stratum <> ALL($3::smallint[]) GROUP BY stratum",
        campaign_no,
        phase,
        halted,
    )
    waiting, unstarted = await retrying.waiting(conn, campaign_no, phase, halted, now)
    share = rules.dossier.phases[phase].strata
    stopped = {rules.strata[number] for number in halted}
    # Of a stratum that other campaigns have taken over whole, or that is withheld whole, there is nothing to wait for.
    withheld = {rules.strata[row["stratum"]]: row["n"] for row in held}
    gone = defaultdict[str, int](int, withheld)
    for row in states:
        if row["phase"] == phase and row["state"] == State.SUPERSEDED.value:
            gone[rules.strata[row["stratum"]]] += row["n"]
    strata = {key: 0 for key in sorted(share) if share[key] > gone[key] and key not in stopped}
    matured = good = ripening = 0
    for row in mature:
        if row["stratum"] in halted:
            continue  # it has its verdict; the promote test asks about the others
        counted = row["started"] - row["excluded"]
        if not row["ripe"]:
            ripening += counted
            continue
        matured, good = matured + counted, good + row["good"]
        if rules.strata[row["stratum"]] in strata:
            strata[rules.strata[row["stratum"]]] = counted
    by_state: dict[str, int] = defaultdict(int)
    for row in states:
        by_state[row["state"]] += row["n"]
    return GateReading(
        matured=matured,
        failures=matured - good,
        strata=strata,
        in_flight=sum(by_state[state.value] for state in ACTIVE),
        queued=queued,
        waiting=waiting,
        late=late or 0,
        confirmed=by_state[State.CONFIRMED.value],
        failed=by_state[State.FAILED.value] + by_state[State.REVERTED.value],
        outstanding=queued + unstarted + offered + ripening,
        ripening=ripening,
        withheld=sum(withheld.values()),
    )
