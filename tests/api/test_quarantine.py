"""A release that was halted anywhere is not launched elsewhere without an approval that could know of it."""

from __future__ import annotations


async def test_a_halt_elsewhere_asks_for_a_new_approval(api):
    release = await api.ready()
    first, second = await api.running(release), await api.approved(release)
    await api.ok("POST", f"/v1/campaigns/{first}/halt", json={"reason": "smoke"})

    refused = await api("POST", f"/v1/campaigns/{second}/launch")
    assert (refused.status_code, refused.json()["code"]) == (409, "release.quarantined")
    assert first in refused.json()["detail"]

    shown = await api.ok("GET", f"/v1/campaigns/{second}")
    assert shown["release_halted_in"] == [first]
    approved = await api.ok("POST", f"/v1/campaigns/{second}/approve", by="cleo", json={"digest": shown["digest"]})
    assert approved["approvals"] == ["cleo"]
    assert (await api.ok("POST", f"/v1/campaigns/{second}/launch"))["state"] == "running"
