from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from api.devices.gateway import Gateway, create_gateway
from api.devices.limits import Kind, kind_of
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
ARTIFACT = f"/softwaremodules/{ACTION}/artifacts/sensor%202.0.1.bin"


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
def make() -> Callable[..., Site]:
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
            clock=lambda: 1_800_000_000_000,
            metrics=bytes,
            chance=lambda: 1.0,
            monotonic=lambda: site.now,
            put_off=lambda kind, code: site.put_off.append((kind, code)),
        )
        site = Site(create_gateway(services), identities, facts)
        return site

    return make


@pytest.fixture
def site(make) -> Site:
    return make()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ([], Kind.POLL),
        (["configData"], Kind.ATTRIBUTES),
        (["deploymentBase", "7"], Kind.WORK),
        (["cancelAction", "7"], Kind.WORK),
        (["deploymentBase", "7", "feedback"], Kind.REPORT),
        (["cancelAction", "7", "feedback"], Kind.REPORT),
        (["softwaremodules", "7", "artifacts", "fw.bin"], Kind.DOWNLOAD),
        (["nothing"], Kind.WORK),
    ],
)
def test_a_path_says_what_a_request_is_worth(path, kind):
    assert kind_of(path) is kind


async def test_an_address_that_asks_too_often_is_told_when_to_come_back(site: Site):
    polls = [await site.ask(f"dev-{number}") for number in range(1, 10)]
    assert [answer.status_code for answer in polls] == [200] * 6 + [429] * 3, "polls leave a quarter"
    refused = polls[-1]
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["code"] == "limit.address"
    assert refused.json()["status"] == 429
    assert refused.headers["connection"] == "close"
    assert site.put_off == [("request", "limit.address")] * 3
    site.now += int(refused.headers["retry-after"])
    assert (await site.ask("dev-9")).status_code == 200
    assert (await site.ask("dev-9", host="203.0.113.8")).status_code == 200, "other addresses are not held up"


async def test_where_polls_of_an_address_are_refused_reports_still_pass(site: Site):
    while (await site.ask("dev-2", host=SITE)).status_code == 200:
        site.now += 0.25
    assert (await site.feedback("dev-1")).status_code == 200
    assert len(site.facts.events) == 1


async def test_too_many_guesses_of_a_token_are_refused_before_anybody_looks_it_up(site: Site):
    answers = [await site.ask("dev-1", token="wrong") for _ in range(8)]
    assert [answer.status_code for answer in answers] == [401] * 6 + [429] * 2
    site.identities.error = AssertionError("nobody may be looked up")
    assert (await site.ask("dev-1", token="wrong")).status_code == 429


async def test_downloads_cost_nothing_but_with_a_wrong_token(site: Site):
    free = [await site.ask("dev-1", ARTIFACT) for _ in range(20)]
    assert {answer.status_code for answer in free} == {404}
    assert (await site.ask("dev-1")).status_code == 200
    guesses = [await site.ask("dev-1", ARTIFACT, token="wrong") for _ in range(9)]
    assert [answer.status_code for answer in guesses] == [401] * 7 + [429] * 2


async def test_a_device_in_a_loop_is_held_up_and_its_report_still_passes(make):
    site = make(address_burst=1_000)
    polls = [await site.ask("dev-1") for _ in range(5)]
    assert [answer.status_code for answer in polls] == [200] * 3 + [429] * 2
    assert polls[-1].json()["code"] == "limit.device"
    assert (await site.feedback("dev-1")).status_code == 200
    assert (await site.feedback("dev-1")).status_code == 429, "nobody's bucket is without a bottom"
    assert (await site.ask("dev-2")).status_code == 200


async def test_exempt_addresses_are_asked_for_nothing(make):
    site = make(limit_exempt="203.0.113.0/24", device_burst=1_000)
    assert {(await site.ask("dev-1")).status_code for _ in range(50)} == {200}


async def test_while_a_report_is_in_hand_polls_are_put_off_and_later_polls_are_spread(make):
    site = make(overload_requests=4)
    assert (await site.ask("dev-2")).json()["config"]["polling"]["sleep"] == "00:05:30"
    site.facts.hold = asyncio.Event()
    held = asyncio.create_task(site.feedback("dev-1"))
    while not site.facts.waiting:  # noqa: ASYNC110 (what is waited for happens in another task of this loop)
        await asyncio.sleep(0)
    refused = await site.ask("dev-2")
    assert (refused.status_code, refused.json()["code"]) == (429, "gateway.overloaded")
    assert int(refused.headers["retry-after"]) == 6, "five seconds and jitter"
    site.facts.hold.set()
    assert (await held).status_code == 200
    site.now += 6
    assert (await site.ask("dev-2")).json()["config"]["polling"]["sleep"] == "00:07:30"
    site.now += 60
    assert (await site.ask("dev-2")).json()["config"]["polling"]["sleep"] == "00:05:30"


async def test_a_refused_report_keeps_its_connection(make):
    site = make(device_burst=4, address_burst=1_000)
    refused = [await site.feedback("dev-1") for _ in range(5)][-1]
    assert refused.status_code == 429
    assert "connection" not in refused.headers


async def test_a_report_that_cannot_be_stored_is_put_off_with_jitter_like_every_other(make):
    site = make(device_burst=100, address_burst=1_000, shed_return_rate=1.0)
    site.facts.error = ConnectionRefusedError("the broker is away")
    told = [int((await site.feedback("dev-1")).headers["retry-after"]) for _ in range(10)]
    assert told == sorted(told)
    assert len(set(told)) > 5
    assert site.put_off == [("feedback", "unavailable")] * 10
