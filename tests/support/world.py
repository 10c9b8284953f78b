"""A small fleet on a real database, driven transaction by transaction: no broker, no Temporal, no clock to wait for."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.sql.campaigns import SqlCampaignStore
from orchestrator.adapters.sql.decisions import SqlDecisions
from orchestrator.adapters.sql.engine import transaction
from orchestrator.adapters.sql.facts import Applied, Delivery, FactProjection
from orchestrator.adapters.sql.offers import SqlOffers
from orchestrator.adapters.sql.positions import LogIdentity
from orchestrator.adapters.sql.registry import SqlRegistry
from orchestrator.app.ports import Member, Meta
from orchestrator.domain import campaign as c
from orchestrator.domain.budget import value_of
from orchestrator.domain.dossier import Dossier, dossier_digest, freeze
from orchestrator.domain.plan import Plan, parse_plan
from orchestrator.domain.revision import revised
from orchestrator.domain.selection import Target, select
from schemas import device_events as d
from schemas import registry_events as r

TOPIC = "ota.device-events.v1"
IDENTITY = LogIdentity(cluster_id="cluster", topic_id="topic")
MODELS = {"sensor-a": "aa", "gateway-b": "bb"}
TARGET = Target(version="2.0.0", artifacts=MODELS)
"""The release."""
T0 = 1_790_000_000_000
"""Start of test time, ms."""


def plan(**changes: Any) -> dict[str, Any]:
    """A plan of three phases that fits a fleet of 200."""
    base: dict[str, Any] = {
        "release": "rel_1",
        "cohort": {
            "stratify_by": ["hardware_model", "attribute.hw_revision"],
            "holdback_percent": 1.0,
            "salt": "salt",
        },
        "phases": [
            {"name": "canary", "percent": 2.0, "min_count": 40, "soak": "5s", "promote": {"p1": 0.1, "beta": 0.05}},
            {"name": "rest", "percent": 100.0, "soak": "5s"},
        ],
        "confirm_deadline": "20s",
        "offer_ttl": "60s",
        "halt": [{"name": "failures", "scope": "campaign", "p0": 0.02, "alpha": 0.01}],
        "max_in_flight": {"initial": 60, "maximum": 240},
        "approvals": {"required": 1, "separation": True},
        "retry": {"max_attempts": 2},
    }
    return base | changes


@dataclass(frozen=True)
class LogRecord:
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp: int = T0


@dataclass
class World:
    """Ports on one database, and a log of facts that is handed to the projection directly."""

    engine: AsyncEngine
    devices: int = 200
    components: dict[str, list[r.ReleaseComponent]] = field(default_factory=dict)
    """Of the release, beside its artifacts; their artifacts are registered with them."""
    counted_at: int | None = None
    """When the fleet was counted for a submission; None for the submission's own time."""
    log: dict[int, list[LogRecord]] = field(default_factory=lambda: {p: [] for p in range(4)})

    def __post_init__(self) -> None:
        self.store = SqlCampaignStore(self.engine)
        self.decisions = SqlDecisions(self.engine, self.engine)
        self.offers = SqlOffers(self.engine, TOPIC)
        self.projection = FactProjection(self.engine, TOPIC)
        self._applied: dict[int, int] = dict.fromkeys(self.log, 0)
        self._ids = itertools.count()

    async def setup(self) -> None:
        """Two models; a third of the fleet is revision C."""
        fleet = [
            (i, f"dev-{i:04}", "sensor-a" if i % 2 else "gateway-b", {"hw_revision": "ABC"[i % 3]})
            for i in range(1, self.devices + 1)
        ]
        await self._register(*(r.HardwareModelCreated(name=name, profile={}, actor="test") for name in MODELS))
        await self._register(
            *(
                r.ArtifactStored(
                    sha256=sha256,
                    sha1="s1",
                    md5="m5",
                    size=1_000,
                    filename="fw.bin",
                    hardware_model=model,
                    image={},
                    actor="test",
                )
                for model, sha256 in [
                    *MODELS.items(),
                    *((model, part.sha256) for model, parts in self.components.items() for part in parts),
                ]
            ),
            r.ReleaseRegistered(
                release_id="rel_1",
                name="fw",
                version="2.0.0",
                artifacts=MODELS | {model: parts[-1].sha256 for model, parts in self.components.items()},
                digest="sha256:r",
                actor="test",
                components=self.components,
            ),
            r.DevicesRegistered(
                devices=[
                    r.RegisteredDevice(device_no=no, device_id=name, hardware_model=model, attributes=attributes)
                    for no, name, model, attributes in fleet
                ],
                actor="test",
            ),
        )
        self.fleet = {f[0]: f for f in fleet}
        await self.projection.claim(IDENTITY, dict.fromkeys(self.log, (0, 0)))

    async def _register(self, *events: msgspec.Struct) -> None:
        registry = SqlRegistry(self.engine)
        for event in events:
            stream = f"test/{next(self._ids)}"
            await registry.record(stream, [event], command_id=uuid4().hex, meta=Meta(actor="test"))

    async def command(self, campaign_id: str, build: Any, command_id: str | None = None) -> c.Campaign:
        done = await self.store.execute(
            campaign_id, build, command_id=command_id or uuid4().hex, meta=Meta(actor="test")
        )
        return done.campaign

    def counted(self, parsed: Plan) -> tuple[dict[str, int], dict[int, dict[str, int]]]:
        """Devices of the fleet by stratum, and those of them that phases name."""
        strata: dict[str, int] = {}
        named: dict[int, dict[str, int]] = {}
        for member in select(parsed, itertools.starmap(Member, self.fleet.values()), TARGET):
            strata[member.stratum] = strata.get(member.stratum, 0) + 1
            if member.named is not None:
                part = named.setdefault(member.named, {})
                part[member.stratum] = part.get(member.stratum, 0) + 1
        return strata, named

    async def launch(self, **changes: Any) -> c.Campaign:
        """Create, submit, approve, launch."""
        no = await self.store.next_campaign_no()
        campaign_id = f"cmp_{no}"
        parsed = parse_plan(plan(**changes))
        strata, named = self.counted(parsed)
        budget = [
            Counter(value_of(rule.label, model, attributes) for _, _, model, attributes in self.fleet.values())
            for rule in parsed.budget
        ]
        dossier = freeze(parsed, strata_sizes=strata, named=named, release_digest="sha256:r", budget=budget)
        digest = dossier_digest(dossier)
        await self.command(
            campaign_id,
            lambda *_: c.Create(
                campaign_id=campaign_id,
                campaign_no=no,
                name="test",
                release_id="rel_1",
                plan=parsed.canonical(),
                actor="ann",
            ),
        )
        submit = c.Submit(actor="ann", digest=digest, dossier=dossier.canonical(), counted_at=self.counted_at)
        await self.command(campaign_id, lambda *_: submit)
        await self.command(campaign_id, lambda *_: c.Approve(actor="bob", digest=digest))
        return await self.command(campaign_id, lambda _, s: c.Launch(actor="ann", ledger_position=s.ledger_position))

    def revision(self, campaign: c.Campaign, changes: dict[str, Any], actor: str) -> c.Revise:
        """The command that proposes ``changes`` to the plan in force."""
        assert campaign.digest is not None
        dossier = revised(Dossier.model_validate(campaign.dossier), changes)
        return c.Revise(
            actor=actor,
            reason="pace",
            replaces=campaign.digest,
            digest=dossier_digest(dossier),
            dossier=dossier.canonical(),
        )

    async def open_phase(self, campaign_id: str, phase: int, now: int) -> c.Campaign:
        campaign = await self.decisions.enrol(campaign_id, now)
        return await self.command(
            campaign_id,
            lambda _, s: c.OpenPhase(phase=phase, devices=1, at=now, ledger_position=s.ledger_position),
            f"open/{campaign.campaign_id}/{phase}",
        )

    async def rows(self, sql: str, *args: Any) -> list[dict[str, Any]]:
        async with transaction(self.engine) as conn:
            return [dict(row) for row in await conn.fetch(sql, *args)]

    async def value(self, sql: str, *args: Any) -> Any:
        async with transaction(self.engine) as conn:
            return await conn.fetchval(sql, *args)

    async def offered(self, campaign_no: int) -> dict[int, int]:
        """Device number to action id of offers that were not started."""
        found = await self.rows(
            "SELECT device_no, action_id FROM assignment WHERE campaign_no = $1 AND state = 'offered'", campaign_no
        )
        return {row["device_no"]: row["action_id"] for row in found}

    def fact(
        self, device_no: int, action_id: int, kind: str, at: int, *, event_id: str | None = None, **report: Any
    ) -> None:
        """Append a fact to the log; :meth:`project` applies it."""
        data = msgspec.json.encode(d.Report(action_id=action_id, **report))
        event = d.DeviceEvent(
            id=event_id or f"ev-{next(self._ids)}",
            source="test",
            type=kind,
            subject=f"dev-{device_no:04}",
            device_no=device_no,
            recorded_at=at,
            data=msgspec.Raw(data),
        )
        self.raw(device_no % len(self.log), d.encode(event))

    def health(self, device_no: int, period: int, at: int, *, events: int = 0, **report: Any) -> None:
        """Append a report on a device's health: of an hour, unless told otherwise."""
        said = d.Health(**({"signal": "crash", "exposure_ms": 3_600_000} | report), period=period, events=events)
        event = d.DeviceEvent(
            id=d.health_id(f"dev-{device_no:04}", said),
            source="test",
            type=d.HEALTH,
            subject=f"dev-{device_no:04}",
            device_no=device_no,
            recorded_at=at,
            data=msgspec.Raw(d.encode(said)),
        )
        self.raw(device_no % len(self.log), d.encode(event))

    def raw(self, partition: int, value: bytes | None) -> None:
        """Append any bytes to the log."""
        records = self.log[partition]
        records.append(LogRecord(offset=len(records), key=b"k", value=value))

    def unread(self) -> list[Delivery]:
        return [
            Delivery(partition=p, records=records[self._applied[p] :], previous=self._applied[p])
            for p, records in self.log.items()
            if len(records) > self._applied[p]
        ]

    async def project(self) -> Applied:
        """Apply everything that has not been applied."""
        ends = {p: len(records) for p, records in self.log.items()}  # more may be said meanwhile
        applied = await self.projection.apply(self.unread())
        self._applied = ends
        return applied

    async def recount(self) -> None:
        """Assert that every counter equals a recount of the rows."""
        counted = await self.rows(
            "SELECT campaign_no, phase, stratum, state, sum(n)::bigint AS n FROM counter GROUP BY 1, 2, 3, 4"
            " HAVING sum(n) <> 0 ORDER BY 1, 2, 3, 4"
        )
        rows = await self.rows(
            "SELECT campaign_no, phase, stratum, state, count(*) AS n FROM assignment GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"
        )
        assert counted == rows
        gate = await self.rows(
            "SELECT campaign_no, gate_epoch, phase, stratum, sum(started)::bigint AS n, sum(failed)::bigint AS f"
            " FROM gate_count GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"
        )
        recounted = await self.rows(
            "SELECT campaign_no, first_started_epoch AS gate_epoch, phase, stratum, count(*) AS n, count(failed_at) AS f"
            " FROM assignment WHERE first_started_epoch IS NOT NULL GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"
        )
        assert [row for row in gate if row["n"] or row["f"]] == recounted
        arrived = "a.state IN ('installed', 'trial', 'confirmed', 'reverted') OR reason = 'silent_trial'"
        outcome = (
            "CASE WHEN a.state = 'failed' AND failure_class IN ('transport', 'integrity') THEN failure_class"
            f" WHEN a.state = 'expired' AND reason = 'silent' THEN 'silence' WHEN {arrived} THEN 'delivered'"
            " WHEN a.state = 'failed' AND failure_class IS DISTINCT FROM 'operator' THEN 'delivered' END"
        )
        recounted = await self.rows(
            f"SELECT campaign_no, {outcome} AS outcome, count(*) AS n FROM assignment a JOIN campaign c USING (campaign_no)"
            f" WHERE {outcome} IS NOT NULL"
            " AND c.dossier->'plan'->'breaker' <> 'null' GROUP BY 1, 2 ORDER BY 1, 2"
        )
        delivery = await self.rows(
            "SELECT campaign_no, outcome, sum(n)::bigint AS n FROM delivery GROUP BY 1, 2 HAVING sum(n) <> 0 ORDER BY 1, 2"
        )
        assert delivery == recounted
