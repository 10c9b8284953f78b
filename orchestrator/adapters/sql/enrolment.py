"""Enrolment: the cohort is frozen into the ledger and the offer queue, in one transaction.

The members are the devices that were registered when the dossier was submitted, so approvers and halt tables are about the same
devices; if their strata no longer fit the dossier, the campaign halts and says so.

The database selects, orders and queues, because a million devices would take seconds and hundreds of megabytes here. What it does is
defined by the domain (``selection.select``, ``cohort.assign_phases``, ``cohort.interleave``) and compared with it by a test; shares
are computed by the domain itself. The replay of the ledger queues by the domain alone, so every rebuild compares the two as well.

Control is taken only when everything but the ledger's rows is written: a halt does not wait for the selection, it undoes it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import failpoints
from orchestrator.adapters.sql import campaigns, ledger
from orchestrator.adapters.sql.engine import transaction
from orchestrator.adapters.sql.locks import own_control
from orchestrator.adapters.sql.rules import CampaignRules, RulesCache
from orchestrator.adapters.sql.selection import OTHERS, cohort_of
from orchestrator.app.ports import Meta, Standing
from orchestrator.domain import campaign as c
from orchestrator.domain import cohort
from orchestrator.domain.cohort import HOLDBACK
from orchestrator.domain.selection import Target
from schemas.campaign_events import CampaignHalted
from schemas.ledger import Entry, Kind

LEDGER_ROW: Final = 5_000
"""Most devices of a ledger row: larger arrays are read and hashed whole."""

LEDGER_PAGE: Final = 20
"""Ledger rows in memory at a time: a hundred thousand device numbers are a few megabytes."""

STATEMENT_S: Final = 540.0
"""Longest statement, seconds: a million devices take two. Less than the ten minutes of the step that enrols."""

NAMED: Final = 3
"""How many strata a refusal names."""

_ENROLLING: Final = """CREATE TEMPORARY TABLE enrolling
(device_no int NOT NULL, stratum smallint, named smallint NOT NULL, place int NOT NULL, unknown text[]) ON COMMIT DROP"""

# ``place`` counts from 0 in the order of ``cohort.unit_hash``, then of the device id's code points, among those of the stratum that
# the same phase names, or none. A device of a stratum that the dossier does not have keeps its values instead.
_SELECT: Final = """INSERT INTO enrolling
SELECT device_no, stratum, {named},
    row_number() OVER (PARTITION BY stratum{by_name} ORDER BY
        substr(sha256($1::bytea || convert_to(device_id, 'UTF8')), 1, 8), device_id COLLATE "C") - 1,
    CASE WHEN stratum IS NULL THEN ARRAY[{found}]::text[] END
FROM device LEFT JOIN
    (SELECT stratum, ARRAY[{known}]::text[] AS found FROM unnest($2::smallint[]{arrays}) AS u(stratum{names})) AS known
    ON known.found = ARRAY[{found}]::text[]
WHERE {selected} AND registered_at <= $3"""

_RANGES: Final = """unnest($1::smallint[], $2::smallint[], $3::smallint[], $4::int[], $5::int[])
    AS r(phase, stratum, named, first, past)"""

# The same floating-point division as in ``cohort.interleave``, so the same order.
_QUEUE: Final = f"""INSERT INTO offer_queue (campaign_no, phase, rank, device_no, stratum, attempt, not_before)
SELECT $6, phase, row_number() OVER (PARTITION BY phase ORDER BY (place - first + 0.5::float8) / (past - first), stratum) - 1,
    device_no, stratum, 1, 0
FROM enrolling JOIN {_RANGES} USING (stratum, named) WHERE phase >= 0 AND place >= first AND place < past"""

_FROZEN: Final = f"""SELECT phase, stratum, array_agg(device_no ORDER BY place) AS device_nos
FROM enrolling JOIN {_RANGES} USING (stratum, named) WHERE place >= first AND place < past
GROUP BY phase, stratum, (place - first) / $6 ORDER BY phase, stratum, (place - first) / $6"""


class _OvertakenError(Exception):
    """The campaign changed while its cohort was selected: nothing of the selection may stay."""


class _Range(NamedTuple):
    """Places of a stratum, among those of its devices that the same phase names or none does, that belong to a phase."""

    phase: int
    stratum: int
    named: int
    first: int
    past: int


async def enrol(engine: AsyncEngine, cache: RulesCache, campaign_id: str, now: int) -> c.Campaign:
    """Enrol once; a campaign that is enrolled already, or not running, is returned as it is."""
    try:
        async with transaction(engine) as conn:
            return await _enrol(conn, cache, campaign_id, now)
    except _OvertakenError:
        async with transaction(engine) as conn:
            return await campaigns.load(conn, campaign_id)


async def _enrol(conn: asyncpg.Connection, cache: RulesCache, campaign_id: str, now: int) -> c.Campaign:
    campaign = await campaigns.load(conn, campaign_id)
    if not _due(campaign):
        return campaign
    await _own_pacing(conn, campaign.campaign_no)
    campaign = await campaigns.load(conn, campaign_id)  # somebody else may have enrolled while this one waited
    if not _due(campaign):
        return campaign
    rules = (await cache.get(conn, [campaign.campaign_no]))[campaign.campaign_no]
    await _select(conn, rules)
    strata, named = await _sizes(conn, rules)
    grown = [*_grown(rules, strata, named), *await _unknown(conn, rules)]
    if grown:
        await _own_control(conn, campaign)
        return await _refuse(conn, campaign, grown)
    return await _freeze(conn, rules, campaign, cohort.allot(strata, rules.dossier.plan, named), now)


def _due(campaign: c.Campaign) -> bool:
    return campaign.state is c.CampaignState.RUNNING and not campaign.enrolled


async def _own_pacing(conn: asyncpg.Connection, campaign_no: int) -> None:
    """Hold the campaign's pacing row, made here: of two enrolments the second waits and then finds what the first did."""
    await conn.execute(
        "INSERT INTO pacing (campaign_no, granted, slices, phase, credit, bucket_at) VALUES ($1, 0, 0, -1, 0, 0)"
        " ON CONFLICT DO NOTHING",
        campaign_no,
    )
    await conn.execute("SELECT 1 FROM pacing WHERE campaign_no = $1 FOR UPDATE", campaign_no)


async def _own_control(conn: asyncpg.Connection, campaign: c.Campaign) -> None:
    """Keep the campaign as it is from here on. Raises _OvertakenError if it is not that any more."""
    await own_control(conn, campaign.campaign_no)
    if (await campaigns.load(conn, campaign.campaign_id)).version != campaign.version:
        raise _OvertakenError


# --------------------------------------------------------------------------- the cohort


async def _select(conn: asyncpg.Connection, rules: CampaignRules) -> None:
    """Fill ``enrolling`` with the cohort, each device at its place in its stratum."""
    plan = rules.dossier.plan
    release = await conn.fetchrow("SELECT version, artifacts FROM release WHERE release_id = $1", rules.release_id)
    assert release is not None
    submitted_at = await conn.fetchval(
        "SELECT max(coalesce((data ->> 'counted_at')::bigint, recorded_at)) FROM event_log"
        " WHERE stream = $1 AND type = 'CampaignSubmitted'",
        campaigns.stream_of(rules.campaign_id),
    )
    dimensions = plan.cohort.stratify_by
    values = [cohort.stratum_values(dimensions, key) for key in rules.strata]
    known = [f"v{index}" for index in range(len(dimensions))]
    sql = cohort_of(plan, Target(release["version"], release["artifacts"]), 4 + len(known))
    query = _SELECT.format(
        found=", ".join(sql.dimensions),
        known=", ".join(known),
        arrays="".join(f", ${index}::text[]" for index in range(4, 4 + len(known))),
        names="".join(f", {name}" for name in known),
        named=sql.named,
        by_name=f", {sql.named}" if rules.dossier.named else "",
        selected=sql.condition,
    )
    await conn.execute(_ENROLLING)
    await conn.execute(
        query,
        f"{plan.salt}\0".encode(),
        list(range(len(values))),
        submitted_at,
        *([each[index] for each in values] for index in range(len(dimensions))),
        *sql.parameters,
        timeout=STATEMENT_S,
    )


async def _sizes(conn: asyncpg.Connection, rules: CampaignRules) -> tuple[dict[str, int], dict[int, dict[str, int]]]:
    """Devices by stratum, of strata that the dossier has, and those of them that phases name; what has no device is left out."""
    rows = await conn.fetch(
        "SELECT stratum, named, count(*) AS n FROM enrolling WHERE stratum IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2",
        timeout=STATEMENT_S,
    )
    strata: defaultdict[str, int] = defaultdict(int)
    named: defaultdict[int, dict[str, int]] = defaultdict(dict)
    for row in rows:
        key = rules.strata[row["stratum"]]
        strata[key] += row["n"]
        if row["named"] != OTHERS:
            named[row["named"]][key] = row["n"]
    return dict(strata), dict(named)


def _grown(rules: CampaignRules, strata: Mapping[str, int], named: cohort.Named) -> Iterator[str]:
    """What has more devices than were approved: strata, and their parts by name."""
    approved = rules.dossier.named
    parts = [
        (cohort.others_of(strata, named), cohort.others_of(rules.dossier.strata, approved), ""),
        *(
            (found, approved[phase], f" in phase {rules.dossier.plan.phases[phase].name}")
            for phase, found in named.items()
        ),
    ]
    for found, allowed, where in parts:
        yield from (f"{key}{where}" for key, size in found.items() if size > allowed[key])


async def _unknown(conn: asyncpg.Connection, rules: CampaignRules) -> list[str]:
    """Some strata that the dossier does not have."""
    dimensions = rules.dossier.plan.cohort.stratify_by
    rows = await conn.fetch(
        "SELECT DISTINCT unknown FROM enrolling WHERE stratum IS NULL ORDER BY 1 LIMIT $1", NAMED, timeout=STATEMENT_S
    )
    return [cohort.stratum_of(dimensions, row["unknown"]) for row in rows]


async def _refuse(conn: asyncpg.Connection, campaign: c.Campaign, grown: Sequence[str]) -> c.Campaign:
    reason = f"The fleet no longer fits the approved dossier: more devices in {', '.join(sorted(grown)[:NAMED])}."

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


# --------------------------------------------------------------------------- freezing it


def _ranges(rules: CampaignRules, allotment: cohort.Allotment) -> Iterator[_Range]:
    """Phases take whom they name, the others from the front of each stratum's order, the holdback from its far end."""
    plan = rules.dossier.plan
    for stratum, key in enumerate(rules.strata):
        if key not in allotment.strata:
            continue
        first = 0
        for phase, added in enumerate(allotment.phases):
            if plan.phases[phase].names:
                yield _Range(phase, stratum, phase, 0, added[key])
            else:
                yield _Range(phase, stratum, OTHERS, first, first + added[key])
                first += added[key]
        yield _Range(HOLDBACK, stratum, OTHERS, first, first + allotment.holdback[key])


async def _freeze(
    conn: asyncpg.Connection, rules: CampaignRules, campaign: c.Campaign, allotment: cohort.Allotment, now: int
) -> c.Campaign:
    no = rules.campaign_no
    ranges = [range_ for range_ in _ranges(rules, allotment) if range_.first < range_.past]
    columns = [[range_[column] for range_ in ranges] for column in range(len(_Range._fields))]
    await conn.copy_records_to_table("stratum", records=[(no, i, key) for i, key in enumerate(rules.strata)])
    await conn.execute(_QUEUE, *columns, no, timeout=STATEMENT_S)
    frozen = await conn.cursor(_FROZEN, *columns, LEDGER_ROW)
    page = await frozen.fetch(LEDGER_PAGE, timeout=STATEMENT_S)  # sorts now, and not under the locks that follow
    await _own_control(conn, campaign)
    position, _ = await ledger.head(conn)
    while page:
        position = await ledger.append(conn, [_entry(no, row, now) for row in page])
        page = await frozen.fetch(LEDGER_PAGE, timeout=STATEMENT_S)
    failpoints.hit("enrol.before_append")
    sizes = [sum(added.values()) for added in allotment.phases]
    held = sum(allotment.holdback.values())

    def build(_: c.Campaign, __: Standing) -> c.Command:
        return c.Enrol(
            members=sum(sizes) + held,
            holdback=held,
            strata=allotment.strata,
            phases=sizes,
            ledger_position=position,
        )

    done = await campaigns.execute(
        conn, rules.campaign_id, build, command_id=f"enrol/{rules.campaign_id}", meta=Meta(actor="orchestrator")
    )
    failpoints.hit("enrol.before_commit")
    return done.campaign


def _entry(campaign_no: int, row: asyncpg.Record, now: int) -> Entry:
    return Entry(
        campaign_no=campaign_no,
        kind=Kind.ENROL,
        device_nos=row["device_nos"],
        at=now,
        phase=row["phase"],
        stratum=row["stratum"],
    )


def queue_rows(
    rules: CampaignRules, phase: int, strata: Mapping[str, Sequence[int]]
) -> Iterator[tuple[int, int, int, int, int, int, int]]:
    """Rows of ``offer_queue`` for a phase: strata interleaved, first attempt, due at once."""
    stratum = {device: rules.strata.index(key) for key, devices in strata.items() for device in devices}
    for rank, device in enumerate(cohort.interleave(strata)):
        yield rules.campaign_no, phase, rank, device, stratum[device], 1, 0
