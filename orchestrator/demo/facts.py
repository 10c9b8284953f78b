"""What the database, the ledger and the log say, counted by SQL of its own: the judge shares no code with the judged. Reads only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import msgspec

from orchestrator.demo import recount

ACTIVE: Final = ("offered", "accepted", "downloading", "installed", "trial")
BAD_ENDS: Final = ("reverted", "failed", "rejected", "expired")
"""Ends that are no success and that nobody ordered."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a campaign is."""

    state: str
    phase: int
    phase_state: str
    states: dict[str, int]
    """Devices by assignment state."""

    @property
    def in_flight(self) -> int:
        return sum(self.states.get(state, 0) for state in ACTIVE)


@dataclass(frozen=True, slots=True)
class Ended:
    """A campaign at its end, with every device accounted for."""

    campaign_id: str
    state: str
    cohort: int
    holdback: int
    exposed: int
    """Devices that the ledger says were started."""
    confirmed: int
    failures: int
    """Devices with a release failure in any attempt."""
    failed: int
    """Devices whose last attempt ended in reverted, failed, rejected or expired."""
    launched_at: int
    ended_at: int
    """When the event that ended it was recorded, milliseconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Halt:
    """A halt, as the log recorded it, and what the ledger holds beyond it."""

    by: str
    reason: str
    phase: str | None
    """The name of the phase that was open."""
    rule: str | None
    scope: str | None
    started: int | None
    failures: int | None
    bound: int | None
    culprit: str | None
    """The stratum with the strongest evidence."""
    position: int
    recorded_at: int
    """Taken after the exclusive control lock, hence after every start that came before it; milliseconds since the epoch."""
    failed_at: int | None
    offers_after: int
    starts_after: int


class Facts:
    """A read-only connection to the product's database."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._sql = connection

    @classmethod
    async def connect(cls, url: str) -> Facts:
        settings = {"application_name": "ota-demo", "default_transaction_read_only": "on"}
        connection = await asyncpg.connect(url, server_settings=settings)
        await connection.set_type_codec(
            "jsonb", encoder=_encode, decoder=msgspec.json.decode, schema="pg_catalog", format="text"
        )
        return cls(connection)

    async def close(self) -> None:
        await self._sql.close()

    # ---- devices

    async def devices_reported(self) -> int:
        """Devices whose attributes have been projected."""
        return await self._count("SELECT count(*) FROM device WHERE reported_at IS NOT NULL")

    # ---- campaigns

    async def progress(self, campaign_id: str) -> Progress:
        """Counters as an operator sees them."""
        row = await self._sql.fetchrow(
            "SELECT campaign_no, state, phase, phase_state FROM campaign WHERE campaign_id = $1", campaign_id
        )
        assert row is not None, "the campaign was created through the API"
        counted = await self._sql.fetch(
            "SELECT state, sum(n)::int AS n FROM counter WHERE campaign_no = $1 GROUP BY state", row["campaign_no"]
        )
        states = {each["state"]: each["n"] for each in counted if each["n"]}
        return Progress(row["state"], row["phase"], row["phase_state"], states)

    async def ended(self, campaign_id: str) -> Ended:
        """A campaign that is completed or halted and has no device in flight."""
        campaign = await self._sql.fetchrow(
            "SELECT campaign_no, state, enrolment FROM campaign WHERE campaign_id = $1", campaign_id
        )
        assert campaign is not None, "the campaign was created through the API"
        times: Mapping[str, int] = dict(
            await self._sql.fetch(
                "SELECT type, min(recorded_at) FROM event_log WHERE stream = $1 GROUP BY type",
                f"campaign/{campaign_id}",
            )
        )
        number = campaign["campaign_no"]
        ends = await self._sql.fetchrow(
            "SELECT count(*) FILTER (WHERE state = 'confirmed') AS confirmed, count(failed_at) AS failures,"
            " count(*) FILTER (WHERE state = ANY($2)) AS failed FROM assignment WHERE campaign_no = $1",
            number,
            BAD_ENDS,
        )
        assert ends is not None, "an aggregate has a row"
        return Ended(
            campaign_id=campaign_id,
            state=campaign["state"],
            cohort=campaign["enrolment"]["members"],
            holdback=campaign["enrolment"]["holdback"],
            exposed=await self._started(number),
            confirmed=ends["confirmed"],
            failures=ends["failures"],
            failed=ends["failed"],
            launched_at=times["CampaignLaunched"],
            ended_at=times.get("CampaignHalted") or times.get("CampaignCompleted") or max(times.values()),
        )

    async def halt(self, campaign_id: str) -> Halt | None:
        """The campaign's first halt."""
        row = await self._sql.fetchrow(
            "SELECT c.campaign_no, c.plan, e.data, e.recorded_at FROM event_log e JOIN campaign c ON c.campaign_id = $1"
            " WHERE e.stream = $2 AND e.type = 'CampaignHalted' ORDER BY e.position LIMIT 1",
            campaign_id,
            f"campaign/{campaign_id}",
        )
        if row is None:
            return None
        said, number = row["data"], row["campaign_no"]
        beyond: Mapping[str, int] = dict(
            await self._sql.fetch(
                "SELECT kind, sum(cardinality(device_nos))::int FROM decision_ledger"
                " WHERE campaign_no = $1 AND position > $2 GROUP BY kind",
                number,
                said["ledger_position"],
            )
        )
        strata = said.get("strata") or []
        return Halt(
            by=said["by"],
            reason=said["reason"],
            phase=None if said["phase"] is None else row["plan"]["phases"][said["phase"]]["name"],
            rule=said.get("rule"),
            scope=said.get("scope"),
            started=said.get("n"),
            failures=said.get("f"),
            bound=said.get("bound"),
            culprit=strata[0]["stratum"] if strata else None,
            position=said["ledger_position"],
            recorded_at=row["recorded_at"],
            failed_at=said.get("failed_at"),
            offers_after=beyond.get("offer", 0),
            starts_after=beyond.get("start", 0),
        )

    async def campaign_of_actions(self) -> dict[int, str]:
        """Every action id that was ever given out, and its campaign's id."""
        rows = await self._sql.fetch(
            "SELECT l.action_base, cardinality(l.device_nos) AS n, c.campaign_id FROM decision_ledger l"
            " JOIN campaign c USING (campaign_no) WHERE l.kind = 'offer'"
        )
        return {row["action_base"] + index: row["campaign_id"] for row in rows for index in range(row["n"])}

    # ---- invariants

    async def counter_differences(self) -> int:
        """Counters that differ from a count of the rows, over the three tables of counters."""
        return sum([await self._count(query) for query in recount.DIFFERENCES])

    async def double_assignments(self) -> int:
        """Devices with two assignments in flight, or one in flight that does not hold the device's slot."""
        return await self._count(recount.DOUBLE_ASSIGNMENTS, ACTIVE)

    async def _started(self, campaign_no: int) -> int:
        return await self._count(
            "SELECT count(DISTINCT device_no) FROM decision_ledger, unnest(device_nos) AS device_no"
            " WHERE campaign_no = $1 AND kind = 'start'",
            campaign_no,
        )

    # ---- events

    async def timeline_ids(self) -> set[str]:
        """Distinct statements that were applied."""
        return {row[0] for row in await self._sql.fetch("SELECT DISTINCT event_id FROM timeline")}

    async def dead_letter_ids(self) -> set[str]:
        """Distinct statements that could not be; one without an identity counts by its place."""
        rows = await self._sql.fetch(
            "SELECT DISTINCT coalesce(event_id, topic || '/' || partition || '/' || \"offset\") FROM dead_letter"
        )
        return {row[0] for row in rows}

    async def positions(self) -> dict[int, int]:
        """Next offset that the fleet projection reads, by partition."""
        return dict(
            await self._sql.fetch("SELECT partition, max(next_offset) FROM projection_position GROUP BY partition")
        )

    async def _count(self, query: str, *arguments: object) -> int:
        return await self._sql.fetchval(query, *arguments) or 0


def _encode(value: Any) -> str:
    return msgspec.json.encode(value).decode()
