"""A random history of a fleet, and its log of facts handed to a rebuild without a broker."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import msgspec
import pytest

from orchestrator.adapters.sql import ledger, rebuild, rows
from orchestrator.adapters.sql.comparison import Difference
from orchestrator.adapters.sql.engine import transaction
from orchestrator.adapters.sql.facts import Delivery
from orchestrator.adapters.sql.positions import LogIdentity
from orchestrator.adapters.sql.rules import RulesCache
from orchestrator.app.breaker import Breakers
from orchestrator.config import Settings
from orchestrator.domain import campaign as c
from orchestrator.domain.assignment import ACTIVE, IN_TRIAL, Assignment, holds_slot, loss, observe
from orchestrator.domain.brake import OFF, Brake
from orchestrator.domain.components import Outcome
from schemas import device_events as d
from schemas import registry_events as r
from schemas.campaign_events import CampaignHalted
from schemas.ledger import Cause, Entry, Kind
from tests.integration.projector.conftest import site  # noqa: F401  (a fixture)
from tests.support.world import IDENTITY, T0, World, plan

LIFE = (d.ACCEPTED, d.DOWNLOADING, d.INSTALLED, d.TRIAL)
EVERYONE = {
    "phases": [{"name": "all", "percent": 100.0, "soak": "1s"}],
    "max_in_flight": {"initial": 80, "maximum": 160},
    "halt": [{"name": "failures", "scope": "campaign", "p0": 0.4, "alpha": 0.01}],
    "retry": {"max_attempts": 3, "backoff": {"initial": "5s", "maximum": "15s"}, "per_class": {"boot": {}}},
    "breaker": {"share": 0.02, "minimum": 3, "window": "60s", "cool_down": "3s", "probes": 3, "stale": "20s"},
}
URGENT = {
    "priority": 500,
    "supersede": "waiting",
    "budget": [{"label": "attribute.hw_revision", "max_percent": 100}],
}


class MemoryFacts:
    """``catch_up.FactSource`` on a world's log."""

    def __init__(self, world: World, identity: LogIdentity = IDENTITY) -> None:
        self._world = world
        self._identity = identity

    async def identity(self) -> LogIdentity:
        return self._identity

    async def bounds(self, partitions: list[int]) -> dict[int, tuple[int, int]]:
        return {p: (0, len(self._world.log[p])) for p in partitions}

    async def read(self, spans: Mapping[int, tuple[int, int]], most: int) -> AsyncIterator[list[Delivery]]:
        for partition, (start, end) in spans.items():
            for at in range(start, end, most):
                yield [Delivery(partition, self._world.log[partition][at : min(end, at + most)], at)]

    async def stop(self) -> None:
        pass


@dataclass
class Story:
    """Campaigns over the same devices, step by step in a random order; one of higher priority comes when two are on their way."""

    world: World
    settings: Settings
    dice: random.Random = field(default_factory=lambda: random.Random(1))
    now: int = T0
    identity: LogIdentity = IDENTITY

    async def begin(self) -> None:
        await self.world.setup()
        self.breakers = Breakers(self.world.store, self.world.decisions)
        self.campaigns: list[c.Campaign] = []
        await self.launch()
        await self.launch(cohort=plan()["cohort"] | {"membership": "continuous", "max_members": 210})

    async def launch(self, **changes: object) -> None:
        campaign = await self.world.launch(**EVERYONE | changes)
        self.campaigns.append(await self.world.open_phase(campaign.campaign_id, 0, self.now))

    async def live(self, steps: int) -> None:
        """Let ``steps`` things happen, and project what was said."""
        for step in range(steps):
            if step == steps // 3 and len(self.campaigns) == 2:
                await self.intervene()
            self.now += self.dice.randrange(1, 6_000)
            await self.dice.choices(
                [
                    *(
                        self.offer,
                        self.start,
                        self.speak,
                        self.sweep,
                        self.project,
                        self.decide,
                        self.register,
                        self.lose,
                    ),
                    *(self.look, self.fall_deaf),
                ],
                weights=[6, 6, 10, 5, 6, 2, 1, 1, 6, 1],
            )[0]()
        await self.project()

    async def offer(self) -> None:
        campaign = self.dice.choice(self.campaigns)
        await self.world.decisions.dispatch(campaign.campaign_id, 0, self.dice.randrange(1, 40), self.now)

    async def intervene(self) -> None:
        """A campaign of higher priority takes over what others have just offered."""
        for campaign in self.campaigns:
            await self.world.decisions.dispatch(campaign.campaign_id, 0, 20, self.now)
        everyone = [name for _, name, _, _ in self.world.fleet.values()]
        await self.launch(**URGENT, cohort={"stratify_by": [], "include": everyone, "salt": "salt"})
        await self.world.decisions.dispatch(self.campaigns[-1].campaign_id, 0, 60, self.now)

    async def start(self) -> None:
        offered = await self.world.offered(self.dice.choice(self.campaigns).campaign_no)
        for item in self.dice.sample(sorted(offered.items()), len(offered) // 2):
            await self.world.offers.start(*item)

    async def speak(self) -> None:
        """Devices report anything about any action that they ever had, now or again, and garbage."""
        given = await self.world.rows(
            "SELECT u.device_no, l.action_base + u.i - 1 AS action_id FROM decision_ledger l,"
            " unnest(l.device_nos) WITH ORDINALITY u(device_no, i) WHERE l.kind = 'offer' ORDER BY 2"
        )
        for row in self.dice.sample(given, min(len(given), 25)):
            device, action = row["device_no"], row["action_id"]
            for kind in LIFE[: self.dice.randrange(5)]:
                self.world.fact(device, action, kind, self.now + self.dice.randrange(50))
            match self.dice.randrange(9):
                case 0 | 1 | 2:
                    said = self.components(action)
                    self.world.fact(device, action, d.CONFIRMED, self.now + 60, components=said)
                case 3:
                    blame = self.dice.choice(["boot", "transport", None])
                    self.world.fact(
                        *(device, action, d.FAILED, self.now + 60),
                        failure_class=blame,
                        reason="code 7",
                        components=self.components(action),
                    )
                case 4:
                    self.attributes(device)
                case 5:
                    # A period may be told again with other numbers: the report recorded first stands.
                    self.world.health(
                        device,
                        self.dice.randrange(4),
                        self.now + self.dice.randrange(60),
                        events=self.dice.randrange(3),
                    )
                case _:
                    pass
        if self.dice.random() < 0.3:
            # Again in the same partition: a device's facts have one order, and its attributes are the last that it said.
            partition, log = self.dice.choice(list(self.world.log.items()))
            for record in self.dice.sample(log, min(len(log), 5)):
                self.world.raw(partition, record.value)
            self.world.raw(0, self.dice.choice([None, b"{", b"poison"]))

    def components(self, action: int) -> dict[str, str] | None:
        """What a report says of components, if anything; the other dice are left as they lie."""
        dice = random.Random(f"{action} {self.now}")
        names = dice.sample(["modem", "bus", "os"], dice.randrange(3))
        return {name: dice.choice([*Outcome]).value for name in names} or None

    def attributes(self, device: int) -> None:
        said = d.Attributes(attributes={"hw_revision": "B", f"k{self.dice.randrange(3)}": "v"}, version="2.0.0")
        event = d.DeviceEvent(
            id=f"at-{self.dice.random()}",
            source="test",
            type=d.ATTRIBUTES,
            subject=f"dev-{device:04}",
            device_no=device,
            recorded_at=self.now,
            data=msgspec.Raw(msgspec.json.encode(said)),
        )
        self.world.raw(device % len(self.world.log), d.encode(event))

    async def sweep(self) -> None:
        for campaign in self.campaigns:
            self.now += self.dice.choice([0, 0, 20_000])
            await self.world.decisions.sweep(campaign.campaign_id, self.now, self.now)
            await self.world.decisions.join(campaign.campaign_id, self.now)

    async def look(self) -> None:
        """Breakers open, probe and close."""
        for campaign in self.campaigns:
            await self.breakers.look(campaign.campaign_id, self.now, self.now)

    async def fall_deaf(self) -> None:
        heard = self.now
        for _ in range(3):
            self.now += 10_000
            for campaign in self.campaigns:
                await self.breakers.look(campaign.campaign_id, self.now, heard)

    async def project(self) -> None:
        await self.world.project()

    async def decide(self) -> None:
        """Pause, halt, brake or revise a running campaign; let another one go on."""
        chosen = self.dice.choice(self.campaigns).campaign_id
        campaign = await self.world.store.load(chosen)
        state = campaign.state
        if state in c.LIVE and self.dice.random() < 0.4:
            await self.pace(campaign)
        elif state is c.CampaignState.PAUSED:
            await self.world.command(
                chosen, lambda _, s: c.Resume(actor="ann", reason="after lunch", ledger_position=s.ledger_position)
            )
        elif state is c.CampaignState.RUNNING and self.dice.random() < 0.5:
            await self.world.command(
                chosen, lambda _, s: c.Pause(actor="ann", reason="lunch", ledger_position=s.ledger_position)
            )
        elif state is c.CampaignState.RUNNING and self.dice.random() < 0.1:
            await self.halt(chosen)

    async def pace(self, campaign: c.Campaign) -> None:
        """Brake a campaign or let go of its brake; propose another pace or approve the one that is proposed."""
        limits = Brake(max_in_flight=self.dice.randrange(5, 160))
        command: c.Command
        if campaign.revision is not None:
            command = c.Approve(actor="bob", digest=campaign.revision.digest)
        elif campaign.state is not c.CampaignState.HALTED and self.dice.random() < 0.5:
            cap = {"initial": self.dice.randrange(20, 80), "maximum": 160, "add": 1, "per_confirmed": 2}
            phases = {"all": {"jitter": self.dice.randrange(1, 50)}}
            command = self.world.revision(campaign, {"max_in_flight": cap, "phases": phases}, "cid")
        elif campaign.brake == OFF:
            command = c.ApplyBrake(actor="ann", reason="busy", limits=limits, ledger_position=0)
        else:
            command = c.ReleaseBrake(actor="ann", reason="free", left=OFF, ledger_position=0)
        await self.world.command(campaign.campaign_id, lambda *_: command)

    async def halt(self, campaign_id: str) -> None:
        def build(campaign: c.Campaign, standing) -> c.Command:
            return c.Halt(
                event=CampaignHalted(
                    by="ann",
                    reason="test",
                    phase=campaign.phase,
                    gate_epoch=campaign.gate_epoch,
                    ledger_position=standing.ledger_position,
                )
            )

        await self.world.command(campaign_id, build)

    async def register(self) -> None:
        no = 1_000 + self.dice.randrange(10**6)
        attributes = self.dice.choice([{}, {"hw_revision": "A"}, {"hw_revision": "B"}])
        device = r.RegisteredDevice(
            device_no=no, device_id=f"late-{no}", hardware_model="sensor-a", attributes=attributes
        )
        await self.world._register(r.DevicesRegistered(devices=[device], actor="test"))

    async def lose(self) -> None:
        """What is known of some devices in flight may be out of date: as an accepted loss of the log says, without losing any."""
        no = self.dice.choice(self.campaigns).campaign_no
        async with transaction(self.world.engine) as conn:
            active = await conn.fetch(
                "SELECT device_no FROM assignment WHERE campaign_no = $1 AND state = ANY($2::text[]) ORDER BY 1",
                *(no, sorted(ACTIVE)),
            )
            locked = await rows.lock(conn, [(row["device_no"], no) for row in active if self.dice.random() < 0.3])
            changes = rows.Changes(await RulesCache().get(conn, [no]), 104)
            entries: list[Entry] = []
            for row in locked.values():
                new = observe(row, loss(row.attempt, row.progress, self.now))
                if row.state in ACTIVE and new != row:
                    changes.add(row, new)
                    about = {"campaign_no": no, "device_nos": [row.device_no], "at": self.now, "attempt": row.attempt}
                    entries.append(
                        Entry(**about, kind=Kind.UNKNOWN, cause=Cause.LOG_LOSS, gate_epoch=1, seen=str(row.progress))
                    )
            await changes.write(conn)
            if entries:
                await ledger.append(conn, entries)

    async def slots(self) -> list[tuple[int, int, int]]:
        """What the slots must be: of the rows that hold a device's slot, the one in trial, else the one that was offered last."""
        held: dict[int, Assignment] = {}
        fields = ", ".join(Assignment.__struct_fields__)
        rows = await self.world.rows(f"SELECT {fields} FROM assignment")
        found = [msgspec.convert(tuple(row.values()), Assignment) for row in rows]
        for row in sorted(found, key=lambda row: (row.progress in IN_TRIAL, row.action_id)):
            if holds_slot(row):
                held[row.device_no] = row
        return [(no, row.campaign_no, row.attempt) for no, row in sorted(held.items())]

    # ---- rebuilds

    def sources(self) -> list[MemoryFacts]:
        return [MemoryFacts(self.world, self.identity) for _ in range(2)]

    async def verify(self, **more) -> list[Difference]:
        return await rebuild.verify(self.settings, sources=self.sources, **more)

    async def rebuild(self, **more) -> rebuild.Rebuilt:
        return await rebuild.rebuild(self.settings, sources=self.sources, **more)


@pytest.fixture
async def story(engine, database_url, tmp_path) -> Story:
    settings = Settings(database_url=database_url, state_dir=tmp_path, rebuild_patience_s=5)
    story = Story(World(engine, devices=120), settings)
    await story.begin()
    return story
