"""Taking devices back with the CLI."""

from __future__ import annotations

import re

import pytest

from tests.unit.cli.conftest import AT, campaign

PREVIEW = {
    "digest": None,
    "frozen": False,
    "devices": 41,
    "holdback": 0,
    "strata": {},
    "phases": [],
    "rules": [],
    "retries": [],
    "breaker": None,
    "budget": [],
    "health": [],
    "problems": [],
    "withheld": {},
    "revision": None,
    "untried": [],
    "unjudged": [],
    "conflicts": [],
    "not_applicable": [],
}
DRAFTED = {
    "campaign_id": "cmp_1",
    "kind": "revert",
    "drafts": [{"campaign_id": "cmp_8", "release_id": "rel_0", "devices": 41, "previously": "rel_0"}],
    "gaps": [
        {
            "reason": "unknown_release",
            "hardware_model": "sensor-a",
            "devices": 2,
            "samples": ["dev-7", "dev-9"],
            "release_id": None,
        }
    ],
}


def squeezed(text: str) -> str:
    return re.sub(r"\s+", " ", text)


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("phases:\n  - {name: canary, percent: 100, soak: 5s}\n")
    return path


@pytest.mark.parametrize(
    ("words", "body"),
    [
        ((), {}),
        (("--revert",), {"kind": "revert"}),
        (("--release", "rel_0", "-n", "x"), {"release": "rel_0", "name": "x"}),
    ],
)
def test_a_remediation_prints_its_drafts_and_says_whom_it_leaves_out(ota, api, words, body):
    api.on("POST", "/v1/campaigns/cmp_1/remediate", DRAFTED)
    ran = ota("campaign", "remediate", "cmp_1", *words)
    assert (ran.exit_code, ran.stdout) == (0, "cmp_8\n")
    assert "41 devices to release rel_0" in ran.stderr
    assert "left out: 2 devices (sensor-a), unknown_release: dev-7, dev-9" in squeezed(ran.stderr)
    assert api.body() == body


def test_a_remediation_can_have_a_plan_of_its_own(ota, api, plan):
    api.on("POST", "/v1/campaigns/cmp_1/remediate", DRAFTED)
    assert ota("campaign", "remediate", "cmp_1", "--plan", plan).exit_code == 0
    assert api.body()["plan"]["phases"] == [{"name": "canary", "percent": 100, "soak": "5s"}]


def test_both_campaigns_show_what_takes_back_what(ota, api):
    draft = DRAFTED["drafts"][0] | {"state": "running", "kind": "revert", "at": AT}
    api.on("GET", "/v1/campaigns/cmp_1", campaign("aborted", remediated_by=[draft]))
    assert "cmp_8 (revert, 41 devices, running)" in squeezed(ota("campaign", "show", "cmp_1").stdout)
    api.on("GET", "/v1/campaigns/cmp_1", campaign(remediates="cmp_0"))
    assert "remediates cmp_0" in squeezed(ota("campaign", "show", "cmp_1").stdout)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({}, "Nothing is foreseen"),
        ({"kind": "revert"}, "go back to what they ran before"),
        ({"kind": "fallback", "release": "rel_0"}, "are to get rel_0"),
        ({"updated_by": "cmp_0", "previously": "rel_2"}, "cmp_0 updated and that ran rel_2 before"),
    ],
)
def test_a_preview_says_what_is_foreseen_for_updated_devices(ota, api, spec, text):
    remediation = {"kind": "none", "release": None, "updated_by": None, "previously": None} | spec
    api.on("GET", "/v1/campaigns/cmp_1/preview", PREVIEW | {"remediation": remediation})
    assert text in squeezed(ota("campaign", "preview", "cmp_1").stdout)
