from __future__ import annotations

import httpx
import msgspec
import pytest

from tests.unit.cli.conftest import problem


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, 2), (401, 3), (403, 3), (404, 4), (409, 6), (412, 6), (413, 2), (422, 2), (428, 6), (500, 1)],
)
def test_the_exit_code_follows_the_status_of_the_refusal(ota, api, status, code):
    api.on("GET", "/v1/campaigns/cmp_1", problem(status, "some.code"))
    assert ota("campaign", "show", "cmp_1").exit_code == code
    assert len(api.requests) == 1


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_service_that_stays_away_ends_with_8(ota, api, status):
    api.on("GET", "/v1/campaigns/cmp_1", problem(status, "unavailable"))
    assert ota("campaign", "show", "cmp_1").exit_code == 8


def test_an_error_says_what_why_remedy_code_and_trace(ota, api):
    items = [{"pointer": "/phases/0", "code": "plan.phase.size", "detail": "Too small."}]
    items.append({"parameter": "limit", "code": "field.value", "detail": "Too large."})
    api.on("GET", "/v1/campaigns/cmp_1", problem(422, "plan.invalid", errors=items))
    ran = ota("campaign", "show", "cmp_1")
    assert ran.stdout == ""
    assert ran.stderr.splitlines() == [
        "error: What is wrong.",
        "  /phases/0: Too small. (plan.phase.size)",
        "  limit: Too large. (field.value)",
        "remedy: Do this.",
        f"code: plan.invalid  trace: {'t' * 32}",
    ]


def test_with_json_the_error_is_json_on_standard_error(ota, api):
    api.on("GET", "/v1/campaigns/cmp_1", problem(404, "campaign.not_found"))
    ran = ota("campaign", "show", "cmp_1", "--json")
    assert ran.stdout == ""
    assert msgspec.json.decode(ran.stderr) == {
        "code": "campaign.not_found",
        "status": 404,
        "detail": "What is wrong.",
        "remedy": "Do this.",
        "trace_id": "t" * 32,
        "errors": [],
    }


def test_an_answer_that_is_not_the_apis_is_told_apart(ota, api):
    api.on("GET", "/v1/campaigns/cmp_1", httpx.Response(404, text="<html>nginx</html>"))
    ran = ota("campaign", "show", "cmp_1")
    assert ran.exit_code == 4
    assert "api.unexpected_answer" in ran.stderr


def test_an_api_that_does_not_answer_ends_with_8(ota, api):
    api.on("GET", "/v1/campaigns/cmp_1", httpx.ConnectError("connection refused"))
    ran = ota("campaign", "show", "cmp_1")
    assert ran.exit_code == 8
    assert "api.unreachable" in ran.stderr
    assert "OTA_API_URL" in ran.stderr


def test_without_a_key_nothing_is_asked(ota, api, monkeypatch):
    monkeypatch.delenv("OTA_API_KEY")
    ran = ota("campaign", "show", "cmp_1")
    assert ran.exit_code == 3
    assert "OTA_API_KEY" in ran.stderr
    assert not api.requests


def test_a_defect_is_reported_as_one(ota, api):
    api.on("GET", "/v1/campaigns/cmp_1", {"campaign_id": "cmp_1"})
    ran = ota("campaign", "show", "cmp_1")
    assert ran.exit_code == 1
    assert "KeyError" in ran.stderr
    assert "defect" in ran.stderr


def test_an_interrupt_ends_with_130(ota, api):
    def interrupt(_):
        raise KeyboardInterrupt

    api.on("GET", "/v1/campaigns/cmp_1", interrupt)
    assert ota("campaign", "show", "cmp_1").exit_code == 130
