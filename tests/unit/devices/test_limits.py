from __future__ import annotations

import asyncio

import pytest

from api.devices.limits import Kind, kind_of
from tests.unit.devices.conftest import ACTION, SITE, Site

ARTIFACT = f"/softwaremodules/{ACTION}/artifacts/sensor%202.0.1.bin"


@pytest.fixture
def site(make_site) -> Site:
    return make_site()


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


async def test_a_device_in_a_loop_is_held_up_and_its_report_still_passes(make_site):
    site = make_site(address_burst=1_000)
    polls = [await site.ask("dev-1") for _ in range(5)]
    assert [answer.status_code for answer in polls] == [200] * 3 + [429] * 2
    assert polls[-1].json()["code"] == "limit.device"
    assert (await site.feedback("dev-1")).status_code == 200
    assert (await site.feedback("dev-1")).status_code == 429, "nobody's bucket is without a bottom"
    assert (await site.ask("dev-2")).status_code == 200


async def test_exempt_addresses_are_asked_for_nothing(make_site):
    site = make_site(limit_exempt="203.0.113.0/24", device_burst=1_000)
    assert {(await site.ask("dev-1")).status_code for _ in range(50)} == {200}


async def test_while_a_report_is_in_hand_polls_are_put_off_and_later_polls_are_spread(make_site):
    site = make_site(overload_requests=4)
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


async def test_a_refused_report_keeps_its_connection(make_site):
    site = make_site(device_burst=4, address_burst=1_000)
    refused = [await site.feedback("dev-1") for _ in range(5)][-1]
    assert refused.status_code == 429
    assert "connection" not in refused.headers


async def test_a_slower_gateway_asks_its_devices_back_more_slowly(make_site):
    told = {}
    for served in (0, 50):
        site = make_site(overload_requests=8, shed_return_share=1.0)
        limits = site.gateway._limits
        limits.beat(0.0, 2)
        for _ in range(200):  # ten seconds of a storm
            limits.beat(0.0, 2)
            limits._capacity.did(served)
            site.now += 0.05
        told[served] = [site.gateway._limits.put_off() for _ in range(1_000)][-1]
    assert told[0] > told[50] >= 5


async def test_a_report_that_cannot_be_stored_is_put_off_with_jitter_like_every_other(make_site):
    site = make_site(device_burst=100, address_burst=1_000, shed_return_share=0.0002)
    site.facts.error = ConnectionRefusedError("the broker is away")
    told = [int((await site.feedback("dev-1")).headers["retry-after"]) for _ in range(10)]
    assert told == sorted(told)
    assert len(set(told)) > 5
    assert site.put_off == [("feedback", "unavailable")] * 10
