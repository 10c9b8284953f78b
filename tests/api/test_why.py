"""Why and when, through the API."""

from __future__ import annotations

from tests.api.test_bad_input import problem


async def test_a_campaign_says_what_it_waits_for_from_draft_to_launch(api):
    campaign_id = await api.draft(await api.ready())

    async def first(by: str = "ann") -> dict:
        return (await api.ok("GET", f"/v1/campaigns/{campaign_id}/why", by=by))["why"]

    assert (await first())["code"] == "why.draft"
    digest = (await api.act(campaign_id, "submit")).json()["digest"]
    waiting = await first()
    assert (waiting["code"], waiting["data"]["may_not"], waiting["data"]["missing"]) == ("why.submitted", ["ann"], 1)
    assert waiting["remedy"] == f"ota campaign approve {campaign_id}"
    await api.act(campaign_id, "approve", by="bob", json={"digest": digest})
    assert (await first())["code"] == "why.not_launched"
    await api.act(campaign_id, "launch")
    assert (await first())["code"] == "why.enrolling"
    await api.act(campaign_id, "pause", json={"reason": "lunch"})
    paused = await api.ok("GET", f"/v1/campaigns/{campaign_id}/why")
    assert paused["why"]["code"] == "why.paused"
    assert [each["code"] for each in paused["further"]] == ["why.enrolling"]
    assert paused["eta"]["none_because"] == "The campaign is paused."


async def test_a_running_campaign_has_a_range(api):
    campaign_id = await api.running(await api.ready())
    found = await api.ok("GET", f"/v1/campaigns/{campaign_id}/eta")
    eta = found["eta"]
    assert found["at"] <= eta["low"] <= eta["likely"] <= eta["high"]
    assert [phase["name"] for phase in eta["phases"]] == ["canary", "rest"]
    assert [phase["remaining"] for phase in eta["phases"]] == [40, 59]
    assert eta["sample"]["confirmed"] == 0
    assert "deadlines" in eta["basis"]


async def test_a_device_says_which_part_of_the_selector_keeps_it_out(api):
    cohort = {"stratify_by": ["hardware_model"], "selector": "attribute.hw_revision==A"}
    campaign_id = await api.running(
        await api.ready(), cohort=cohort, phases=[{"name": "all", "percent": 100.0, "soak": "5s"}]
    )
    found = await api.ok("GET", "/v1/devices/dev-0001/why")
    (place,) = found["campaigns"]
    assert (place["campaign_id"], place["member"], place["why"]["code"]) == (campaign_id, False, "why.device.selector")
    assert place["why"]["data"]["failing"][0]["found"] == "B"
    inside = await api.ok("GET", "/v1/devices/dev-0000/why", params={"campaign": campaign_id})
    assert inside["campaigns"][0]["why"]["code"] == "why.device.not_enrolled"


async def test_who_asks_for_something_that_is_not_there_is_told(api):
    await api.ready()
    problem(await api("GET", "/v1/campaigns/cmp_none/why"), 404, "campaign.not_found")
    problem(await api("GET", "/v1/campaigns/cmp_none/eta"), 404, "campaign.not_found")
    problem(await api("GET", "/v1/devices/none/why"), 404, "device.not_found")
    problem(await api("GET", "/v1/devices/dev-0000/why", params={"campaign": "cmp_none"}), 404, "campaign.not_found")
    refused = await api("GET", "/v1/devices/dev-0000/why", by="eve", scopes=("campaign:read",))
    assert (refused.status_code, refused.json()["code"]) == (403, "auth.scope.missing")
