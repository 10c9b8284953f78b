"""Enrolment: the cohort is frozen into the ledger and the offer queue, in one transaction.

The members are the devices that were registered when the dossier was submitted, so approvers and halt tables are about the same
devices; if their strata no longer fit the dossier, the campaign halts and says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.sql import campaigns, ledger
from orchestrator.adapters.sql.engine import transaction
from orchestrator.adapters.sql.locks import own_control
from orchestrator.adapters.sql.rules import CampaignRules, RulesCache
from orchestrator.app.ports import Member, Meta, Standing
from orchestrator.domain import campaign as c
from orchestrator.domain import cohort, selection
from schemas.campaign_events import CampaignHalted
from schemas.ledger import Entry, Kind

HOLDBACK = -1
"""Phase of an enrol row that holds devices back."""

LEDGER_ROW = 5_000
"""Most devices of a ledger row: larger arrays are read and hashed whole."""

PAGE = 10_000
"""Devices read at a time while the cohort is selected."""


async def enrol(engine: AsyncEngine, cache: RulesCache, campaign_id: str, now: int) -> c.Campaign:
    """Enrol once; a campaign that is enrolled already, or not running, is returned as it is."""
    async with transaction(engine) as conn:
        campaign = await campaigns.load(conn, campaign_id)
        if campaign.enrolled or campaign.state is not c.CampaignState.RUNNING:
            return campaign
        rules = (await cache.get(conn, [campaign.campaign_no]))[campaign.campaign_no]
        members = await _members(conn, rules)
        enrolled = cohort.assign_phases(members, rules.dossier.plan)
        await own_control(conn, campaign.campaign_no)
        if (await campaigns.load(conn, campaign_id)).version != campaign.version:
            return await campaigns.load(conn, campaign_id)  # somebody else was faster; they enrolled the same devices
        grown = [key for key, size in enrolled.strata.items() if size > rules.dossier.strata.get(key, 0)]
        if grown:
            return await _refuse(conn, campaign, grown)
        return await _freeze(conn, rules, enrolled, now)


async def _members(conn: asyncpg.Connection, rules: CampaignRules) -> list[cohort.Member]:
    plan = rules.dossier.plan
    release: Any = await conn.fetchval("SELECT artifacts FROM release WHERE release_id = $1", rules.release_id)
    submitted_at = await conn.fetchval(
        "SELECT max(recorded_at) FROM event_log WHERE stream = $1 AND type = 'CampaignSubmitted'",
        campaigns.stream_of(rules.campaign_id),
    )
    wanted = selection.models(plan, release)
    found: list[cohort.Member] = []
    after = -1
    while True:
        page = await conn.fetch(
            "SELECT device_no, device_id, hardware_model, attributes FROM device WHERE device_no > $1"
            " AND hardware_model = ANY($2::text[]) AND registered_at <= $3 ORDER BY device_no LIMIT $4",
            after,
            wanted,
            submitted_at,
            PAGE,
        )
        if not page:
            return found
        after = page[-1]["device_no"]
        found.extend(selection.select(plan, (Member(row[0], row[1], row[2], row[3]) for row in page)))


async def _refuse(conn: asyncpg.Connection, campaign: c.Campaign, grown: Sequence[str]) -> c.Campaign:
    reason = f"The fleet no longer fits the approved dossier: more devices in {', '.join(sorted(grown)[:3])}."

    def build(campaign: c.Campaign, standing: Standing) -> c.Command:
        return c.Halt(
            event=CampaignHalted(
                by="orchestrator",
                reason=reason,
                phase=None,
                gate_epoch=campaign.gate_epoch,
                ledger_position=standing.ledger_position,
            )
        )

    done = await campaigns.execute(
        conn,
        campaign.campaign_id,
        build,
        command_id=f"enrol/{campaign.campaign_id}/refused/{campaign.gate_epoch}",
        meta=Meta(actor="orchestrator", reason=reason),
    )
    return done.campaign


def entries(rules: CampaignRules, phase: int, strata: Mapping[str, Sequence[int]], now: int) -> Iterator[Entry]:
    """Ledger rows that enrol these devices, in the order of the hash within each stratum."""
    for key in sorted(strata):
        devices = strata[key]
        for at in range(0, len(devices), LEDGER_ROW):
            yield Entry(
                campaign_no=rules.campaign_no,
                kind=Kind.ENROL,
                device_nos=list(devices[at : at + LEDGER_ROW]),
                at=now,
                phase=phase,
                stratum=rules.strata.index(key),
            )


def queue_rows(
    rules: CampaignRules, phase: int, strata: Mapping[str, Sequence[int]]
) -> Iterator[tuple[int, int, int, int, int, int, int]]:
    """Rows of ``offer_queue`` for a phase: strata interleaved, first attempt, due at once."""
    stratum = {device: rules.strata.index(key) for key, devices in strata.items() for device in devices}
    for rank, device in enumerate(cohort.interleave(strata)):
        yield rules.campaign_no, phase, rank, device, stratum[device], 1, 0


async def _freeze(conn: asyncpg.Connection, rules: CampaignRules, enrolled: cohort.Enrolment, now: int) -> c.Campaign:
    no = rules.campaign_no
    await conn.execute(
        "INSERT INTO pacing (campaign_no, granted, slices, phase, credit, bucket_at) VALUES ($1, 0, 0, -1, 0, 0)", no
    )
    await conn.copy_records_to_table("stratum", records=[(no, i, key) for i, key in enumerate(rules.strata)])
    for phase, strata in enumerate(enrolled.phases):
        await conn.copy_records_to_table("offer_queue", records=list(queue_rows(rules, phase, strata)))
    rows = list(entries(rules, HOLDBACK, enrolled.holdback, now))
    for phase, strata in enumerate(enrolled.phases):
        rows.extend(entries(rules, phase, strata, now))
    position = await ledger.append(conn, rows)
    sizes = [sum(map(len, strata.values())) for strata in enrolled.phases]
    held = sum(map(len, enrolled.holdback.values()))

    def build(_: c.Campaign, __: Standing) -> c.Command:
        return c.Enrol(
            members=sum(sizes) + held,
            holdback=held,
            strata=enrolled.strata,
            phases=sizes,
            ledger_position=position,
        )

    done = await campaigns.execute(
        conn, rules.campaign_id, build, command_id=f"enrol/{rules.campaign_id}", meta=Meta(actor="orchestrator")
    )
    return done.campaign
