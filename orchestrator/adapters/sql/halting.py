"""The halt rules, evaluated in the transaction that added the failures.

The counters are read after the gate's lock is held and in one statement, so n and f are of one snapshot and no failure is left out:
of two transactions that add failures at once, the second sees the first one's. A crossing appends the halt and closes control in the
same transaction; at its commit no offer or start of the campaign is in flight, because those hold the control lock shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from orchestrator import failpoints
from orchestrator.adapters.sql import campaigns
from orchestrator.adapters.sql.dispatch import halted_strata
from orchestrator.adapters.sql.locks import GATE
from orchestrator.adapters.sql.rules import CampaignRules
from orchestrator.app.ports import Meta
from orchestrator.domain import campaign as c
from orchestrator.domain.boundary import f_star
from orchestrator.domain.gate import Cell, HaltVerdict, Judgement, Verdict, judge, suspects
from orchestrator.telemetry.propagation import current_traceparent
from schemas.campaign_events import CampaignHalted, StratumCount, StratumHalted


@dataclass(frozen=True, slots=True)
class Failure:
    """A release failure that a transaction added, for the record of what crossed."""

    at: int
    stratum: int
    fact: dict[str, Any] | None = None


async def evaluate(
    conn: asyncpg.Connection, rules: CampaignRules, failures: Sequence[Failure], now: int
) -> CampaignHalted | None:
    """Evaluate every halt rule of a campaign; on a crossing halt it. Returns the halt that this transaction appended."""
    await conn.execute("SELECT pg_advisory_xact_lock($1, $2)", GATE, rules.campaign_no)
    control = await conn.fetchrow(
        "SELECT state, gate_epoch FROM control WHERE campaign_no = $1 AND stratum = -1", rules.campaign_no
    )
    if control is None:
        return None
    epoch: int = control["gate_epoch"]
    rows = await conn.fetch(
        "SELECT phase, stratum, sum(started)::bigint AS n, sum(failed)::bigint AS f FROM gate_count"
        " WHERE campaign_no = $1 AND gate_epoch = $2 GROUP BY phase, stratum",
        rules.campaign_no,
        epoch,
    )
    cells = [Cell(row["phase"], rules.strata[row["stratum"]], row["n"], row["f"]) for row in rows]
    alone = {rules.strata[number] for number in await halted_strata(conn, rules.campaign_no)}
    judged = judge(rules.dossier.rules, cells, alone, [key for key, size in rules.dossier.strata.items() if size])
    await _record(conn, rules.campaign_no, epoch, judged, now)
    if control["state"] not in {c.CampaignState.RUNNING, c.CampaignState.PAUSED}:
        return None
    for verdict in judged.strata:
        await _halt_stratum(conn, rules, epoch, verdict, failures)
    return None if judged.campaign is None else await _halt(conn, rules, epoch, cells, judged.campaign, failures)


async def _record(
    conn: asyncpg.Connection,
    campaign_no: int,
    epoch: int,
    judged: Judgement,
    now: int,
) -> None:
    verdicts = [*judged.strata, *([judged.campaign] if judged.campaign else [])]
    crossed = {(verdict.rule, verdict.scope_key) for verdict in verdicts}
    rows = [
        (
            campaign_no,
            count.table.name,
            count.scope_key,
            epoch,
            count.n,
            count.f,
            f_star(count.table.horizons, count.n),
            str(Verdict.HALT if (count.table.name, count.scope_key) in crossed else Verdict.HOLD),
            "evidence",
            now,
        )
        for count in sorted(judged.counts, key=lambda item: (item.table.name, item.scope_key))
    ]
    await conn.executemany(
        "INSERT INTO gate AS t (campaign_no, rule, scope, gate_epoch, n, f, bound, verdict, reason, evaluated_at)"
        " VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10) ON CONFLICT (campaign_no, rule, scope, gate_epoch) DO UPDATE"
        " SET n = excluded.n, f = excluded.f, bound = excluded.bound, evaluated_at = excluded.evaluated_at,"
        " verdict = CASE WHEN t.verdict = 'halt' THEN t.verdict ELSE excluded.verdict END",
        rows,
    )


async def _halt(
    conn: asyncpg.Connection,
    rules: CampaignRules,
    epoch: int,
    cells: Sequence[Cell],
    verdict: HaltVerdict,
    failures: Sequence[Failure],
) -> CampaignHalted | None:
    strata: dict[str, tuple[int, int]] = {}
    for cell in cells:
        n, f = strata.get(cell.stratum, (0, 0))
        strata[cell.stratum] = n + cell.n, f + cell.f
    blamed = suspects(strata, verdict.p0)
    named = {item.stratum for item in blamed}
    breakdown = [StratumCount(stratum=s.stratum, started=s.n, failures=s.f, log_e=s.log_e) for s in blamed]
    breakdown += [
        StratumCount(stratum=key, started=n, failures=f, log_e=0.0)
        for key, (n, f) in sorted(strata.items())
        if key not in named
    ]
    crossing = _crossing(verdict, failures)

    def build(campaign: c.Campaign, standing: Any) -> c.Command:
        return c.Halt(
            event=CampaignHalted(
                by="gate",
                reason=verdict.detail,
                phase=campaign.phase,
                gate_epoch=epoch,
                ledger_position=standing.ledger_position,
                rule=verdict.rule,
                scope=verdict.scope_key,
                n=verdict.n,
                f=verdict.f,
                bound=verdict.f_star,
                log_e=verdict.log_e,
                p0=verdict.p0,
                alpha=verdict.alpha,
                strata=breakdown,
                failed_at=None if crossing is None else crossing.at,
                fact=None if crossing is None else crossing.fact,
            )
        )

    done = await campaigns.execute(
        conn,
        rules.campaign_id,
        build,
        command_id=f"halt/{rules.campaign_id}/{verdict.scope_key}/{epoch}",
        meta=Meta(actor="gate", reason=verdict.detail, traceparent=current_traceparent()),
    )
    if done.events:
        failpoints.hit("halt.before_commit")
    return done.events[0].event if done.events else None


async def _halt_stratum(
    conn: asyncpg.Connection, rules: CampaignRules, epoch: int, verdict: HaltVerdict, failures: Sequence[Failure]
) -> None:
    stratum = verdict.scope_key.removeprefix("stratum/")
    number = rules.strata.index(stratum)
    crossing = _crossing(verdict, [failure for failure in failures if failure.stratum == number])

    def build(campaign: c.Campaign, standing: Any) -> c.Command:
        return c.HaltStratum(
            event=StratumHalted(
                stratum=stratum,
                reason=verdict.detail,
                phase=campaign.phase,
                gate_epoch=epoch,
                ledger_position=standing.ledger_position,
                rule=verdict.rule,
                n=verdict.n,
                f=verdict.f,
                bound=verdict.f_star,
                log_e=verdict.log_e,
                p0=verdict.p0,
                alpha=verdict.alpha,
                failed_at=None if crossing is None else crossing.at,
                fact=None if crossing is None else crossing.fact,
            )
        )

    done = await campaigns.execute(
        conn,
        rules.campaign_id,
        build,
        command_id=f"halt/{rules.campaign_id}/{verdict.scope_key}/alone/{epoch}",
        meta=Meta(actor="gate", reason=verdict.detail, traceparent=current_traceparent()),
    )
    if done.events:
        failpoints.hit("halt.before_commit")


def _crossing(verdict: HaltVerdict, failures: Sequence[Failure]) -> Failure | None:
    """The failures of one transaction count together; the one that reached the bound is the one that crossed."""
    before = verdict.f - len(failures)
    return failures[min(len(failures) - 1, max(0, verdict.f_star - before - 1))] if failures else None
