"""Taking devices back through the API: one command, drafts that go the way of all campaigns."""

from __future__ import annotations

import pytest

from orchestrator.adapters.clock import now_ms
from schemas import device_events as d
from tests.api.test_bad_input import problem
from tests.support.world import IDENTITY, T0, World

PHASES = [{"name": "all", "percent": 100.0, "soak": "1s"}]
HALT = [{"name": "failures", "scope": "campaign", "p0": 0.4, "alpha": 0.01}]


@pytest.fixture
async def halted(api):
    """(campaign, fallback release): a campaign that was halted after sixty devices had confirmed, and what it foresees."""
    release = await api.ready()
    models = list((await api.ok("GET", f"/v1/releases/{release}"))["artifacts"])
    fallback = await api.release(*models, version="2.0.1")
    campaign_id = await api.running(
        release, phases=PHASES, halt=HALT, remediation={"kind": "fallback", "release": fallback}
    )
    world = World(api.engine)
    await world.projection.claim(IDENTITY, dict.fromkeys(world.log, (0, 0)))
    campaign = await world.open_phase(campaign_id, 0, T0)
    await world.decisions.dispatch(campaign_id, 0, 60, T0)
    for device, action in (await world.offered(campaign.campaign_no)).items():
        assert await world.offers.start(device, action)
        world.fact(device, action, d.CONFIRMED, now_ms())
    await world.project()
    await api.act(campaign_id, "halt", json={"reason": "bad"})
    return campaign_id, fallback


async def test_one_command_drafts_what_the_plan_foresees_and_both_campaigns_say_so(api, halted):
    campaign_id, fallback = halted
    path, key = f"/v1/campaigns/{campaign_id}/remediate", {"Idempotency-Key": "back"}
    answer = await api("POST", path, json={}, headers=key)
    assert answer.status_code == 201
    told = answer.json()
    (draft,) = told["drafts"]
    assert (told["campaign_id"], told["kind"], told["gaps"]) == (campaign_id, "fallback", [])
    assert (draft["release_id"], draft["devices"], draft["previously"]) == (fallback, 60, None)
    assert (await api("POST", path, json={}, headers=key)).json() == told
    child = await api.ok("GET", f"/v1/campaigns/{draft['campaign_id']}")
    assert (child["state"], child["remediates"], child["author"]) == ("draft", campaign_id, "ann")
    (shown,) = (await api.ok("GET", f"/v1/campaigns/{campaign_id}"))["remediated_by"]
    assert {**draft, "kind": "fallback", "state": "draft"} == {k: v for k, v in shown.items() if k != "at"}
    preview = await api.ok("GET", f"/v1/campaigns/{draft['campaign_id']}/preview")
    assert (preview["devices"], preview["holdback"], preview["problems"]) == (60, 0, [])
    assert preview["remediation"] == {
        "kind": "none",
        "release": None,
        "updated_by": campaign_id,
        "previously": None,
    }
    events = (await api.ok("GET", f"/v1/campaigns/{campaign_id}/events"))["items"]
    assert [event["data"]["drafts"] for event in events if event["type"] == "RemediationDrafted"] == [[draft]]
    await api.ok("POST", f"/v1/campaigns/{draft['campaign_id']}/submit")


async def test_what_cannot_be_taken_back_is_refused_with_a_code(api, halted):
    campaign_id, fallback = halted
    path = f"/v1/campaigns/{campaign_id}/remediate"
    for body, status, code in [
        ({"kind": "revert"}, 409, "remediation.impossible"),
        ({"kind": "fallback", "release": "rel_none"}, 404, "release.not_found"),
        ({"kind": "revert", "release": fallback}, 422, "remediation.kind"),
        ({"release": fallback, "plan": {"cohort": {}}}, 422, "plan.field.missing"),
    ]:
        problem(await api("POST", path, json=body), status, code)
    draft = await api.draft(fallback)
    answer = await api("POST", f"/v1/campaigns/{draft}/remediate", json={"kind": "revert"})
    problem(answer, 409, "campaign.transition")
    assert (await api("POST", path, json={}, by="eve", scopes=("campaign:read",))).status_code == 403
