"""The stop of the whole fleet over HTTP."""

from __future__ import annotations


async def test_stop_and_release_say_how_things_stand(api):
    assert (await api.ok("GET", "/v1/fleet"))["stopped"] is False
    stopped = await api.ok("POST", "/v1/fleet/stop", json={"reason": "recall"})
    assert (stopped["stopped"], stopped["by"], stopped["reason"]) == (True, "ann", "recall")
    assert (stopped["offers_after"], stopped["starts_after"]) == (0, 0)
    assert await api.ok("GET", "/v1/fleet") == stopped
    released = await api.ok("POST", "/v1/fleet/release", by="bob", json={"reason": "all clear"})
    assert released["stopped"] is False


async def test_whoever_may_halt_may_stop_and_whoever_may_launch_may_release(api):
    halter, launcher = ("campaign:halt",), ("campaign:launch",)
    assert (await api("POST", "/v1/fleet/stop", scopes=launcher, json={"reason": "r"})).status_code == 403
    assert (await api("POST", "/v1/fleet/stop", scopes=halter, json={"reason": "r"})).status_code == 200
    assert (await api("POST", "/v1/fleet/release", scopes=halter, json={"reason": "r"})).status_code == 403
    assert (await api("POST", "/v1/fleet/release", scopes=launcher, json={"reason": "r"})).status_code == 200


async def test_a_reason_is_needed(api):
    answer = await api("POST", "/v1/fleet/stop", json={"reason": "  "})
    assert (answer.status_code, answer.json()["code"]) == (422, "campaign.reason")
