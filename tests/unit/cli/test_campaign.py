from __future__ import annotations

import re

import httpx
import pytest

from tests.unit.cli.conftest import AT, CAMPAIGN, HALT, campaign, problem

PLAN = "release: ''\nphases:\n  - {name: canary, percent: 100, soak: 5s}\n"
DIGEST = {"digest": "sha256:abc"}
WHY = {"reason": "because"}


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    return path


def squeezed(text: str) -> str:
    return re.sub(r"[ │]+", " ", text)


# ---- from draft to launch


def test_create_sends_the_plan_with_the_release_and_prints_the_id_alone(ota, api, plan):
    api.on("POST", "/v1/campaigns", campaign("draft"))
    ran = ota("campaign", "create", plan, "--name", "spring", "--release", "rel_1")
    assert ran.exit_code == 0
    assert ran.stdout == "cmp_1\n"
    assert "ota campaign submit cmp_1" in ran.stderr
    body = api.body()
    assert body["name"] == "spring"
    assert body["plan"] == {"release": "rel_1", "phases": [{"name": "canary", "percent": 100, "soak": "5s"}]}


def test_a_plan_in_json_is_a_plan_too(ota, api, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text('{"release": "rel_2"}')
    api.on("POST", "/v1/campaigns", campaign("draft"))
    assert ota("campaign", "create", path, "--name", "x").exit_code == 0
    assert api.body()["plan"] == {"release": "rel_2"}


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n", "", "just words"])
def test_a_file_that_is_no_plan_is_not_sent(ota, api, tmp_path, text):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    assert ota("campaign", "create", path, "--name", "x").exit_code == 2
    assert not api.requests


@pytest.mark.parametrize(
    ("words", "action", "body"),
    [
        (("submit",), "submit", None),
        (("launch",), "launch", None),
        (("pause", "--reason", "because"), "pause", WHY),
        (("resume", "--reason", "because"), "resume", WHY),
        (("halt", "--reason", "because"), "halt", WHY),
        (("abort", "--reason", "because", "--yes"), "abort", WHY),
    ],
)
def test_an_action_is_one_request(ota, api, words, action, body):
    api.on("POST", f"/v1/campaigns/cmp_1/{action}", campaign("running"))
    ran = ota("campaign", words[0], "cmp_1", *words[1:])
    assert (ran.exit_code, ran.stdout) == (0, "cmp_1 running\n")
    (request,) = api.requests
    assert (api.body() if request.content else None) == body


@pytest.mark.parametrize("action", ["pause", "resume", "halt", "abort"])
def test_what_stops_or_resumes_needs_a_reason(ota, api, action):
    assert ota("campaign", action, "cmp_1").exit_code == 2
    assert not api.requests


def test_a_halt_asks_nothing_but_an_abort_does(ota, api):
    api.on("POST", "/v1/campaigns/cmp_1/halt", campaign("halted"))
    api.on("POST", "/v1/campaigns/cmp_1/abort", campaign("aborted"))
    assert ota("campaign", "halt", "cmp_1", "--reason", "x", stdin="").exit_code == 0
    assert ota("campaign", "abort", "cmp_1", "--reason", "x", stdin="n\n").exit_code == 1
    assert [request.url.path for request in api.requests] == ["/v1/campaigns/cmp_1/halt"]
    assert ota("campaign", "abort", "cmp_1", "--reason", "x", stdin="y\n").exit_code == 0


def test_an_approval_is_of_what_is_submitted(ota, api):
    api.on("GET", "/v1/campaigns/cmp_1", campaign("submitted"))
    api.on("POST", "/v1/campaigns/cmp_1/approve", campaign("approved"))
    assert ota("campaign", "approve", "cmp_1").exit_code == 0
    assert api.body() == DIGEST


def test_an_approval_can_name_what_was_reviewed(ota, api):
    api.on("GET", "/v1/campaigns/cmp_1", campaign("submitted"))
    api.on("POST", "/v1/campaigns/cmp_1/approve", campaign("approved"))
    ota("campaign", "approve", "cmp_1", "--digest", "sha256:reviewed")
    assert api.body() == {"digest": "sha256:reviewed"}


def test_a_phase_is_approved_by_its_number(ota, api):
    api.on("GET", "/v1/campaigns/cmp_1", campaign("running"))
    api.on("POST", "/v1/campaigns/cmp_1/phases/0/approve", campaign("running"))
    assert ota("campaign", "approve", "cmp_1", "--phase", "0").exit_code == 0
    assert api.body() == DIGEST


def test_a_laboratory_speaks_for_its_gate(ota, api):
    given = {"campaign_id": "cmp_1", "phase": 0, "gate": "lab", "verdict": "hold", "gate_epoch": 1, "state": "running"}
    api.on("POST", "/v1/campaigns/cmp_1/phases/0/gates/lab", given)
    ran = ota("campaign", "gate", "cmp_1", 0, "lab", "--verdict", "hold", "--reason", "two runs left", "--epoch", 1)
    assert (ran.exit_code, ran.stdout) == (0, "cmp_1 running\n")
    assert api.body() == {"verdict": "hold", "reason": "two runs left", "evidence_url": None, "gate_epoch": 1}


def test_show_names_external_gates_and_holds_that_outlasted_their_patience(ota, api):
    shown = campaign()
    said = {"verdict": "hold", "reason": "two runs left", "evidence": None, "actor": "lab", "at": AT}
    shown["phases"][0]["external"] = [{"name": "lab-tests", **said}]
    hold = {"reason": "external", "gate": "lab-tests", "detail": "It waits.", "since": AT, "at": AT}
    shown["phases"][0]["outlasted"] = [hold]
    api.on("GET", "/v1/campaigns/cmp_1", shown)
    ran = ota("campaign", "show", "cmp_1")
    for text in ("lab-tests", "two runs left", f"phase 0 waits since {AT}: It waits."):
        assert text in ran.stdout


def test_a_draft_cannot_be_approved(ota, api):
    api.on("GET", "/v1/campaigns/cmp_1", campaign("draft", digest=None))
    ran = ota("campaign", "approve", "cmp_1")
    assert ran.exit_code == 6
    assert "ota campaign submit cmp_1" in ran.stderr


# ---- show, list, events, preview


def test_show_in_json_is_the_apis_answer(ota, api):
    api.on("GET", "/v1/campaigns/cmp_1", campaign("halted"))
    assert ota("campaign", "show", "cmp_1", "--json").json == campaign("halted")
    assert ota("--output", "json", "campaign", "show", "cmp_1").json == campaign("halted")


def test_show_counts_every_device_of_a_phase_once(ota, api):
    api.on("GET", "/v1/campaigns/cmp_1", campaign())
    lines = [line.split() for line in ota("campaign", "show", "cmp_1").stdout.splitlines()]
    # 60 devices: 32 have an assignment, of which 15 in flight, 12 confirmed, 3 failed, 2 expired; 28 wait.
    assert ["0", "canary", "soaking", "60", "28", "15", "12", "3", "2", "2026-11-21T04:00:00.000Z"] in lines
    assert ["1", "rest", "waiting", "138", "138", "0", "0", "0", "0"] in lines
    assert ["fleet", "campaign", "25", "3", "5", "hold"] in lines


def test_show_says_what_resumes_cost_in_false_halts(ota, api):
    api.on("GET", "/v1/campaigns/cmp_1", campaign("halted", false_halt_at_most=0.02, false_halt_after_resume=0.03))
    assert "probability at most 0.02 so far, 0.03 with a resume after a halt" in squeezed(
        ota("campaign", "show", "cmp_1").stdout
    )


def test_show_before_the_submission_has_no_numbers(ota, api):
    draft = campaign("draft", digest=None, enrolment=None, spared=None, gate=[], approvals=[])
    draft["phases"][0] |= {"devices": None, "counts": {}}
    api.on("GET", "/v1/campaigns/cmp_1", draft)
    ran = ota("campaign", "show", "cmp_1")
    assert ran.exit_code == 0
    assert "0 of 1" in ran.stdout


def test_show_says_why_it_halted_who_is_suspected_and_what_was_spared(ota, api):
    api.on("GET", "/v1/campaigns/cmp_1", campaign("halted"))
    ran = ota("campaign", "show", "cmp_1")
    text = squeezed(ran.stdout)
    for said in (
        "Halted in phase 0 (canary)",
        HALT["reason"],
        "rule fleet, scope campaign",
        "f = 9 failures among n = 25 started devices",
        "5 failures halt among 25 started devices (f*(n))",
        "p0 = 0.02",
        "alpha = 0.006",
        "log e = 12.35, halts from 5.12 = -log alpha",
        "exposed 25 devices had started",
        "spared 173 devices",
        "position 4711 of the ledger",
        "0 offers, 0 starts",
        "ota.device-events.v1/3 offset 99",
    ):
        assert said in text
    assert text.index("sensor-a/C 8 8 22.50") < text.index("sensor-a/A 17 1 -0.50")
    assert "approve cmp_1" in ran.stderr


def test_a_halt_by_a_person_shows_what_there_is(ota, api):
    empty = dict.fromkeys(("rule", "scope", "n", "f", "bound", "log_e", "p0", "alpha", "failed_at", "fact", "phase"))
    api.on("GET", "/v1/campaigns/cmp_1", campaign("halted", halt={**HALT, **empty, "by": "ann", "strata": []}))
    ran = ota("campaign", "show", "cmp_1")
    assert ran.exit_code == 0
    assert "Halted before its first phase" in ran.stdout
    assert "alpha" not in ran.stdout


def test_a_halt_that_is_over_is_history(ota, api):
    api.on("GET", "/v1/campaigns/cmp_1", campaign("running", halt=HALT))
    assert "Was halted in phase 0 (canary)" in ota("campaign", "show", "cmp_1").stdout


def test_what_is_in_a_name_is_text_and_never_markup(ota, api):
    api.on("GET", "/v1/campaigns/cmp_1", campaign(name="[red]x[/red] :smile: [/oops]"))
    assert "[red]x[/red] :smile: [/oops]" in ota("campaign", "show", "cmp_1").stdout


def test_list_and_events_are_tables_for_people_and_items_for_programs(ota, api):
    event = {
        "position": 12,
        "stream": "campaign/cmp_1",
        "version": 1,
        "event_id": "e",
        "type": "CampaignHalted",
        "data": {},
        "meta": {"actor": "ann", "reason": "smoke"},
        "recorded_at": CAMPAIGN["created_at"],
    }
    api.on("GET", "/v1/campaigns", {"items": [campaign()], "next": None})
    api.on("GET", "/v1/campaigns/cmp_1/events", {"items": [event], "next": None})
    assert "cmp_1     spring  running  1/2" in ota("campaign", "list").stdout
    assert ota("campaign", "list", "--json").json == {"items": [campaign()]}
    assert "CampaignHalted  ann  smoke" in ota("campaign", "events", "cmp_1").stdout
    assert ota("campaign", "events", "cmp_1", "--json").json == {"items": [event]}


def test_preview_says_what_can_fail_at_most_and_when_the_rules_halt(ota, api):
    found = {
        "digest": "sha256:abc",
        "frozen": False,
        "devices": 200,
        "holdback": 2,
        "strata": {"sensor-a/A": 200},
        "phases": [
            {
                "name": "canary",
                "size": 60,
                "reached": 60,
                "strata": {"sensor-a/A": 60},
                "in_flight_start": 60,
                "in_flight": 60,
                "jitter": None,
                "failures_at_most": 31,
                "soak_devices": 60,
                "soak_devices_asked": 100,
                "external": ["lab-tests"],
            }
        ],
        "rules": [
            {
                "name": "fleet",
                "scope": "campaign",
                "test": "e-process",
                "halts": "campaign",
                "p0": 0.02,
                "alpha": 0.006,
                "processes": 1,
                "min_failures": 3,
                "false_alarms": {},
                "bounds": {"10": 4, "100": 9},
            },
            {
                "name": "old",
                "scope": "campaign",
                "test": "threshold",
                "halts": "campaign",
                "p0": 0.05,
                "alpha": None,
                "processes": 1,
                "min_failures": 5,
                "false_alarms": {"0.01": 0.004, "0.02": 0.065},
                "bounds": {"100": 5},
            },
        ],
        "retries": [{"outcome": "transport", "max_attempts": 3, "pauses": [600_000, 1_200_000]}],
        "breaker": {
            "share": 0.3,
            "minimum": 20,
            "window": 600_000,
            "cool_down": 300_000,
            "probes": 10,
            "reopens_at": 3,
            "stale": 300_000,
        },
        "budget": [
            {
                "label": "attribute.site",
                "values": 9,
                "other": 1,
                "largest": [{"value": "berlin", "devices": 60, "at_once": 6}],
                "smallest": [{"value": "lyon", "devices": 2, "at_once": 1}],
            }
        ],
        "health": [
            {
                "name": "crashes",
                "scope": "campaign",
                "test": "exposure",
                "signal": "crash",
                "alpha": 0.002,
                "processes": 1,
                "min_events": 3,
                "per_hour": 0.01,
                "span": None,
                "bounds": {"10": 5, "1000": 25},
            },
            {
                "name": "against-holdback",
                "scope": "campaign",
                "test": "canary-vs-holdback",
                "signal": "crash",
                "alpha": 0.002,
                "processes": 1,
                "min_events": 0,
                "per_hour": None,
                "span": 900_000,
                "bounds": {"0.9": 73},
            },
        ],
        "remediation": {"kind": "none", "release": None, "updated_by": None, "previously": None},
        "problems": [{"pointer": "/phases/1", "code": "plan.phase.size", "detail": "Adds no device."}],
        "revision": None,
        "withheld": {"opted_out": 3},
        "untried": [{"stratum": "sensor-a/B", "devices": 7, "first_phase": "rest"}],
        "unjudged": [{"rule": "revision", "stratum": "sensor-a/D", "devices": 2}],
        "conflicts": [
            {
                "campaign_id": "cmp_9",
                "name": "other",
                "state": "running",
                "in_flight": 4,
                "waiting": 8,
                "samples": ["dev-4"],
            }
        ],
        "not_applicable": [
            {"reason": "hardware_model", "detail": "m9", "devices": 3, "enrolled": False, "samples": ["dev-9"]},
            {"reason": "never_seen", "detail": None, "devices": 5, "enrolled": True, "samples": ["dev-8", "dev-7"]},
        ],
    }
    api.on("GET", "/v1/campaigns/cmp_1/preview", found)
    ran = ota("campaign", "preview", "cmp_1")
    assert "4/10, 9/100" in ran.stdout
    assert "30% of at least 20 outcomes within 10m" in squeezed(ran.stdout)
    assert "5/10, 25/1000" in ran.stdout
    assert "0.01 per hour" in ran.stdout
    assert "73/0.9" in ran.stdout
    assert "/phases/1" in ran.stdout
    assert "0.004 at 1.0%, 0.065 at 2.0%" in " ".join(ran.stdout.split())
    assert ["transport", "3", "10m,", "20m"] in [line.split() for line in ran.stdout.splitlines()]
    assert ["canary", "60", "60", "60", "31"] in [line.split() for line in ran.stdout.splitlines()]
    said = {" ".join(line.split()) for line in ran.stdout.splitlines()}
    assert {
        "sensor-a/A 200 60",
        "sensor-a/B 7 rest",
        "sensor-a/D 2 revision",
        "other cmp_9 running 4 8 dev-4",
        "the release has nothing for the model m9 3 left out dev-9",
        "never seen 5 enrolled dev-8, dev-7",
    } <= said
    assert ota("campaign", "preview", "cmp_1", "--json").json == found


def test_show_says_how_the_rules_on_health_stand_and_what_halted(ota, api):
    rule = {
        "rule": "crashes",
        "test": "exposure",
        "signal": "crash",
        "scope": "campaign",
        "events": 20,
        "exposure_ms": 396 * 3_600_000,
        "held_events": None,
        "held_exposure_ms": None,
        "expected": 3.96,
        "log_e": 14.52,
        "limit": 6.21,
        "alpha": 0.002,
        "until": "2026-11-30T00:00:00.000Z",
    }
    versus = rule | {"rule": "against-holdback", "held_events": 2, "held_exposure_ms": 3_600_000}
    found = campaign("halted", health=[rule, versus])
    found["halt"] |= {"signal": "crash", "events": 20, "exposure_ms": 396 * 3_600_000, "expected": 3.96, "n": None}
    found["halt"] |= {"bound": None, "p0": None, "strata": [], "fact": None, "log_e": 14.52, "alpha": 0.002}
    api.on("GET", "/v1/campaigns/cmp_1", found)
    shown = " ".join(ota("campaign", "show", "cmp_1").stdout.split())
    assert "crashes campaign crash 20 4.0 396.0" in shown
    assert "2 in 1.0 device hours 14.52 6.21" in shown
    assert "20 times 'crash' in 396.0 device hours; 4.0 would be acceptable" in shown


def test_show_names_the_strata_that_were_halted_alone(ota, api):
    halted = {
        "stratum": "attribute.hw_revision=C",
        "reason": "why",
        "at": "2026-11-21T09:00:00Z",
        "phase": 0,
        "position": 7,
        "rule": "revision",
        "n": 20,
        "f": 6,
        "bound": 5,
        "log_e": 5.0,
        "p0": 0.02,
        "alpha": 0.01,
        "failed_at": None,
        "fact": None,
    }
    api.on("GET", "/v1/campaigns/cmp_1", campaign(halted_strata=[halted]))
    ran = ota("campaign", "show", "cmp_1")
    assert "attribute.hw_revision=C" in ran.stdout


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            {"stage": "open", "cause": "failures"},
            "open since 2026-11-21T09:00:00Z: 9 of 25 did not arrive (2 silence, 7 transport)",
        ),
        ({"stage": "open", "cause": "stale"}, "nothing heard from devices; offers are held, the release is not blamed"),
        ({"stage": "probing", "cause": "failures"}, "a few offers go out"),
        ({"stage": "closed", "cause": "delivered"}, "closed since 2026-11-21T09:00:00Z (delivered), opened 2 times"),
    ],
)
def test_show_and_watch_say_what_the_breaker_does_and_why(ota, api, found, said):
    breaker = {
        "openings": 2,
        "setbacks": 1,
        "changed_at": "2026-11-21T09:00:00Z",
        "until": "2026-11-21T09:05:00Z" if found["stage"] == "open" else None,
        "outcomes": 25,
        "failures": 9,
        "classes": {"transport": 7, "silence": 2},
        "share": 0.3,
        "minimum": 20,
    } | found
    api.on("GET", "/v1/campaigns/cmp_1", campaign(breaker=breaker), campaign(breaker=breaker), campaign("completed"))
    assert said in squeezed(ota("campaign", "show", "cmp_1").stdout)
    watched = squeezed(ota("campaign", "watch", "cmp_1").stderr)
    assert (said in watched) == (found["stage"] != "closed")


# ---- watch


@pytest.mark.parametrize(("state", "code"), [("completed", 0), ("halted", 5), ("aborted", 5)])
def test_watching_succeeds_only_for_a_completed_campaign(ota, api, state, code):
    api.on("GET", "/v1/campaigns/cmp_1", campaign(), campaign(), campaign(state))
    ran = ota("campaign", "watch", "cmp_1")
    assert ran.exit_code == code
    assert len(api.requests) == 3
    assert f"state {state}" in squeezed(ran.stdout)
    assert "cmp_1 running: phase 0 (canary), 12 confirmed, 5 offered, 3 reverted, 10 trial" in ran.stderr


def test_a_pause_is_waited_out(ota, api):
    api.on("GET", "/v1/campaigns/cmp_1", campaign("paused"), campaign("completed"))
    assert ota("campaign", "watch", "cmp_1").exit_code == 0


def test_watching_ends_with_7_when_the_time_is_up(ota, api, pauses):
    api.on("GET", "/v1/campaigns/cmp_1", campaign())
    ran = ota("campaign", "watch", "cmp_1", "--timeout", "0s")
    assert ran.exit_code == 7
    assert "still running" in ran.stderr
    assert ran.stdout
    assert pauses == []


def test_watching_goes_on_over_a_restart_of_the_api(ota, api):
    down = [httpx.ConnectError("refused")] * 5
    api.on("GET", "/v1/campaigns/cmp_1", campaign(), *down, problem(503, "unavailable"), campaign("completed"))
    assert ota("campaign", "watch", "cmp_1").exit_code == 0


def test_a_campaign_that_is_not_there_is_not_waited_for(ota, api, pauses):
    api.on("GET", "/v1/campaigns/cmp_1", problem(404, "campaign.not_found"))
    assert ota("campaign", "watch", "cmp_1").exit_code == 4
    assert pauses == []


def test_watching_in_json_ends_with_the_apis_answer(ota, api):
    api.on("GET", "/v1/campaigns/cmp_1", campaign(), campaign("completed"))
    assert ota("campaign", "watch", "cmp_1", "--json", "--quiet").json == campaign("completed")


def test_quiet_leaves_data_and_errors_only(ota, api):
    api.on("GET", "/v1/campaigns/cmp_1", campaign("halted"))
    assert ota("campaign", "show", "cmp_1", "--quiet").stderr == ""
    assert ota("--quiet", "campaign", "watch", "cmp_1").stderr == ""
    assert "error:" in ota("--quiet", "campaign", "show", "other").stderr
