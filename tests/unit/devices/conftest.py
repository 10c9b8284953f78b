from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from api.devices.gateway import create_gateway
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
