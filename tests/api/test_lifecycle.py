"""A campaign through the API, as people lead it."""

from __future__ import annotations

from tests.api.conftest import plan
from tests.support.world import T0, World


async def test_a_campaign_is_drafted_submitted_approved_by_another_and_launched(api):
    release_id = await api.ready()
    created = await api("POST", "/v1/campaigns", json={"name": "roll out", "plan": plan(release_id)})
    campaign_id = created.json()["campaign_id"]
    assert created.status_code == 201
    assert created.headers["Location"] == f"/v1/campaigns/{campaign_id}"
    assert created.headers["ETag"] == '"1"'
    draft = created.json()
    assert (draft["state"], draft["author"], draft["digest"], draft["phase_count"]) == ("draft", "ann", None, 2)

    preview = await api.ok("GET", f"/v1/campaigns/{campaign_id}/preview")
    assert (preview["frozen"], preview["devices"], preview["holdback"], preview["problems"]) == (False, 100, 1, [])
    assert [(phase["size"], phase["reached"]) for phase in preview["phases"]] == [(40, 40), (59, 99)]
    assert (preview["untried"], preview["unjudged"], preview["conflicts"]) == ([], [], [])
    assert [(each["reason"], each["devices"], each["enrolled"]) for each in preview["not_applicable"]] == [
        ("never_seen", 100, True)
    ]
    assert preview["rules"][0]["bounds"]["10"] >= 3
    assert all(0 < phase["failures_at_most"] <= phase["reached"] for phase in preview["phases"])

    submitted = (await api.act(campaign_id, "submit")).json()
    assert (submitted["state"], submitted["digest"]) == ("submitted", preview["digest"])
    frozen = await api.ok("GET", f"/v1/campaigns/{campaign_id}/preview")
    assert frozen == preview | {"frozen": True}

    approved = (await api.act(campaign_id, "approve", by="bob", json={"digest": submitted["digest"]})).json()
    assert (approved["state"], approved["approvals"], approved["approvals_required"]) == ("approved", ["bob"], 1)
    launched = (await api.act(campaign_id, "launch")).json()
    assert (launched["state"], launched["gate_epoch"], launched["version"]) == ("running", 1, 4)

    events = await api.ok("GET", f"/v1/campaigns/{campaign_id}/events")
    assert [(event["version"], event["type"], event["meta"]["actor"]) for event in events["items"]] == [
        (1, "CampaignCreated", "ann"),
        (2, "CampaignSubmitted", "ann"),
        (3, "CampaignApproved", "bob"),
        (4, "CampaignLaunched", "ann"),
    ]
    listed = await api.ok("GET", "/v1/campaigns", params={"state": "running"})
    assert [item["campaign_id"] for item in listed["items"]] == [campaign_id]
    assert (await api.ok("GET", "/v1/campaigns", params={"state": "draft"}))["items"] == []


async def test_the_author_cannot_approve_even_with_every_scope(api):
    campaign_id = await api.draft(await api.ready())
    digest = (await api.act(campaign_id, "submit")).json()["digest"]
    refused = await api.act(campaign_id, "approve", scopes=("admin",), json={"digest": digest})
    assert (refused.status_code, refused.json()["code"]) == (403, "campaign.approval.same_actor")
    assert (await api.ok("GET", f"/v1/campaigns/{campaign_id}"))["state"] == "submitted"


async def test_an_approval_of_another_digest_does_not_count(api):
    campaign_id = await api.draft(await api.ready())
    await api.act(campaign_id, "submit")
    refused = await api.act(campaign_id, "approve", by="bob", json={"digest": "sha256:0"})
    assert (refused.status_code, refused.json()["code"]) == (409, "campaign.approval.digest_mismatch")


async def test_two_approvals_come_from_two_people(api):
    campaign_id = await api.draft(await api.ready(), approvals={"required": 2, "separation": True})
    body = {"digest": (await api.act(campaign_id, "submit")).json()["digest"]}
    assert (await api.act(campaign_id, "approve", by="bob", json=body)).json()["state"] == "submitted"
    again = await api.act(campaign_id, "approve", by="bob", json=body)
    assert (again.status_code, again.json()["code"]) == (409, "campaign.approval.duplicate")
    assert (await api.act(campaign_id, "approve", by="cat", json=body)).json()["state"] == "approved"


async def test_pause_and_resume_need_no_approval_but_a_halt_does(api):
    campaign_id = await api.running(await api.ready())
    paused = await api.act(campaign_id, "pause", json={"reason": "lunch"})
    assert paused.json()["state"] == "paused"
    assert (await api.act(campaign_id, "resume", json={"reason": "back"})).json()["state"] == "running"

    halted = (await api.act(campaign_id, "halt", by="bob", json={"reason": "smoke"})).json()
    assert halted["state"] == "halted"
    assert (halted["halt"]["by"], halted["halt"]["reason"], halted["halt"]["phase"]) == ("bob", "smoke", None)
    assert halted["halt"]["position"] == 0
    again = (await api.act(campaign_id, "halt", json={"reason": "more smoke"})).json()
    assert again["halt"] == halted["halt"], "a halt is idempotent"

    early = await api.act(campaign_id, "resume", json={"reason": "try"})
    assert (early.status_code, early.json()["code"]) == (409, "campaign.transition")
    own = await api.act(campaign_id, "approve", json={"digest": halted["digest"]})
    assert own.json()["code"] == "campaign.approval.same_actor"
    approved = (await api.act(campaign_id, "approve", by="bob", json={"digest": halted["digest"]})).json()
    assert approved["resume_approvals"] == ["bob"]
    resumed = (await api.act(campaign_id, "resume", json={"reason": "fixed"})).json()
    assert (resumed["state"], resumed["gate_epoch"]) == ("running", 2)
    # Fresh alpha with each resume after a halt: r of them cost r + 1 alpha.
    assert resumed["false_halt_at_most"] == 2 * approved["false_halt_at_most"] > 0
    assert approved["false_halt_after_resume"] == resumed["false_halt_at_most"]
    assert resumed["halt"]["reason"] == "smoke", "the last halt stays to be seen"


async def test_a_phase_is_approved_by_another_than_the_author(api):
    phases = [{"name": "all", "percent": 100.0, "soak": "5s", "approval": True}]
    campaign_id = await api.running(await api.ready(), phases=phases)
    digest = (await api.ok("GET", f"/v1/campaigns/{campaign_id}"))["digest"]
    own = await api.act(campaign_id, "phases/0/approve", json={"digest": digest})
    assert own.json()["code"] == "campaign.approval.same_actor"
    done = await api.act(campaign_id, "phases/0/approve", by="bob", json={"digest": digest})
    assert done.json()["phases"][0]["approved"] is True
    for phase in (1, 10**30):
        wrong = await api.act(campaign_id, f"phases/{phase}/approve", by="bob", json={"digest": digest})
        assert (wrong.status_code, wrong.json()["code"]) == (409, "campaign.transition")


async def test_an_aborted_campaign_stays_aborted(api):
    campaign_id = await api.running(await api.ready())
    assert (await api.act(campaign_id, "abort", json={"reason": "wrong fleet"})).json()["state"] == "aborted"
    late = await api.act(campaign_id, "resume", json={"reason": "please"})
    assert (late.status_code, late.json()["code"]) == (409, "campaign.transition")
    assert (await api.act(campaign_id, "abort", json={"reason": "again"})).json()["version"] == 5


async def test_an_action_on_a_version_that_has_passed_is_refused(api):
    campaign_id = await api.draft(await api.ready())
    for action in ("submit", "approve", "launch", "pause", "resume", "abort"):
        body = None if action in {"submit", "launch"} else {"digest": "d"} if action == "approve" else {"reason": "r"}
        stale = await api.act(campaign_id, action, by="bob", headers={"If-Match": '"7"'}, json=body)
        assert (stale.status_code, stale.json()["code"]) == (412, "precondition.failed"), action
    assert (await api.ok("GET", f"/v1/campaigns/{campaign_id}"))["version"] == 1


async def test_an_action_on_the_seen_version_or_any_is_done(api):
    campaign_id = await api.draft(await api.ready())
    submitted = await api.act(campaign_id, "submit", headers={"If-Match": '"1"'})
    assert (submitted.status_code, submitted.headers["ETag"]) == (200, '"2"')
    body = {"digest": submitted.json()["digest"]}
    approved = await api.act(campaign_id, "approve", by="bob", headers={"If-Match": "*"}, json=body)
    assert approved.status_code == 200
    malformed = await api.act(campaign_id, "launch", headers={"If-Match": "4"})
    assert (malformed.status_code, malformed.json()["code"]) == (400, "precondition.etag")


async def test_a_halt_is_never_refused_for_being_stale(api):
    campaign_id = await api.running(await api.ready())
    halted = await api.act(campaign_id, "halt", headers={"If-Match": '"1"'}, json={"reason": "now"})
    assert halted.json()["state"] == "halted"


async def test_a_halt_of_the_gate_is_shown_with_every_number(api, engine):
    world = World(engine)
    await world.setup()
    campaign = await world.launch()
    await world.open_phase(campaign.campaign_id, 0, T0)
    await world.decisions.dispatch(campaign.campaign_id, 0, 40, T0)
    offered = await world.offered(campaign.campaign_no)
    started = dict(list(offered.items())[:20])
    for device, action in started.items():
        assert await world.offers.start(device, action)
    for device, action in list(started.items())[:5]:
        world.fact(device, action, "device.update.reverted", T0 + 5, failure_class="health", reason="self_test")
    await world.project()

    shown = await api.ok("GET", f"/v1/campaigns/{campaign.campaign_id}")
    assert shown["state"] == "halted"
    halt = shown["halt"]
    assert (halt["by"], halt["scope"], halt["n"], halt["f"], halt["bound"]) == ("gate", "campaign", 20, 5, 5)
    assert (halt["offers_after"], halt["starts_after"]) == (0, 0)
    assert halt["strata"][0]["failures"] >= 1
    assert sum(stratum["failures"] for stratum in halt["strata"]) == 5
    enrolment = shown["enrolment"]
    assert (enrolment["members"], enrolment["holdback"]) == (200, 2)
    assert (shown["exposed"], shown["spared"]) == (20, 200 - 2 - 20)
    assert shown["counts"] == {"offered": 20, "accepted": 15, "reverted": 5}
    assert shown["phases"][0]["counts"] == shown["counts"]
    assert (shown["phases"][0]["devices"], shown["phases"][0]["state"]) == (40, "open")
    assert shown["gate"][0]["verdict"] == "halt"

    device = f"dev-{next(iter(started)):04}"
    twin = await api.ok("GET", f"/v1/devices/{device}")
    (assignment,) = twin["assignments"]
    assert (assignment["state"], assignment["failure_class"], assignment["current"]) == ("reverted", "health", False)
    assert twin["assignment"] is None
    busy = await api.ok("GET", f"/v1/devices/dev-{list(started)[-1]:04}")
    assert busy["assignment"]["campaign_id"] == campaign.campaign_id
    timeline = await api.ok("GET", f"/v1/devices/{device}/timeline")
    (fact,) = timeline["items"]
    assert (fact["type"], fact["reason"]) == ("device.update.reverted", "self_test")
    assert fact["campaign_id"] == campaign.campaign_id

    assert (await api.act(campaign.campaign_id, "approve", by="cat", json={"digest": shown["digest"]})).is_success
    assert (await api.act(campaign.campaign_id, "resume", by="cat", json={"reason": "go"})).is_success
    await world.decisions.sweep(campaign.campaign_id, T0 + 20, 0)
    await world.decisions.dispatch(campaign.campaign_id, 0, 5, T0 + 100_000)
    resumed = await api.ok("GET", f"/v1/campaigns/{campaign.campaign_id}")
    assert resumed["halt"]["offers_after"] == 0, "what is offered after a resume is not counted against the halt"
