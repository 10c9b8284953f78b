"""``domain.remediation`` as expressions over ``device``, and the drafts of a remediation, made in one transaction with their event.

Not here: the plans of the drafts (``app.remediation``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.sql import campaigns, event_log, rows
from orchestrator.adapters.sql.engine import driver, transaction
from orchestrator.app.ports import Meta, Recorded
from orchestrator.app.queries import RemediationStatus
from orchestrator.app.remediation import SAMPLES, Updated
from orchestrator.domain import campaign as c
from orchestrator.domain.assignment import IN_TRIAL
from orchestrator.domain.plan import CohortSpec, Plan
from orchestrator.domain.remediation import CLEARED, RAN, dismissal
from schemas.campaign_events import RemediationDrafted
from schemas.ledger import Cause


def _texts(values: frozenset[Any]) -> str:
    return ", ".join(f"'{value}'" for value in sorted(values))


_MAY_RUN: Final = f"""a.first_started_at IS NOT NULL AND CASE WHEN a.state = 'failed'
    THEN a.progress IN ({_texts(IN_TRIAL)}) OR coalesce(a.failure_class IN ({_texts(RAN)}), false)
    ELSE a.state NOT IN ({_texts(CLEARED)}) END"""
_MOVED_ON: Final = """EXISTS (SELECT FROM assignment o WHERE o.device_no = a.device_no AND o.campaign_no <> a.campaign_no
    AND o.state = 'confirmed' AND o.changed_at > a.first_started_at)"""
_EARLIER: Final = """(SELECT r.release_id FROM assignment o JOIN campaign r ON r.campaign_no = o.campaign_no
    WHERE o.device_no = a.device_no AND o.campaign_no <> a.campaign_no AND o.state = 'confirmed'
    AND o.changed_at <= a.first_started_at AND r.release_id <> p.release_id
    ORDER BY o.changed_at DESC, o.campaign_no DESC LIMIT 1)"""
_LOST: Final = f"(a.state = 'expired' AND a.progress IN ({_texts(IN_TRIAL)}))"
_UPDATED: Final = f"""FROM assignment a JOIN campaign p ON p.campaign_no = a.campaign_no
    WHERE p.campaign_id = {{campaign}} AND {_MAY_RUN} AND NOT {_MOVED_ON}"""
_MEMBERS: Final = f"""(SELECT a.device_no, {_LOST} AS silent, {_EARLIER} AS previously {_UPDATED.format(campaign="$1")}) u
JOIN device USING (device_no)"""
_SURVEY: Final = f"""SELECT previously, silent, hardware_model, count(*)::bigint AS devices FROM {_MEMBERS}
GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1 NULLS LAST, 2, 3"""
_SAMPLE: Final = f"""SELECT device_id FROM {_MEMBERS}
WHERE hardware_model = $2 AND silent = $3 AND ($4::boolean OR previously IS NOT DISTINCT FROM $5::text)
ORDER BY device_no LIMIT {SAMPLES}"""


def updated(cohort: CohortSpec, first: int) -> tuple[str, list[Any]]:
    """``remediation.is_updated`` and ``previously`` as a condition on ``device``, and its parameters, numbered from ``first`` on."""
    if cohort.updated_by is None:
        return "true", []
    condition, parameters = _UPDATED.format(campaign=f"${first}::text"), [cohort.updated_by]
    if cohort.previously is not None:
        condition += f" AND {_EARLIER} = ${first + 1}::text"
        parameters.append(cohort.previously)
    return f"EXISTS (SELECT {condition} AND a.device_no = device.device_no)", parameters


async def dismissed(conn: asyncpg.Connection, plan: Plan, devices: Sequence[int]) -> dict[int, Cause]:
    """Those of these devices, whose turn for their first offer has come, that are let go, and why."""
    if plan.cohort.updated_by is None or not devices:
        return {}
    number: Any = await conn.fetchval("SELECT campaign_no FROM campaign WHERE campaign_id = $1", plan.cohort.updated_by)
    found = await rows.read(conn, number, devices)
    causes = {device: dismissal(found.get(device)) for device in devices}
    return {device: cause for device, cause in causes.items() if cause is not None}


async def remediated_by(conn: asyncpg.Connection, recorded: Sequence[Recorded]) -> list[RemediationStatus]:
    """The drafts that a campaign's stream names, and how they stand."""
    told = [(item, item.event) for item in recorded if isinstance(item.event, RemediationDrafted)]
    if not told:
        return []
    ids = [draft.campaign_id for _, event in told for draft in event.drafts]
    states = await conn.fetch("SELECT campaign_id, state FROM campaign WHERE campaign_id = ANY($1::text[])", ids)
    state = {row["campaign_id"]: row["state"] for row in states}
    return [
        RemediationStatus(
            campaign_id=draft.campaign_id,
            state=state[draft.campaign_id],
            kind=event.kind,
            release_id=draft.release_id,
            previously=draft.previously,
            devices=draft.devices,
            at=item.recorded_at,
        )
        for item, event in told
        for draft in event.drafts
    ]


class SqlRemediations:
    """``orchestrator.app.remediation.RemediationStore`` on PostgreSQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def drafted(self, command_id: str) -> RemediationDrafted | None:
        async with driver(self._engine) as conn:
            found = await event_log.of_command(conn, command_id)
        return found[0].event if found else None

    async def survey(self, campaign_id: str) -> list[Updated]:
        async with driver(self._engine) as conn:
            found = await conn.fetch(_SURVEY, campaign_id)
        return [Updated(**row) for row in found]

    async def samples(self, campaign_id: str, of: Updated, *, whatever_before: bool) -> list[str]:
        async with driver(self._engine) as conn:
            found = await conn.fetch(_SAMPLE, campaign_id, of.hardware_model, of.silent, whatever_before, of.previously)
        return [row["device_id"] for row in found]

    async def draft(
        self, campaign_id: str, event: RemediationDrafted, drafts: Sequence[c.Create], *, command_id: str, meta: Meta
    ) -> RemediationDrafted:
        async with transaction(self._engine) as conn:
            # Under the campaign's control lock: of two of the same command the second finds what the first did.
            done = await campaigns.execute(
                conn, campaign_id, lambda *_: c.DraftRemediation(event=event), command_id=command_id, meta=meta
            )
            told: RemediationDrafted = done.events[0].event
            if told.drafts[0].campaign_id != event.drafts[0].campaign_id:
                return told
            for index, draft in enumerate(drafts):
                await campaigns.execute(
                    conn,
                    draft.campaign_id,
                    lambda *_, draft=draft: draft,
                    command_id=f"{command_id}/{index}",
                    meta=meta,
                )
        return told
