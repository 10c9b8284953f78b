from __future__ import annotations

import msgspec
import pytest

from orchestrator.cli import cmd_will
from tests.unit.cli.conftest import problem
from tests.unit.cli.test_device import WILL

PATH = "/v1/devices/d1/will"


@pytest.fixture
def held(api):
    api.on("GET", PATH, WILL)
    api.on("PUT", PATH, WILL)
    return api


def sent(api):
    request = api.requests[-1]
    assert (request.method, request.headers["If-Match"]) == ("PUT", '"3"')
    return msgspec.json.decode(request.content)


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        (("opt-out",), {"opted_out": True}),
        (("opt-in",), {"opted_out": False}),
        (("postpone", "--until", "2026-12-24T00:00:00Z"), {"postponed_until": "2026-12-24T00:00:00Z"}),
        (("postpone", "--end"), {"postponed_until": None}),
        (("consent", "--release", "rel_1", "--withdraw"), {"consents": []}),
        (
            ("consent", "--campaign", "cmp_1", "--until", "2026-12-24T00:00:00Z"),
            {
                "consents": [
                    *WILL["consents"],
                    {"release_id": None, "campaign_id": "cmp_1", "until": "2026-12-24T00:00:00Z"},
                ]
            },
        ),
    ],
)
def test_one_thing_is_changed_and_the_rest_of_the_will_is_kept(ota, held, words, changed):
    ran = ota("device", words[0], "d1", "-r", "asked for", "--on-behalf-of", "customer 7", *words[1:])
    assert ran.exit_code == 0, ran.output
    kept = {name: WILL[name] for name in ("opted_out", "postponed_until", "consents")}
    assert sent(held) == {**kept, **changed, "reason": "asked for", "on_behalf_of": "customer 7"}


def test_a_postponement_may_be_counted_from_now(ota, held):
    assert ota("device", "postpone", "d1", "-r", "r", "--for", "3d").exit_code == 0
    assert sent(held)["postponed_until"] > WILL["stated_at"][:10]


@pytest.mark.parametrize("words", [("postpone",), ("postpone", "--end", "--for", "3d"), ("consent",)])
def test_exactly_one_thing_must_be_said(ota, held, words):
    assert ota("device", words[0], "d1", "-r", "r", *words[1:]).exit_code != 0
    assert held.requests == []


def test_the_will_is_shown(ota, held):
    text = ota("device", "will", "d1").stdout
    assert "rel_1" in text
    assert "customer 7" in text


def test_a_change_that_lost_a_race_is_made_anew_but_not_for_ever(ota, api):
    api.on("GET", PATH, WILL)
    api.on("PUT", PATH, problem(412, "precondition.failed"))
    assert ota("device", "opt-out", "d1", "-r", "r").exit_code != 0
    assert len([each for each in api.requests if each.method == "PUT"]) == cmd_will.ATTEMPTS
