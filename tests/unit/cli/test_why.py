from __future__ import annotations

from typing import Any

from tests.unit.cli.conftest import AT

HELD: dict[str, Any] = {
    "code": "why.in_flight",
    "detail": "20 devices are in flight and the cap is 20.",
    "data": {"cap": 20},
    "remedy": None,
    "until": AT,
}
NEXT = HELD | {"code": "why.soak", "detail": "The phase soaks for 1h.", "until": None}
ETA: dict[str, Any] = {
    "none_because": None,
    "low": AT,
    "likely": AT,
    "high": AT,
    "open_ended": ["canary: an approval"],
    "phases": [
        {
            "phase": 0,
            "name": "canary",
            "remaining": 40,
            "under_way": 20,
            "low": AT,
            "likely": AT,
            "high": AT,
            "open_ended": ["canary: an approval"],
        }
    ],
    "basis": "Measured on 40 confirmed devices of this campaign.",
    "sample": {"confirmed": 40, "low": 60_000, "median": 90_000, "high": 600_000},
}
WHY = {"campaign_id": "cmp_1", "state": "running", "phase": 0, "at": AT, "why": HELD, "further": [NEXT], "eta": ETA}


def test_why_says_the_first_condition_then_what_would_hold_next_and_when_it_is_done(ota, api):
    api.on("GET", "/v1/campaigns/cmp_1/why", WHY)
    ran = ota("campaign", "why", "cmp_1")
    assert ran.exit_code == 0
    assert ran.stdout.index(HELD["detail"]) < ran.stdout.index(NEXT["detail"]) < ran.stdout.index("at the earliest")
    assert "canary: an approval" in ran.stdout
    assert "1m30s from offer to confirmation" in ran.stdout


def test_why_in_json_is_what_the_api_says(ota, api):
    api.on("GET", "/v1/campaigns/cmp_1/why", WHY)
    assert ota("campaign", "why", "cmp_1", "--json").json == WHY


def test_an_estimate_that_there_is_not_says_why(ota, api):
    none = ETA | {"none_because": "The campaign is halted.", "low": None, "likely": None, "high": None, "phases": []}
    api.on("GET", "/v1/campaigns/cmp_1/eta", {"campaign_id": "cmp_1", "state": "halted", "at": AT, "eta": none})
    ran = ota("campaign", "eta", "cmp_1")
    assert ran.stdout == "No estimate: The campaign is halted.\n"


def test_a_device_is_explained_campaign_by_campaign(ota, api):
    place = {
        "campaign_id": "cmp_1",
        "state": "running",
        "member": False,
        "why": HELD | {"code": "why.device.selector", "detail": "The selector does not match it.", "until": None},
        "further": [],
    }
    answer = {"device_id": "d1", "last_seen_at": None, "at": AT, "campaigns": [place]}
    api.on("GET", "/v1/devices/d1/why", answer, answer | {"campaigns": []})
    ran = ota("device", "why", "d1", "--campaign", "cmp_1")
    assert "The selector does not match it." in ran.stdout
    assert "why.device.selector" in ran.stdout
    assert api.last.url.params["campaign"] == "cmp_1"
    assert "No campaign is under way." in ota("device", "why", "d1").stdout
