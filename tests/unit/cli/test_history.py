"""What was and what would have been, on the command line."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.cli.conftest import AT, problem
from tests.unit.cli.test_campaign import squeezed

WOULD: dict[str, Any] = {
    "at": AT,
    "phase": 0,
    "gate_epoch": 1,
    "rule": "two",
    "scope": "campaign",
    "n": 21,
    "f": 2,
    "bound": 2,
    "log_e": None,
    "p0": 0.05,
    "alpha": None,
    "reason": "2 of 21 started devices failed",
    "exposed": 21,
    "failures": 2,
}
BACKTEST: dict[str, Any] = {
    "campaign_id": "cmp_1",
    "name": "spring",
    "own_rules": False,
    "rules": [],
    "left_out": ["crashes"],
    "false_halt_at_most": 0.0,
    "halt": WOULD,
    "strata": [{"stratum": "sensor-a/C", "halt": WOULD | {"scope": "stratum/sensor-a/C"}, "started_after": 4}],
    "spared": 19,
    "actual": {
        "state": "halted",
        "ended_at": None,
        "halts": [
            {
                "at": AT,
                "by": "gate",
                "phase": 0,
                "gate_epoch": 1,
                "stratum": None,
                "rule": "fleet",
                "scope": "campaign",
                "n": 40,
                "f": 5,
                "bound": 5,
                "position": 9,
                "exposed": 40,
                "failures": 5,
            }
        ],
        "exposed": 40,
        "failures": 6,
    },
    "assumption": "Offers went as they really went.",
    "basis": {"events": 9, "decisions": 9, "facts": {"0": 4}},
}


def test_a_policy_is_sent_and_its_halt_stands_beside_the_real_one(ota, api, tmp_path):
    policy = tmp_path / "policy.yaml"
    policy.write_text("halt: [{name: two, test: threshold, scope: campaign, share: 0.05, after: 40}]\n")
    api.on("POST", "/v1/campaigns/cmp_1/backtest", BACKTEST)
    ran = ota("campaign", "backtest", "cmp_1", "--policy", policy)
    assert api.body()["policy"]["halt"][0]["share"] == 0.05
    text = squeezed(ran.stdout)
    assert "policy campaign" in text
    assert "two 21 2 21 2" in text
    assert "fleet 40 5 40 5" in text
    assert "sensor-a/C alone" in text
    assert "Not replayed: crashes" in ran.stderr
    assert "Offers went as they really went." in ran.stderr
    assert ota("campaign", "backtest", "cmp_1", "--json").json == BACKTEST
    assert api.body() == {"policy": None}


def test_a_policy_that_never_halts_says_so(ota, api):
    api.on("POST", "/v1/campaigns/cmp_1/backtest", BACKTEST | {"halt": None, "strata": []})
    assert "policy never halts" in squeezed(ota("campaign", "backtest", "cmp_1").stdout)


@pytest.mark.parametrize("words", [("campaign", "backtest", "cmp_1")])
def test_what_the_api_refuses_ends_the_command(ota, api, words):
    api.on("POST", "/v1/campaigns/cmp_1/backtest", problem(409, "backtest.not_launched"))
    ran = ota(*words)
    assert ran.exit_code != 0
    assert "backtest.not_launched" in ran.stderr


BASIS = {"events": 9, "decisions": 9, "facts": {"0": 4}}
FLEET: dict[str, Any] = {
    "at": AT,
    "devices": 12,
    "ran": [
        {
            "hardware_model": "sensor-a",
            "release_id": "rel_1",
            "version": "2.0.0",
            "digest": "aa",
            "source": "confirmed",
            "devices": 12,
        }
    ],
    "other": 0,
    "campaigns": [
        {
            "campaign_id": "cmp_1",
            "name": "spring",
            "release_id": "rel_1",
            "state": "halted",
            "since": AT,
            "position": 4,
            "in_flight": 3,
            "in_trial": 2,
            "devices": {"confirmed": 12, "trial": 2},
        }
    ],
    "campaigns_left_out": 4,
    "basis": BASIS,
}
DEVICE: dict[str, Any] = {
    "at": AT,
    "device_no": 1,
    "device_id": "d1",
    "hardware_model": "sensor-a",
    "registered_at": AT,
    "version": "1.0.0",
    "version_at": AT,
    "digest": None,
    "digest_at": None,
    "confirmed_campaign_id": "cmp_1",
    "confirmed_at": AT,
    "ran": {"source": "confirmed", "release_id": "rel_1", "version": "2.0.0", "digest": "aa"},
    "assignments": [
        {
            "campaign_id": "cmp_1",
            "campaign_name": "spring",
            "release_id": "rel_1",
            "phase": 0,
            "stratum": "all",
            "attempt": 1,
            "action_id": 7,
            "state": "confirmed",
            "changed_at": AT,
            "offered_at": AT,
            "started_at": AT,
            "failure_class": None,
            "reason": None,
        }
    ],
    "basis": BASIS,
}


def test_the_fleet_of_a_time_is_shown_in_counts(ota, api):
    api.on("GET", "/v1/fleet/as-of", FLEET)
    ran = ota("fleet", "as-of", AT)
    assert api.last.url.params["at"] == AT
    text = squeezed(ran.stdout)
    assert "sensor-a rel_1 2.0.0 aa confirmed 12" in text
    assert "halted" in text
    assert "4 older campaigns are not listed." in ran.stderr
    assert ota("fleet", "as-of", AT, "--json").json == FLEET


def test_a_device_of_a_time_is_shown_from_the_logs(ota, api):
    api.on("GET", "/v1/devices/d1", DEVICE)
    text = squeezed(ota("device", "show", "d1", "--as-of", AT).stdout)
    assert api.last.url.params["as_of"] == AT
    assert "ran rel_1" in text
    assert "reported version 1.0.0" in text
    assert ota("device", "show", "d1", "--as-of", AT, "--json").json == DEVICE
