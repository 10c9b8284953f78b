from __future__ import annotations

import pytest

from tests.unit.cli.conftest import AT, campaign
from tests.unit.cli.test_campaign import squeezed

WHY = {"reason": "because"}
REVISION = {
    "digest": "sha256:new",
    "by": "pat",
    "reason": "the canary went well",
    "at": AT,
    "approvals": ["bob"],
    "changes": [
        {"pointer": "/phases/1/rate", "before": None, "after": {"per_minute": 90, "exponential": None}},
        {"pointer": "/phases/1/jitter", "before": 60_000, "after": None},
    ],
}
PHASE = {
    "name": "canary",
    "size": 60,
    "reached": 60,
    "strata": {},
    "failures_at_most": 25,
    "soak_devices": None,
    "soak_devices_asked": None,
    "external": [],
}


@pytest.mark.parametrize(
    ("words", "path", "limits"),
    [
        (("brake", "--per-minute", "60", "--in-flight", "20"), "brake", {"per_minute": 60, "max_in_flight": 20}),
        (("brake", "--in-flight", "20"), "brake", {"max_in_flight": 20}),
        (("release-brake",), "brake/release", {}),
        (("release-brake", "--per-minute", "90"), "brake/release", {"per_minute": 90}),
    ],
)
def test_brakes_and_releases_are_one_request(ota, api, words, path, limits):
    api.on("POST", f"/v1/campaigns/cmp_1/{path}", campaign("running"))
    ran = ota("campaign", words[0], "cmp_1", *words[1:], "--reason", "because")
    assert (ran.exit_code, ran.stdout) == (0, "cmp_1 running\n")
    assert api.body() == WHY | limits


@pytest.mark.parametrize("words", [("brake",), ("release-brake",)])
def test_a_brake_needs_a_reason_and_whole_positive_limits(ota, api, words):
    assert ota("campaign", *words, "cmp_1", "--per-minute", "5").exit_code == 2
    assert ota("campaign", *words, "cmp_1", "--per-minute", "0", "--reason", "x").exit_code == 2
    assert not api.requests


def test_a_revision_is_read_from_a_file_and_says_how_to_approve_it(ota, api, tmp_path):
    path = tmp_path / "faster.yaml"
    path.write_text("max_in_flight: {initial: 60, maximum: 480}\nphases: {rest: {jitter: 10m}}\n")
    api.on("POST", "/v1/campaigns/cmp_1/revise", campaign("running", revision=REVISION))
    ran = ota("campaign", "revise", "cmp_1", path, "--reason", "because")
    assert ran.exit_code == 0
    changes = {"max_in_flight": {"initial": 60, "maximum": 480}, "phases": {"rest": {"jitter": "10m"}}}
    assert api.body() == WHY | {"changes": changes}
    assert "ota campaign approve cmp_1 --digest sha256:new" in ran.stderr


def test_an_approval_without_a_digest_is_of_the_revision_that_waits_but_a_phase_is_of_the_plan(ota, api):
    api.on("GET", "/v1/campaigns/cmp_1", campaign("running", revision=REVISION))
    api.on("POST", "/v1/campaigns/cmp_1/approve", campaign("running"))
    api.on("POST", "/v1/campaigns/cmp_1/phases/0/approve", campaign("running", revision=REVISION))
    assert ota("campaign", "approve", "cmp_1").exit_code == 0
    assert api.body() == {"digest": "sha256:new"}
    assert ota("campaign", "approve", "cmp_1", "--phase", "0").exit_code == 0
    assert api.body() == {"digest": "sha256:abc"}


def test_show_names_the_brake_and_the_revision_that_waits(ota, api):
    brake = {"per_minute": 60, "max_in_flight": None, "by": "eve", "reason": "line is full", "at": AT, "position": 9}
    api.on("GET", "/v1/campaigns/cmp_1", campaign("running", brake=brake, revision=REVISION))
    shown = squeezed(ota("campaign", "show", "cmp_1").stdout)
    assert "brake 60 a minute at most, by eve: line is full" in shown
    assert "sha256:new" in shown
    assert "approved by bob" in shown
    assert "/phases/1/rate" in shown
    assert "per_minute 90" in shown


def test_the_preview_shows_how_far_a_cap_grows_and_how_starts_are_spread(ota, api):
    now = PHASE | {"in_flight_start": 60, "in_flight": 60, "jitter": None}
    then = PHASE | {"in_flight_start": 60, "in_flight": 240, "jitter": 600_000}
    preview = {
        "digest": "sha256:abc",
        "frozen": True,
        "devices": 200,
        "holdback": 2,
        "strata": {},
        "phases": [now],
        "rules": [],
        "retries": [],
        "breaker": None,
        "budget": [],
        "remediation": {"kind": "none", "release": None, "updated_by": None, "previously": None},
        "health": [],
        "problems": [],
        "withheld": {},
        "untried": [],
        "unjudged": [],
        "conflicts": [],
        "not_applicable": [],
        "revision": {"digest": "sha256:new", "changes": REVISION["changes"], "phases": [then]},
    }
    api.on("GET", "/v1/campaigns/cmp_1/preview", preview)
    shown = squeezed(ota("campaign", "preview", "cmp_1").stdout)
    assert "Waits for approval: sha256:new" in shown
    assert "60 to 240" in shown
    assert "10m" in shown
