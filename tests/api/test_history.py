"""The past through the API."""

from __future__ import annotations

import pytest

from tests.api.test_bad_input import problem

READ = ("campaign:read",)
RULES = {"halt": [{"name": "two", "test": "threshold", "scope": "campaign", "share": 0.05, "after": 40}]}


async def test_whoever_may_read_campaigns_may_ask_what_a_policy_would_have_done(api):
    campaign_id = await api.running(await api.ready())
    answer = await api.act(campaign_id, "backtest", by="eve", scopes=READ, json={"policy": RULES})
    found = answer.json()
    assert answer.status_code == 200
    assert (found["own_rules"], found["halt"], found["spared"]) == (False, None, 0)
    assert found["rules"] == [
        {
            "name": "two",
            "test": "threshold",
            "scope": "campaign",
            "halts": "campaign",
            "p0": 0.05,
            "alpha": None,
            "min_failures": 2,
        }
    ]
    assert found["actual"] == {"state": "running", "ended_at": None, "halts": [], "exposed": 0, "failures": 0}
    assert found["basis"]["events"] > 0
    own = (await api.act(campaign_id, "backtest", json={})).json()
    assert (own["own_rules"], own["false_halt_at_most"]) == (True, 0.01)
    refused = await api.act(campaign_id, "backtest", by="dan", scopes=("device:read",), json={"policy": RULES})
    problem(refused, 403, "auth.scope.missing")


@pytest.mark.parametrize(
    ("body", "code", "pointer"),
    [
        ({"policy": {"halt": []}}, "plan.field.value", "/halt"),
        ({"policy": {"halt": [{"name": "x", "scope": "campaign"}]}}, "plan.field.missing", "/halt/0/p0"),
        ({"policy": {"halt": [*RULES["halt"], *RULES["halt"]]}}, "plan.name.duplicate", "/halt"),
        ({"policy": RULES, "from": 1}, "request.invalid", None),
    ],
)
async def test_a_wrong_policy_is_refused_with_every_place(api, body, code, pointer):
    campaign_id = await api.running(await api.ready())
    found = problem(await api.act(campaign_id, "backtest", json=body), 422, code)
    assert pointer is None or pointer in {error["pointer"] for error in found["errors"]}


async def test_rules_that_cannot_be_replayed_and_campaigns_without_a_past_are_refused(api):
    release_id = await api.ready()
    campaign_id = await api.running(release_id)
    body = {"policy": {"halt": [{"name": "slow", "test": "canary-vs-holdback"}]}}
    problem(await api.act(campaign_id, "backtest", json=body), 422, "backtest.rule.unsupported")
    approved = await api.approved(release_id)
    problem(await api.act(approved, "backtest", json={}), 409, "backtest.not_launched")
    problem(await api.act("cmp_x", "backtest", json={}), 404, "campaign.not_found")
