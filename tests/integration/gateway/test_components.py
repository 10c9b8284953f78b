"""A simulated fleet with several components per device at the real gateway on the real database, to the end of its updates."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from sqlalchemy.ext.asyncio import AsyncEngine

from api.devices.gateway import create_gateway
from api.devices.services import GatewayServices
from firmware.device_sim.behaviour import Mode
from firmware.device_sim.components import Fault
from firmware.sign import build_image, generate_key, public_key_path
from firmware.version import Version
from orchestrator.adapters.clock import now_ms
from orchestrator.adapters.sql.identities import SqlIdentities
from orchestrator.adapters.sql.offers import SqlOffers
from orchestrator.config import Settings
from orchestrator.devstack.ports import free_ports
from orchestrator.simfleet import DeviceSpec, Fleet, HardwareSpec, Pace
from orchestrator.simfleet.model import TraitsSpec, release_traits
from schemas import device_events as d
from schemas.registry_events import ReleaseComponent
from tests.support.offers import MemoryArtifacts, MemoryPresence
from tests.support.world import T0, TOPIC, World

QUICK = Pace(start_spread=0, reboot=(0, 0), self_test=(0, 0), first_retry=0.01, longest_retry=0.05, default_sleep=0.05)
MODEL = "gateway-b"
APPS = {"modem": b"modem" * 2_000, "display": b"display" * 500}


class Log:
    """The world's log of facts, projected at once, one report after the other."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._lock = asyncio.Lock()

    async def send(self, event: d.DeviceEvent, traceparent: str | None = None) -> tuple[int, int]:
        del traceparent
        async with self._lock:
            partition = event.device_no % len(self._world.log)
            self._world.raw(partition, d.encode(event))
            offset = len(self._world.log[partition]) - 1
            await self._world.project()
        return partition, offset


class _Server(uvicorn.Server):
    def capture_signals(self):
        return contextlib.nullcontext()


@dataclass
class Site:
    """A fleet of gateway-b devices that were all offered a release of modem, display and OS."""

    world: World
    url: str
    hardware: HardwareSpec
    campaign_no: int
    offers: dict[int, int]
    truth: Path
    fleet: Fleet = field(init=False)

    async def live(self, **flaw: Any) -> None:
        """Let the devices update with a release that has this flaw on revision C, until every assignment is over."""
        specs = [
            DeviceSpec(
                device_id=f"dev-{no:04}",
                token=f"token-{no}",
                hardware_model=MODEL,
                hw_revision=self.world.fleet[no][3]["hw_revision"],
            )
            for no in self.offers
        ]
        traits = release_traits({"2.0.0": TraitsSpec(bad_revisions=["C"], **flaw)})
        self.fleet = Fleet(self.url, specs, {MODEL: self.hardware}, traits, self.truth, pace=QUICK)
        stop = asyncio.Event()
        life = asyncio.create_task(self.fleet.run(stop))
        try:
            async with asyncio.timeout(45):
                while await self.over() < len(self.offers):
                    assert not life.done()
                    await asyncio.sleep(0.05)
        finally:
            stop.set()
            await life
        assert self.fleet.counts.defects == 0
        assert (self.fleet.counts.stale_links, self.fleet.counts.lost_links) == (0, 0)

    async def over(self) -> int:
        return await self.world.value(
            "SELECT count(*) FROM assignment WHERE campaign_no = $1 AND state IN ('confirmed', 'failed', 'reverted')"
            " AND device_no = ANY($2::int[])",
            *(self.campaign_no, list(self.offers)),
        )

    def revision(self, revision: str) -> list[int]:
        found = [no for no in self.offers if (self.world.fleet[no][3]["hw_revision"] == "C") == (revision == "C")]
        assert found
        return found

    async def assignment(self, no: int) -> tuple[Any, ...]:
        (row,) = await self.world.rows(
            "SELECT state, failure_class, reason, failed_at IS NOT NULL AS blamed, progress FROM assignment WHERE device_no = $1",
            no,
        )
        return tuple(row.values())

    async def outcomes(self, no: int) -> dict[str, str]:
        found = await self.world.rows("SELECT name, outcome FROM component_state WHERE device_no = $1", no)
        return {row["name"]: row["outcome"] for row in found}

    def holds(self, no: int) -> tuple[dict[str, bytes], Version]:
        """The applications and the version of the OS that are on the device."""
        name = f"dev-{no:04}"
        return {k: v.data for k, v in self.fleet.bays[name].running.items()}, self.fleet.slots[name].running_version


@pytest.fixture
async def site(engine: AsyncEngine, tmp_path: Path) -> AsyncIterator[Site]:
    key = tmp_path / "release.pem"
    generate_key(key, "ed25519")
    factory = tmp_path / "factory.bin"
    factory.write_bytes(build_image(b"\x01" * 4096, version="1.0.0", security_counter=1, key=key))
    contents = {**APPS, "os": build_image(b"\x02" * 8192, version="2.0.0", security_counter=2, key=key)}
    parts = [
        ReleaseComponent(name=name, kind="os" if name == "os" else "app", sha256=sha256(content).hexdigest())
        for name, content in contents.items()
    ]
    world = World(engine, devices=24, components={MODEL: parts})
    await world.setup()
    for part in parts:
        await world.rows(
            "UPDATE artifact SET size = $2 WHERE sha256 = $1 RETURNING 1", part.sha256, len(contents[part.name])
        )
    for no in world.fleet:
        token = sha256(f"token-{no}".encode()).hexdigest()
        await world.rows("UPDATE device_identity SET token_hash = $2 WHERE device_no = $1 RETURNING 1", no, token)
    artifacts = MemoryArtifacts()
    artifacts.more = {part.sha256: contents[part.name] for part in parts}
    (port,) = free_ports(1)
    services = GatewayServices(
        settings=Settings(gateway_port=port, gateway_url=f"http://127.0.0.1:{port}", poll_interval=1),
        offers=SqlOffers(world.engine, TOPIC),
        facts=Log(world),
        identities=SqlIdentities(world.engine),
        presence=MemoryPresence(),
        artifacts=artifacts,
        clock=now_ms,
        metrics=bytes,
    )
    config = uvicorn.Config(
        create_gateway(services),
        host="127.0.0.1",
        port=port,
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        assert not serving.done()
        await asyncio.sleep(0.01)
    phases = [{"name": "all", "percent": 100.0, "soak": "1s"}]
    halt = [{"name": "failures", "scope": "campaign", "p0": 0.4, "alpha": 0.01}]
    campaign = await world.launch(phases=phases, halt=halt, confirm_deadline="10m")
    await world.open_phase(campaign.campaign_id, 0, T0)
    await world.decisions.dispatch(campaign.campaign_id, 0, 500, T0)
    offered = await world.offered(campaign.campaign_no)
    mine = {no: action for no, action in offered.items() if world.fleet[no][2] == MODEL}
    hardware = HardwareSpec(factory_image=str(factory), public_key=str(public_key_path(key)))
    yield Site(world, f"http://127.0.0.1:{port}", hardware, campaign.campaign_no, mine, tmp_path / "truth.jsonl")
    server.should_exit = True
    await serving


async def test_all_components_are_installed_in_order_and_the_os_is_confirmed_last(site: Site):
    await site.live()
    for no in site.offers:
        assert await site.assignment(no) == ("confirmed", None, None, False, "trial")
        assert await site.outcomes(no) == {"modem": "installed", "display": "installed", "os": "confirmed"}
        assert site.holds(no) == (APPS, Version(2))
        steps = await site.world.rows(
            "SELECT components FROM timeline WHERE device_no = $1 AND type = 'device.update.progressed' ORDER BY \"offset\"",
            no,
        )
        assert [set(step["components"]) for step in steps] == [{"modem"}, {"modem", "display"}]
    counted = await site.world.rows(
        "SELECT name, outcome, sum(n)::int AS n FROM component_count GROUP BY 1, 2 HAVING sum(n) <> 0"
    )
    assert {row["n"] for row in counted} == {len(site.offers)}


@pytest.mark.parametrize(
    ("name", "fault", "outcome", "blame", "counts"),
    [
        ("modem", Fault.FAILS_SELF_TEST, "rolled_back", "health", True),
        ("display", Fault.FAILS_SELF_TEST, "rolled_back", "health", True),
        ("display", Fault.CORRUPT, "failed", "integrity", False),
    ],
)
async def test_a_bad_component_goes_back_alone_and_the_os_is_never_touched(
    site: Site, name: str, fault: Fault, outcome: str, blame: str, counts: bool
):
    await site.live(components={name: fault})
    stayed = {} if name == "modem" else {"modem": APPS["modem"]}
    for no in site.revision("C"):
        assert await site.assignment(no) == ("failed", blame, f"component.{name}", counts, "downloading")
        assert await site.outcomes(no) == {**dict.fromkeys(stayed, "installed"), name: outcome}
        assert site.holds(no) == (stayed, Version(1))
    for no in site.revision("other"):
        assert (await site.assignment(no))[0] == "confirmed"
        assert site.holds(no) == (APPS, Version(2))


async def test_an_os_that_does_not_confirm_goes_back_and_the_applications_stay(site: Site):
    await site.live(mode=Mode.FAILS_SELF_TEST)
    for no in site.revision("C"):
        assert await site.assignment(no) == ("reverted", "health", "component.os", True, "trial")
        assert await site.outcomes(no) == {"modem": "installed", "display": "installed", "os": "rolled_back"}
        assert site.holds(no) == (APPS, Version(1))
