from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from api.devices.gateway import Gateway, create_gateway
from api.devices.services import GatewayServices
from orchestrator.config import Settings
from tests.support.offers import (
    MemoryArtifacts,
    MemoryFacts,
    MemoryIdentities,
    MemoryIdentity,
    MemoryOffers,
    MemoryPresence,
)

ACTION = 1_000_017
SITE = "203.0.113.7"
NOW = 1_800_000_000_000
BASE = "/DEFAULT/controller/v1/dev-1"


@dataclass
class World:
    """A gateway and everything it is made of."""

    client: httpx.AsyncClient
    offers: MemoryOffers
    facts: MemoryFacts
    identities: MemoryIdentities
    presence: MemoryPresence
    artifacts: MemoryArtifacts
    settings: Settings
    ingested: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)

    async def get(self, path: str, **more: Any) -> httpx.Response:
        return await self.client.get(f"{BASE}{path}", **more)

    async def feedback(self, action: int, execution: str, finished: str = "none", *details: str, cancel: bool = False):
        status = {"execution": execution, "result": {"finished": finished}, "details": list(details)}
        kind = "cancelAction" if cancel else "deploymentBase"
        return await self.client.post(f"{BASE}/{kind}/{action}/feedback", json={"status": status})


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World(
        client=httpx.AsyncClient(),
        offers=MemoryOffers(),
        facts=MemoryFacts(),
        identities=MemoryIdentities(),
        presence=MemoryPresence(),
        artifacts=MemoryArtifacts(),
        settings=Settings(gateway_url="http://ota.example", projection_wait_ms=60, max_report_bytes=5_000),
    )
    world.identities.register(MemoryIdentity(7, "dev-1", "s3cret"))
    world.identities.register(MemoryIdentity(8, "dev-2", "other"))
    gateway = create_gateway(
        GatewayServices(
            settings=world.settings,
            offers=world.offers,
            facts=world.facts,
            identities=world.identities,
            presence=world.presence,
            artifacts=world.artifacts,
            clock=lambda: NOW,
            metrics=lambda: b"ota_up 1\n",
            chance=lambda: 0.5,
            traceparent=lambda: "00-trace",
            ingested=world.ingested.append,
            refused=lambda kind, code: world.refused.append((kind, code)),
        )
    )
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(gateway),
        base_url="http://gateway",
        headers={"Authorization": "TargetToken s3cret"},
    ) as world.client:
        yield world


@dataclass
class Site:
    """A gateway with tight limits, whose clock stands still unless a test moves it."""

    gateway: Gateway
    identities: MemoryIdentities
    facts: MemoryFacts
    now: float = 1_000.0
    put_off: list[tuple[str, str]] = field(default_factory=list)

    async def ask(self, device: str, path: str = "", *, host: str = SITE, token: str = "s3cret", **more: Any):
        """A device's request over a connection from ``host``."""
        transport = httpx.ASGITransport(self.gateway, client=(host, 50_000))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            method = more.pop("method", "GET")
            headers = {"Authorization": f"TargetToken {token}"}
            return await client.request(method, f"/default/controller/v1/{device}{path}", headers=headers, **more)

    async def feedback(self, device: str, **more: Any) -> httpx.Response:
        body = {"status": {"execution": "proceeding", "result": {"finished": "none"}}}
        return await self.ask(device, f"/deploymentBase/{ACTION}/feedback", method="POST", json=body, **more)


@pytest.fixture
def make_site() -> Callable[..., Site]:
    def make(**settings: Any) -> Site:
        identities, offers, facts = MemoryIdentities(), MemoryOffers(), MemoryFacts()
        for number in range(1, 20):
            identities.register(MemoryIdentity(number, f"dev-{number}", "s3cret"))
        offers.offer(1, ACTION)
        given = {"address_burst": 8, "address_rate": 1.0, "device_burst": 4, "device_rate": 1.0} | settings
        services = GatewayServices(
            settings=Settings(**given),
            offers=offers,
            facts=facts,
            identities=identities,
            presence=MemoryPresence(),
            artifacts=MemoryArtifacts(),
            clock=lambda: NOW,
            metrics=bytes,
            chance=lambda: 1.0,
            monotonic=lambda: site.now,
            put_off=lambda kind, code: site.put_off.append((kind, code)),
        )
        site = Site(create_gateway(services), identities, facts)
        return site

    return make
