"""External gates through the API: a test bench with a key that can do nothing else."""

from __future__ import annotations

from tests.api.test_bad_input import problem
from tests.support.world import T0, World

PHASES = [
    {
        "name": "canary",
        "percent": 40.0,
        "soak": "0s",
        "soak_devices": 100,
        "patience": "2d",
        "external": [{"name": "lab-tests", "patience": "1d"}],
    },
    {"name": "rest", "percent": 100.0, "soak": "5s"},
]
LAB = {"by": "bench-7", "scopes": ("campaign:gate",)}


async def launched(api) -> str:
    campaign_id = await api.approved(await api.ready(), phases=PHASES)
    assert (await api.act(campaign_id, "launch")).status_code == 200
    return campaign_id


def gate(campaign_id, name="lab-tests", phase=0):
    return f"/v1/campaigns/{campaign_id}/phases/{phase}/gates/{name}"


async def test_the_preview_says_what_a_phase_waits_for(api):
    campaign_id = await api.draft(await api.ready(), phases=PHASES)
    canary, rest = (await api.ok("GET", f"/v1/campaigns/{campaign_id}/preview"))["phases"]
    assert (canary["soak_devices"], canary["soak_devices_asked"], canary["size"]) == (40, 100, 40)
    assert (canary["external"], rest["external"], rest["soak_devices"]) == (["lab-tests"], [], None)


async def test_a_verdict_is_kept_and_shown_and_the_last_one_counts(api):
    campaign_id = await launched(api)
    body = {"verdict": "hold", "reason": "two runs left"}
    given = await api.ok("POST", gate(campaign_id), json=body, **LAB)
    assert given == {
        "campaign_id": campaign_id,
        "phase": 0,
        "gate": "lab-tests",
        "verdict": "hold",
        "gate_epoch": 1,
        "state": "running",
    }
    url = "https://lab.example/runs/7"
    await api.ok("POST", gate(campaign_id), json={"verdict": "promote", "reason": "ok", "evidence_url": url}, **LAB)
    (shown,) = (await api.ok("GET", f"/v1/campaigns/{campaign_id}"))["phases"][0]["external"]
    assert shown.pop("at")
    assert shown == {"name": "lab-tests", "verdict": "promote", "reason": "ok", "evidence": url, "actor": "bench-7"}


async def test_a_repeated_verdict_is_given_once(api):
    campaign_id = await launched(api)
    body, key = {"verdict": "promote", "reason": "ok"}, {"Idempotency-Key": "run-7"}
    first = await api.ok("POST", gate(campaign_id), json=body, headers=key, **LAB)
    assert await api.ok("POST", gate(campaign_id), json=body, headers=key, **LAB) == first
    events = (await api.ok("GET", f"/v1/campaigns/{campaign_id}/events"))["items"]
    assert [event["type"] for event in events].count("ExternalVerdictGiven") == 1


async def test_a_verdict_that_halts_halts_at_once_in_the_name_of_the_gate(api):
    campaign_id = await launched(api)
    world = World(api.engine)
    await world.open_phase(campaign_id, 0, T0)
    assert (await world.decisions.dispatch(campaign_id, 0, 500, T0)).granted
    given = await api.ok("POST", gate(campaign_id), json={"verdict": "halt", "reason": "it burns"}, **LAB)
    assert given["state"] == "halted"
    halt = (await api.ok("GET", f"/v1/campaigns/{campaign_id}"))["halt"]
    assert (halt["by"], halt["reason"], halt["offers_after"], halt["starts_after"]) == ("lab-tests", "it burns", 0, 0)
    (campaign_no,) = [row["campaign_no"] for row in await world.rows("SELECT campaign_no FROM campaign")]
    offered = await world.offered(campaign_no)
    assert offered
    assert [await world.offers.start(*item) for item in offered.items()] == [None] * len(offered)


async def test_the_key_of_a_gate_can_do_nothing_else(api):
    campaign_id = await launched(api)
    for method, path in (
        ("GET", f"/v1/campaigns/{campaign_id}"),
        ("POST", f"/v1/campaigns/{campaign_id}/halt"),
        ("POST", f"/v1/campaigns/{campaign_id}/phases/0/approve"),
    ):
        refused = await api(method, path, json=None if method == "GET" else {"reason": "r", "digest": "d"}, **LAB)
        assert refused.status_code in {403, 422}
        assert method == "POST" or problem(refused, 403, "auth.scope.missing")
    assert (await api.ok("GET", f"/v1/campaigns/{campaign_id}"))["state"] == "running"


async def test_wrong_verdicts_are_refused_and_leave_nothing(api):
    campaign_id = await launched(api)
    good = {"verdict": "promote", "reason": "ok"}
    cases = [
        (gate(campaign_id, "nobody"), good, 404, "campaign.external.not_found"),
        (gate(campaign_id, phase=9), good, 404, "campaign.external.not_found"),
        (gate("cmp_nothing"), good, 404, "campaign.not_found"),
        (gate(campaign_id), good | {"verdict": "maybe"}, 422, "request.invalid"),
        (gate(campaign_id), good | {"reason": " "}, 422, "campaign.reason"),
        (gate(campaign_id), good | {"evidence_url": "file:///etc/passwd"}, 422, "request.invalid"),
        (gate(campaign_id), good | {"gate_epoch": 2}, 409, "campaign.external.epoch"),
    ]
    for path, body, status, code in cases:
        problem(await api("POST", path, json=body, **LAB), status, code)
    events = (await api.ok("GET", f"/v1/campaigns/{campaign_id}/events"))["items"]
    assert "ExternalVerdictGiven" not in [event["type"] for event in events]
