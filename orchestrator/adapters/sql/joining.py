"""Late members: devices that were registered, or begin to match, after the enrolment of a campaign with continuous membership.

A look asks only for what was registered or reported since the one before it, a bounded part of it at a time; the first look goes over
the fleet once, page by page, for what came between the count and the enrolment. How far it is stands in ``late_look``, which is
losable: a look that begins anew finds members where they are. The rows that follow from a joining are made by ``queue_rows`` here
and in the replay alike, from the ledger's rows alone.

Membership is decided under the campaign's control, on the campaign as it then is: who is stopped meanwhile takes nobody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator import failpoints
from orchestrator.adapters.sql import campaigns, ledger, rows
from orchestrator.adapters.sql.engine import transaction
from orchestrator.adapters.sql.enrolment import LEDGER_ROW
from orchestrator.adapters.sql.facts import PROJECTION
from orchestrator.adapters.sql.locks import own_control
from orchestrator.adapters.sql.rules import CampaignRules
from orchestrator.adapters.sql.selection import member
from orchestrator.app.ports import Member, Meta, Standing
from orchestrator.domain import campaign as c
from orchestrator.domain import membership, selection
from orchestrator.domain.cohort import HOLDBACK
from schemas.campaign_events import JoinCut
from schemas.device_events import ATTRIBUTES
from schemas.ledger import Cause, Entry, Kind
from schemas.registry_events import DevicesRegistered

LATE_RANK: Final = 500_000_000
"""Queued behind everybody who was enrolled and before every retry; plus the device's number it is unique within a phase."""

SCANNED: Final = 20_000
"""Devices of the first pass over the fleet that one look takes."""

REGISTRATIONS: Final = 40
"""Events of registration that one look takes; each has 500 devices at most."""

REPORTED: Final = 1_000
"""Facts of each partition that one look takes."""

_LOOK: Final = "SELECT scan_after, events, facts, next_look_at FROM late_look WHERE campaign_no = $1 FOR UPDATE"
_SEE: Final = """INSERT INTO late_look AS t (campaign_no, scan_after, events, facts, next_look_at, refused)
VALUES ($1, $2, $3, $4::jsonb, $5, '{}') ON CONFLICT (campaign_no) DO UPDATE
SET scan_after = excluded.scan_after, events = excluded.events, facts = excluded.facts, next_look_at = excluded.next_look_at"""
_REGISTERED: Final = f"""SELECT position, jsonb_path_query_array(data, '$.devices[*].device_no') AS device_nos FROM event_log
WHERE position > $1 AND position <= $2 AND type = '{DevicesRegistered.__name__}' ORDER BY position LIMIT {REGISTRATIONS}"""
_REPORTED: Final = f"""SELECT DISTINCT device_no FROM unnest($1::int[], $2::bigint[], $3::bigint[]) AS u(p, start, past)
JOIN timeline t ON t."partition" = u.p AND t."offset" >= u.start AND t."offset" < u.past AND t.type = '{ATTRIBUTES}'"""
_MEMBERS: Final = """SELECT u.device_no FROM unnest($2::int[]) AS u(device_no) JOIN
(SELECT unnest(device_nos) AS device_no FROM decision_ledger WHERE campaign_no = $1 AND kind = 'enrol') m USING (device_no)"""
_REFUSE: Final = """INSERT INTO late_refusal (campaign_no, device_no, reason)
SELECT $1, d, r FROM unnest($2::int[], $3::text[]) AS u(d, r)
ON CONFLICT (campaign_no, device_no) DO UPDATE SET reason = excluded.reason"""


class _OvertakenError(Exception):
    """The campaign changed while devices were looked at."""


@dataclass(frozen=True, slots=True)
class _Look:
    """How far the fleet was looked at."""

    scan_after: int | None
    """The first pass goes on after this device; None when it is done."""
    events: int
    facts: dict[int, int]
    """Partition to the offset of the next fact."""
    caught_up: bool = True


async def join(engine: AsyncEngine, rules: CampaignRules, now: int) -> int:
    """Take in who may join, if a look is due; how many did. Nothing of a look stays if the campaign changes under it."""
    try:
        async with transaction(engine) as conn:
            joined = await _join(conn, rules, now)
    except _OvertakenError:
        return 0
    if joined:
        failpoints.hit("join.after_commit")
    return joined


async def _join(conn: asyncpg.Connection, rules: CampaignRules, now: int) -> int:
    no = rules.campaign_no
    row = await conn.fetchrow(_LOOK, no)
    if row is not None and row["next_look_at"] > now:
        return 0
    campaign = await campaigns.load(conn, rules.campaign_id)
    if not membership.is_open(campaign, now):
        return 0
    look, numbers = await _changed(conn, row)
    admission = await _admit(conn, rules, campaign, numbers)
    await _note_refusals(conn, no, admission)
    joins = campaign.joins + bool(admission.joined)
    due = now + membership.pause_ms(joins) if admission.joined or look.caught_up else now
    facts = msgspec.json.encode(look.facts).decode()
    await conn.execute(_SEE, no, look.scan_after, look.events, facts, due)
    await conn.execute(
        "UPDATE late_look SET refused = coalesce((SELECT jsonb_object_agg(reason, n) FROM"
        " (SELECT reason, count(*) AS n FROM late_refusal WHERE campaign_no = $1 GROUP BY 1) c), '{}') WHERE campaign_no = $1"
        " AND $2",
        no,
        bool(admission.joined or admission.refused),
    )
    if not admission.joined:
        return 0
    entries = list(_entries(rules, admission, now))
    await conn.copy_records_to_table("offer_queue", columns=rows.QUEUED, records=list(queue_rows(entries)))
    await own_control(conn, no)
    if (await campaigns.load(conn, rules.campaign_id)).version != campaign.version:
        raise _OvertakenError
    position = await ledger.append(conn, entries)
    failpoints.hit("join.before_append")
    await _append(conn, rules, admission, look, position, now)
    return sum(map(len, admission.joined.values()))


async def _append(
    conn: asyncpg.Connection,
    rules: CampaignRules,
    admission: membership.Admission,
    look: _Look,
    position: int,
    now: int,
) -> None:
    refused: Any = await conn.fetchval("SELECT refused FROM late_look WHERE campaign_no = $1", rules.campaign_no)
    sizes: Counter[int] = Counter()
    strata: Counter[str] = Counter()
    for (phase, stratum), devices in admission.joined.items():
        sizes[phase] += len(devices)
        strata[stratum] += len(devices)

    def build(_: c.Campaign, __: Standing) -> c.Command:
        return c.Join(
            members=sizes.total(),
            holdback=sizes[HOLDBACK],
            strata=dict(sorted(strata.items())),
            phases=[sizes[phase] for phase in range(len(rules.dossier.phases))],
            refused=refused,
            cut=JoinCut(events=look.events, facts={str(p): offset for p, offset in sorted(look.facts.items())}),
            at=now,
            ledger_position=position,
        )

    await campaigns.execute(
        conn,
        rules.campaign_id,
        build,
        command_id=f"join/{rules.campaign_id}/{position}",
        meta=Meta(actor="orchestrator"),
    )


# --------------------------------------------------------------------------- what changed


async def _changed(conn: asyncpg.Connection, row: asyncpg.Record | None) -> tuple[_Look, set[int]]:
    """Devices that were registered or reported since the last look, or are next in the first pass; and how far that is."""
    head: Any = await conn.fetchval("SELECT position FROM event_head")
    positions = await conn.fetch(
        "SELECT partition, next_offset FROM projection_position WHERE projection = $1", PROJECTION
    )
    ends = {item["partition"]: item["next_offset"] for item in positions}
    if row is None:
        return await _scan(conn, _Look(-1, head, ends), set())
    known = {int(partition): offset for partition, offset in row["facts"].items()}
    numbers: set[int] = set()
    registered = await conn.fetch(_REGISTERED, row["events"], head)
    for item in registered:
        numbers.update(item["device_nos"])
    events = registered[-1]["position"] if len(registered) == REGISTRATIONS else head
    # A partition whose log was begun anew, or was not read before, tells too little of what was said: look at everybody once more.
    anew = any(partition not in known or known[partition] > end for partition, end in ends.items())
    facts = {p: end if anew else min(end, known[p] + REPORTED) for p, end in ends.items()}
    moved = [] if anew else [(p, known[p], facts[p]) for p in ends if known[p] < facts[p]]
    if moved:
        reported = await conn.fetch(_REPORTED, *([each[column] for each in moved] for column in range(3)))
        numbers.update(item["device_no"] for item in reported)
    look = _Look(-1 if anew else row["scan_after"], events, facts, caught_up=events == head and facts == ends)
    return await _scan(conn, look, numbers)


async def _scan(conn: asyncpg.Connection, look: _Look, numbers: set[int]) -> tuple[_Look, set[int]]:
    if look.scan_after is None:
        return look, numbers
    page = await conn.fetch(
        f"SELECT device_no FROM device WHERE device_no > $1 ORDER BY device_no LIMIT {SCANNED}", look.scan_after
    )
    numbers.update(item["device_no"] for item in page)
    more = len(page) == SCANNED
    after = page[-1]["device_no"] if more else None
    return _Look(after, look.events, look.facts, caught_up=look.caught_up and not more), numbers


async def _admit(
    conn: asyncpg.Connection, rules: CampaignRules, campaign: c.Campaign, numbers: set[int]
) -> membership.Admission:
    if not numbers:
        return membership.Admission()
    plan = rules.dossier.plan
    release = await conn.fetchrow("SELECT version, artifacts FROM release WHERE release_id = $1", rules.release_id)
    assert release is not None
    target = selection.Target(release["version"], release["artifacts"])
    parameters: list[Any] = []
    condition = member(plan, target, 2, parameters)
    found = await conn.fetch(
        "SELECT device_no, device_id, hardware_model, attributes, version, digest FROM device"
        f" WHERE device_no = ANY($1::int[]) AND {condition} ORDER BY device_no",
        sorted(numbers),
        *parameters,
    )
    candidates = {item["device_no"]: Member(*item) for item in found}
    if not candidates:
        return membership.Admission()
    for item in await conn.fetch(_MEMBERS, rules.campaign_no, list(candidates)):
        del candidates[item["device_no"]]
    members = selection.select(plan, candidates.values(), target)
    present = campaign.enrolment.members if campaign.enrolment else 0
    return membership.admit(rules.dossier, members, present=present, halted=campaign.halted_strata)


async def _note_refusals(conn: asyncpg.Connection, campaign_no: int, admission: membership.Admission) -> None:
    if admission.refused:
        reasons = [str(reason) for reason in admission.refused.values()]
        await conn.execute(_REFUSE, campaign_no, list(admission.refused), reasons)
    joined = [device for devices in admission.joined.values() for device in devices]
    if joined:
        await conn.execute(
            "DELETE FROM late_refusal WHERE campaign_no = $1 AND device_no = ANY($2::int[])", campaign_no, joined
        )


# --------------------------------------------------------------------------- what follows


def _entries(rules: CampaignRules, admission: membership.Admission, now: int) -> Iterator[Entry]:
    for (phase, stratum), devices in sorted(admission.joined.items()):
        for first in range(0, len(devices), LEDGER_ROW):
            yield Entry(
                campaign_no=rules.campaign_no,
                kind=Kind.ENROL,
                cause=Cause.JOINED,
                device_nos=devices[first : first + LEDGER_ROW],
                at=now,
                phase=phase,
                stratum=rules.strata.index(stratum),
            )


def queue_rows(entries: Sequence[Entry]) -> Iterator[tuple[int, int, int, int, int, int, int]]:
    """Rows of ``offer_queue`` for ledger rows of late members, in the order in which they were registered."""
    for entry in entries:
        assert entry.phase is not None
        assert entry.stratum is not None
        if entry.phase != HOLDBACK:
            for device in entry.device_nos:
                yield entry.campaign_no, entry.phase, LATE_RANK + device, device, entry.stratum, 1, 0
