"""Owners' wills over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tests.api.conftest import plan

PATH = "/v1/devices/dev-0000/will"


def within(days: int) -> str:
    return f"{datetime.now(UTC) + timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}"


async def one_device(api) -> str:
    await api.models("a")
    await api.fleet(1, "a")
    return await api.release("a")


async def test_a_will_is_stated_whole_and_read_back(api):
    release = await one_device(api)
    nothing = await api("GET", PATH)
    assert (nothing.headers["etag"], nothing.json()["version"], nothing.json()["opted_out"]) == ('"0"', 0, False)
    said = {
        "opted_out": True,
        "postponed_until": within(3),
        "consents": [{"release_id": release, "until": within(30)}],
        "reason": "asked in the app",
        "on_behalf_of": "customer 7",
    }
    stated = await api("PUT", PATH, json=said)
    assert stated.status_code == 200, stated.text
    found = stated.json()
    assert (stated.headers["etag"], found["version"], found["actor"]) == ('"1"', 1, "ann")
    assert found["consents"][0]["release_id"] == release
    assert await api.ok("GET", PATH) == found
    assert (await api.ok("GET", "/v1/devices/dev-0000"))["will"] == found
    left = await api.ok("PUT", PATH, json={"reason": "changed my mind"})
    assert (left["opted_out"], left["postponed_until"], left["consents"]) == (False, None, [])


async def test_a_stale_will_is_refused_where_a_version_is_named_and_only_there(api):
    await one_device(api)
    await api.ok("PUT", PATH, json={"opted_out": True, "reason": "r"})
    stale = await api("PUT", PATH, headers={"If-Match": '"0"'}, json={"reason": "r"})
    assert (stale.status_code, stale.json()["code"]) == (412, "precondition.failed")
    assert (await api("PUT", PATH, headers={"If-Match": '"1"'}, json={"reason": "r"})).status_code == 200


async def test_a_portal_may_state_wills_and_nothing_else(api):
    await one_device(api)
    portal, writer = ("device:will",), ("device:write", "device:read")
    assert (await api("PUT", PATH, scopes=portal, json={"opted_out": True, "reason": "r"})).status_code == 200
    assert (await api("GET", "/v1/devices/dev-0000", scopes=portal)).status_code == 403
    assert (await api("PUT", PATH, scopes=writer, json={"reason": "r"})).status_code == 403


async def test_what_cannot_be_stated_is_named(api):
    await one_device(api)

    async def refused(**will):
        answer = await api("PUT", PATH, json={"reason": "r", **will})
        return answer.status_code, answer.json()["code"]

    assert await refused(postponed_until=within(91)) == (422, "owner.postponed_until")
    assert await refused(postponed_until=within(-1)) == (422, "owner.postponed_until")
    assert await refused(reason=" ") == (422, "campaign.reason")
    assert await refused(consents=[{}]) == (422, "owner.will")
    unknown = (await api("PUT", PATH, json={"reason": "r", "consents": [{"release_id": "rel_no"}]})).json()
    assert (unknown["code"], unknown["errors"][0]["pointer"]) == ("owner.will", "/consents/0")
    assert (await refused(postponed_until="2027-01-01T00:00:00"))[0] == 422
    assert (await api("PUT", "/v1/devices/nobody/will", json={"reason": "r"})).status_code == 404


async def test_a_plan_says_what_it_asks_of_owners(api):
    release = await one_device(api)

    async def refused(**changes):
        answer = await api("POST", "/v1/campaigns", json={"name": "n", "plan": plan(release, **changes)})
        assert answer.status_code == 422
        return answer.json()

    silent = await refused(owner={"opt_out": "overridden"})
    assert (silent["code"], silent["errors"][0]["pointer"]) == ("plan.owner.reason", "/owner")
    wrong = await refused(preconditions="attribute.battery=ge=full")
    assert (wrong["code"], wrong["errors"][0]["pointer"]) == ("plan.preconditions", "/preconditions")
    assert "^" in wrong["errors"][0]["detail"]
