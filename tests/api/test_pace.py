"""Brake and revisions through the API, as people use them."""

from __future__ import annotations

import pytest

from tests.api.test_bad_input import problem

HALT = ("campaign:halt", "campaign:read")
LAUNCH = ("campaign:launch", "campaign:read")
WRITE = ("campaign:write", "campaign:read")
WHY = {"reason": "the depot's line is full"}
FASTER = {"max_in_flight": {"initial": 60, "maximum": 480}, "phases": {"rest": {"jitter": "10s"}}}


async def test_whoever_may_halt_brakes_and_only_who_may_launch_releases(api):
    campaign_id = await api.running(await api.ready())
    body = {"per_minute": 60, "max_in_flight": 20} | WHY
    refused = await api.act(campaign_id, "brake", by="eve", scopes=LAUNCH, json=body)
    assert (refused.status_code, refused.json()["code"]) == (403, "auth.scope.missing")
    braked = (await api.act(campaign_id, "brake", by="eve", scopes=HALT, json=body)).json()
    assert braked["brake"] | {"at": None} == {
        "per_minute": 60,
        "max_in_flight": 20,
        "by": "eve",
        "reason": WHY["reason"],
        "at": None,
        "position": 0,
    }
    refused = await api.act(campaign_id, "brake/release", by="eve", scopes=HALT, json=WHY)
    assert (refused.status_code, refused.json()["code"]) == (403, "auth.scope.missing")
    loosened = await api.act(
        campaign_id, "brake/release", by="lou", scopes=LAUNCH, json={"per_minute": 90, "max_in_flight": 20} | WHY
    )
    assert (loosened.json()["brake"]["per_minute"], loosened.json()["brake"]["by"]) == (90, "lou")
    released = await api.act(campaign_id, "brake/release", by="lou", scopes=LAUNCH, json=WHY)
    assert released.json()["brake"] is None
    events = await api.ok("GET", f"/v1/campaigns/{campaign_id}/events")
    assert [event["type"] for event in events["items"][-3:]] == ["PaceBraked", "BrakeReleased", "BrakeReleased"]


@pytest.mark.parametrize(
    ("action", "body", "status", "code"),
    [
        ("brake", {}, 422, "campaign.brake.empty"),
        ("brake", {"per_minute": 0}, 422, "request.invalid"),
        ("brake", {"per_minute": 10**30}, 422, "request.invalid"),
        ("brake", {"max_in_flight": 241}, 409, "campaign.brake.above_approved"),
        ("brake", {"max_in_flight": 21}, 409, "campaign.brake.loosens"),
        ("brake/release", {"max_in_flight": 19}, 409, "campaign.brake.tightens"),
        ("brake/release", {"max_in_flight": 241}, 409, "campaign.brake.above_approved"),
        ("revise", {"changes": {"halt": []}}, 422, "plan.revision.field"),
        ("revise", {"changes": {"phases": {"rest": {"jitter": "2h"}}}}, 422, "plan.jitter.range"),
        ("revise", {"changes": {}}, 409, "campaign.revision.unchanged"),
    ],
)
async def test_what_the_pace_cannot_be_is_refused_with_a_code_and_changes_nothing(api, action, body, status, code):
    campaign_id = await api.running(await api.ready())
    before = (await api.act(campaign_id, "brake", json={"max_in_flight": 20} | WHY)).json()
    body = problem(await api.act(campaign_id, action, json=body | WHY), status, code)
    assert code == "request.invalid" or body["remedy"]
    assert await api.ok("GET", f"/v1/campaigns/{campaign_id}") == before


async def test_only_a_campaign_that_goes_on_is_braked_or_revised(api):
    campaign_id = await api.approved(await api.ready())
    for action, body in (("brake", {"per_minute": 5}), ("brake/release", {}), ("revise", {"changes": FASTER})):
        problem(await api.act(campaign_id, action, json=body | WHY), 409, "campaign.transition")


async def test_a_revision_waits_is_shown_and_holds_once_another_person_approved_it(api):
    campaign_id = await api.running(await api.ready())
    before = await api.ok("GET", f"/v1/campaigns/{campaign_id}")
    old = await api.ok("GET", f"/v1/campaigns/{campaign_id}/preview")
    assert old["revision"] is None
    body = {"changes": FASTER} | WHY
    refused = await api.act(campaign_id, "revise", by="pat", scopes=HALT, json=body)
    assert (refused.status_code, refused.json()["code"]) == (403, "auth.scope.missing")
    waiting = (await api.act(campaign_id, "revise", by="pat", scopes=WRITE, json=body)).json()
    assert (waiting["plan"], waiting["digest"], waiting["state"]) == (before["plan"], before["digest"], "running")
    revision = waiting["revision"]
    assert (revision["by"], revision["reason"], revision["approvals"]) == ("pat", WHY["reason"], [])
    assert [change["pointer"] for change in revision["changes"]] == ["/phases/1/jitter", "/max_in_flight"]
    assert (revision["changes"][0]["before"], revision["changes"][0]["after"]) == (None, 10_000)
    preview = await api.ok("GET", f"/v1/campaigns/{campaign_id}/preview")
    assert preview | {"revision": None} == old
    assert preview["revision"]["digest"] == revision["digest"]
    assert [phase["in_flight"] for phase in preview["revision"]["phases"]] == [60, 120]

    for by in ("ann", "pat"):  # the author, and who proposed it
        own = await api.act(campaign_id, "approve", by=by, scopes=("admin",), json={"digest": revision["digest"]})
        assert own.json()["code"] == "campaign.approval.same_actor"
    stale = await api.act(campaign_id, "approve", by="bob", json={"digest": before["digest"]})
    assert stale.json()["code"] == "campaign.approval.digest_mismatch"
    done = (await api.act(campaign_id, "approve", by="bob", json={"digest": revision["digest"]})).json()
    assert (done["digest"], done["revision"], done["approvals"]) == (revision["digest"], None, ["bob"])
    assert done["plan"]["max_in_flight"]["maximum"] == 480
    assert done["plan"]["phases"][1]["jitter"] == 10_000
    after = await api.ok("GET", f"/v1/campaigns/{campaign_id}/preview")
    assert (after["digest"], after["phases"][1]["jitter"]) == (revision["digest"], 10_000)


async def test_a_stale_revision_or_release_is_refused_and_a_brake_never(api):
    campaign_id = await api.running(await api.ready())
    old = {"If-Match": '"1"'}
    for action, body in (("brake/release", {}), ("revise", {"changes": FASTER})):
        problem(await api.act(campaign_id, action, headers=old, json=body | WHY), 412, "precondition.failed")
    assert (await api.act(campaign_id, "brake", headers=old, json={"per_minute": 5} | WHY)).is_success
