from __future__ import annotations

STOPPED = {
    "stopped": True,
    "by": "ann",
    "reason": "recall",
    "at": "2026-11-21T09:00:00Z",
    "position": 7,
    "offers_after": 0,
    "starts_after": 0,
}


def test_stop_says_that_nothing_was_offered_beyond_it(ota, api):
    api.on("POST", "/v1/fleet/stop", STOPPED)
    ran = ota("fleet", "stop", "--reason", "recall")
    assert "0 offers, 0 starts" in ran.stdout
    assert api.body() == {"reason": "recall"}


def test_release_and_show_print_what_the_api_says(ota, api):
    free = STOPPED | {"stopped": False, "by": None, "reason": None, "at": None, "position": None}
    api.on("POST", "/v1/fleet/release", free)
    api.on("GET", "/v1/fleet", free)
    assert "not stopped" in ota("fleet", "release", "--reason", "all clear").stdout
    assert ota("fleet", "show", "--json").json == free
