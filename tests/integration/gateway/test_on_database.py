"""The gateway on the real database: what a device is shown follows what the campaign decided and what the device said."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from api.devices.gateway import create_gateway
from api.devices.services import GatewayServices
from orchestrator.adapters.sql.identities import SqlIdentities
from orchestrator.adapters.sql.offers import SqlOffers
from orchestrator.app.ports import Standing
from orchestrator.config import Settings
from orchestrator.domain import campaign as c
from schemas import device_events as d
from schemas.campaign_events import CampaignHalted
from tests.support.offers import MemoryArtifacts, MemoryPresence
from tests.support.world import T0, TOPIC, World


class Log:
    """The world's log of facts, projected at once unless a test lets the projection lag."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.lags = False

    async def send(self, event: d.DeviceEvent, traceparent: str | None = None) -> tuple[int, int]:
        partition = event.device_no % len(self.world.log)
        self.world.raw(partition, d.encode(event))
        if not self.lags:
            await self.world.project()
        return partition, len(self.world.log[partition]) - 1


@dataclass
class Device:
    """One device of the world at one gateway."""

    client: httpx.AsyncClient
    device_no: int
    action: int

    async def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        base = f"/default/controller/v1/dev-{self.device_no:04}"
        headers = {"Authorization": f"TargetToken token-{self.device_no}"}
        return await self.client.request(method, base + path, headers=headers, **more)

    async def links(self) -> set[str]:
        answer = await self.request("GET", "")
        assert answer.status_code == 200
        return set(answer.json().get("_links", {})) - {"configData"}

    async def start(self) -> int:
        return (await self.request("GET", f"/deploymentBase/{self.action}")).status_code

    async def download(self) -> int:
        return (await self.request("HEAD", f"/softwaremodules/{self.action}/artifacts/fw.bin")).status_code

    async def say(self, state: str, *, cancel: bool = False) -> None:
        kind = "cancelAction" if cancel else "deploymentBase"
        details = [] if cancel else [f"ota.state={state}"]
        status = {"execution": "closed", "result": {"finished": "success"}, "details": details}
        answer = await self.request("POST", f"/{kind}/{self.action}/feedback", json={"status": status})
        assert answer.status_code == 200


class Files(MemoryArtifacts):
    async def size(self, sha256: str) -> int:
        return 1_000


@pytest.fixture
async def world(engine: AsyncEngine) -> World:
    world = World(engine)
    await world.setup()
    hashes = [(no, sha256(f"token-{no}".encode()).hexdigest()) for no in world.fleet]
    await world.rows(
        "UPDATE device_identity i SET token_hash = t.hash FROM unnest($1::int[], $2::text[]) t(no, hash)"
        " WHERE i.device_no = t.no RETURNING 1",
        [no for no, _ in hashes],
        [digest for _, digest in hashes],
    )
    return world


@pytest.fixture
def log(world: World) -> Log:
    return Log(world)


@pytest.fixture
async def gateways(world: World, log: Log) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Two gateways of one system."""
    clients = []
    for _ in range(2):
        services = GatewayServices(
            settings=Settings(projection_wait_ms=50),
            offers=SqlOffers(world.engine, TOPIC),
            facts=log,
            identities=SqlIdentities(world.engine),
            presence=MemoryPresence(),
            artifacts=Files(),
            clock=lambda: T0 + 1_000,
            metrics=bytes,
        )
        transport = httpx.ASGITransport(create_gateway(services))
        clients.append(httpx.AsyncClient(transport=transport, base_url="http://gateway"))
    yield clients
    for client in clients:
        await client.aclose()


@pytest.fixture
async def campaign(world: World) -> c.Campaign:
    launched = await world.launch()
    await world.open_phase(launched.campaign_id, 0, T0)
    await world.decisions.dispatch(launched.campaign_id, 0, 6, T0)
    return launched


@pytest.fixture
async def devices(world: World, campaign: c.Campaign, gateways: list[httpx.AsyncClient]) -> list[Device]:
    """Devices that have an offer."""
    return [Device(gateways[0], *item) for item in (await world.offered(campaign.campaign_no)).items()]


async def halt(world: World, campaign: c.Campaign) -> c.Campaign:
    def build(now: c.Campaign, standing: Standing) -> c.Command:
        event = CampaignHalted(
            by="ann", reason="smoke", phase=0, gate_epoch=now.gate_epoch, ledger_position=standing.ledger_position
        )
        return c.Halt(event=event)

    return await world.command(campaign.campaign_id, build)


async def starts(world: World) -> int:
    return await world.value("SELECT count(*) FROM decision_ledger WHERE kind = 'start'")


async def test_an_update_from_offer_to_confirmation(world: World, devices: list[Device]):
    device = devices[0]
    assert await device.links() == {"deploymentBase"}
    assert await device.download() == 404
    assert await starts(world) == 0
    assert await device.start() == 200
    assert await starts(world) == 1
    assert await device.download() == 200
    for state in ("downloading", "installed", "trial"):
        await device.say(state)
        assert await device.links() == {"deploymentBase"}
    await device.say("confirmed")
    assert await device.links() == set()
    assert await device.start() == 404
    assert await device.download() == 404
    assert await world.value("SELECT count(*) FROM assignment WHERE state = 'confirmed'") == 1


async def test_attributes_are_asked_for_once_and_again_after_a_confirmed_update(world: World, devices: list[Device]):
    device = devices[0]

    async def asked() -> bool:
        return "configData" in (await device.request("GET", "")).json().get("_links", {})

    async def tell(version: str) -> None:
        answer = await device.request("PUT", "/configData", json={"data": {"fw_version": version}})
        assert answer.status_code == 200

    await world.rows("UPDATE device SET reported_at = NULL RETURNING 1")
    assert await asked()
    await tell("1.0.0")
    assert not await asked()
    await world.rows("UPDATE device SET reported_at = reported_at - 1 RETURNING 1")
    await device.start()
    await device.say("confirmed")
    assert await asked()
    await tell("2.0.0")
    assert not await asked()
    assert await world.value("SELECT version FROM device WHERE device_no = $1", device.device_no) == "2.0.0"


async def test_after_a_halt_nothing_is_revealed_and_each_device_sees_what_its_state_allows(
    world: World, campaign: c.Campaign, devices: list[Device]
):
    waiting, downloading, trial, *_ = devices
    for device in (downloading, trial):
        assert await device.start() == 200
    await downloading.say("downloading")
    await trial.say("trial")
    before = await starts(world)
    halted = await halt(world, campaign)
    assert halted.state is c.CampaignState.HALTED
    assert await waiting.links() == set()
    assert (await waiting.start(), await waiting.download()) == (404, 404)
    assert await starts(world) == before
    assert await downloading.links() == {"cancelAction"}
    assert (await downloading.start(), await downloading.download()) == (404, 404)
    assert await trial.links() == {"deploymentBase"}
    assert (await trial.start(), await trial.download()) == (200, 200)
    stop = await downloading.request("GET", f"/cancelAction/{downloading.action}")
    assert stop.json()["cancelAction"]["stopId"] == str(downloading.action)
    await downloading.say("", cancel=True)
    await trial.say("confirmed")
    assert (await downloading.links(), await trial.links()) == (set(), set())


@pytest.mark.parametrize("state", ["confirmed", "reverted", "failed", "rejected", "cancelled"])
async def test_a_link_is_gone_at_every_gateway_although_nothing_was_projected(
    world: World, log: Log, devices: list[Device], gateways: list[httpx.AsyncClient], state: str
):
    device = devices[0]
    assert await device.start() == 200
    log.lags = True
    await device.say(state)
    for gateway in gateways:
        device.client = gateway
        assert await device.links() == set()
        assert await device.start() == 404
    await world.project()
    assert await device.links() == set()
    assert await world.value("SELECT count(*) FROM report_overlay") == 0
    assert await world.value("SELECT state FROM assignment WHERE device_no = $1", device.device_no) == state


async def test_reports_on_what_is_over_are_taken_and_on_what_is_foreign_are_not(
    world: World, campaign: c.Campaign, devices: list[Device]
):
    mine, other, *_ = devices
    await mine.start()
    await mine.say("failed")
    await mine.say("confirmed")
    assert await world.value("SELECT state FROM assignment WHERE device_no = $1", mine.device_no) == "failed"
    foreign = Device(mine.client, mine.device_no, other.action)
    for path in (f"/deploymentBase/{other.action}", f"/cancelAction/{other.action}"):
        assert (await foreign.request("GET", path)).status_code == 404
    body = {"status": {"execution": "closed", "result": {"finished": "failure"}}}
    answer = await foreign.request("POST", f"/deploymentBase/{other.action}/feedback", json=body)
    assert answer.status_code == 404
    assert await world.value("SELECT count(*) FROM dead_letter") == 0
