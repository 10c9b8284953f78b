"""What a budget means, before anybody approves it."""

from __future__ import annotations

from tests.api.conftest import plan

BUDGET = [
    {"label": "hardware_model", "max_percent": 15},
    {"label": "attribute.site", "max_percent": 10, "min_count": 3},
]


async def test_the_preview_says_how_many_devices_of_each_value_may_be_away(api):
    release_id = await api.ready()
    campaign_id = await api.draft(release_id, budget=BUDGET, priority=700, supersede="waiting")
    found = (await api.ok("GET", f"/v1/campaigns/{campaign_id}/preview"))["budget"]
    devices = sum(each["devices"] for each in found[0]["largest"])
    assert (found[0]["label"], devices, found[0]["other"]) == ("hardware_model", 100, 1)
    assert all(each["at_once"] == max(1, each["devices"] * 15 // 100) for each in found[0]["largest"])
    # No device of this fleet says where it is: they are one value.
    assert found[1]["largest"] == [{"value": "-", "devices": 100, "at_once": 10}]
    assert (found[1]["values"], found[1]["other"], found[1]["smallest"]) == (1, 3, [])
    assert (await api.act(campaign_id, "submit")).status_code == 200
    frozen = await api.ok("GET", f"/v1/campaigns/{campaign_id}/preview")
    assert (frozen["frozen"], frozen["budget"]) == (True, found)
    kept = (await api.ok("GET", f"/v1/campaigns/{campaign_id}"))["plan"]
    assert (kept["priority"], kept["supersede"], len(kept["budget"])) == (700, "waiting", 2)


async def test_a_budget_that_makes_no_sense_is_refused_at_its_place(api):
    release_id = await api.ready(4)
    wrong = plan(release_id, budget=[BUDGET[0] | {"max_percent": 0}], priority=1_001)
    answer = await api("POST", "/v1/campaigns", json={"name": "x", "plan": wrong})
    assert answer.status_code == 422
    found = {(each["pointer"], each["code"]) for each in answer.json()["errors"]}
    assert found == {("/budget/0/max_percent", "plan.budget.range"), ("/priority", "plan.priority")}
