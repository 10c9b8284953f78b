"""Webhooks through the API: added, listed, tried out, removed; and answers that are signed instead of authenticated."""

from __future__ import annotations

import json

import pytest

from orchestrator.domain.signature import sign
from tests.api.test_bad_input import problem
from tests.api.test_gates import LAB, gate, launched

URL = "https://hooks.example/ota"
ANSWERS = "/v1/webhook-answers"


async def added(api, *events, url=URL, **more):
    return await api.ok("POST", "/v1/webhooks", json={"url": url, "events": list(events)}, **more)


async def test_the_secret_is_shown_once_and_never_again(api):
    body, key = {"url": URL, "events": ["campaign.halted", "campaign.halted"]}, {"Idempotency-Key": "k"}
    made = await api.ok("POST", "/v1/webhooks", json=body, headers=key)
    assert (made["url"], made["events"], made["created_by"]) == (URL, ["campaign.halted"], "ann")
    secret = made["secret"]
    assert secret.startswith("whsec_")
    assert await api.ok("POST", "/v1/webhooks", json=body, headers=key) == made | {"secret": None}
    (listed,) = (await api.ok("GET", "/v1/webhooks"))["items"]
    assert listed == {name: value for name, value in made.items() if name != "secret"}
    for table in ("event_log", "idempotency", "webhook", "webhook_delivery"):
        assert not await api.value(f"SELECT count(*) FROM {table} t WHERE t::text LIKE $1", f"%{secret[6:-2]}%"), table


async def test_a_removed_webhook_is_gone_with_its_secret(api):
    made = await added(api, "campaign.halted")
    path = f"/v1/webhooks/{made['webhook_id']}"
    assert (await api("DELETE", path)).status_code == 204
    assert (await api.ok("GET", "/v1/webhooks"))["items"] == []
    assert await api.value("SELECT count(*) FROM webhook_secret") == 0
    problem(await api("DELETE", path), 404, "webhook.not_found")
    problem(await api("POST", f"{path}/test"), 404, "webhook.not_found")
    problem(await api("GET", f"{path}/deliveries"), 404, "webhook.not_found")


async def test_reading_and_writing_are_scopes_of_their_own(api):
    await added(api, "campaign.halted", by="ops", scopes=("webhook:write",))
    problem(await api("GET", "/v1/webhooks", by="ops", scopes=("webhook:write",)), 403, "auth.scope.missing")
    assert len((await api.ok("GET", "/v1/webhooks", by="eye", scopes=("webhook:read",)))["items"]) == 1


@pytest.mark.parametrize(
    ("url", "events", "code"),
    [
        ("ftp://hooks.example", ["campaign.halted"], "webhook.request"),
        ("https://", ["campaign.halted"], "webhook.request"),
        ("https://[::1", ["campaign.halted"], "webhook.request"),
        ("https://hooks.example:0/", ["campaign.halted"], "webhook.request"),
        ("https://hooks.example:99999/", ["campaign.halted"], "webhook.request"),
        ("https://user:word@hooks.example/", ["campaign.halted"], "webhook.request"),
        ("https://hooks.example/a b", ["campaign.halted"], "webhook.request"),
        (URL, [], "webhook.request"),
        (URL, ["campaign.exploded"], "webhook.request"),
        (URL, ["webhook.test"], "webhook.request"),
    ],
)
async def test_what_cannot_be_told_is_refused(api, url, events, code):
    problem(await api("POST", "/v1/webhooks", json={"url": url, "events": events}), 422, code)
    assert await api.value("SELECT count(*) FROM webhook") == 0


# ---- answers


class Bench:
    """A test bench that has a webhook's secret and no API key."""

    def __init__(self, api, made):
        self._api = api
        self._made = made

    async def say(self, said, *, message_id="run-7", secret=None, late=0, webhook=None, tamper=b""):
        body = json.dumps(said).encode()
        at = self._api.services.clock() // 1_000 - late
        headers = {
            "webhook-id": message_id,
            "webhook-timestamp": str(at),
            "webhook-signature": sign(secret or self._made["secret"], message_id, at, body),
            "content-type": "application/json",
        }
        query = {"webhook": webhook or self._made["webhook_id"]}
        return await self._api("POST", ANSWERS, key="", params=query, content=body + tamper, headers=headers)


def verdict(campaign_id, said="promote", **more):
    about = {"campaign_id": campaign_id, "phase": 0, "gate": "lab-tests", "gate_epoch": 1}
    return {**about, "verdict": said, "reason": "214 tests passed", "evidence_url": None, **more}


async def verdicts(api, campaign_id):
    events = (await api.ok("GET", f"/v1/campaigns/{campaign_id}/events"))["items"]
    return [event for event in events if event["type"] == "ExternalVerdictGiven"]


async def test_a_signed_answer_is_a_verdict_once_however_often_it_is_sent(api):
    campaign_id = await launched(api)
    made = await added(api, "phase.awaiting_verdict")
    bench = Bench(api, made)
    for _ in range(2):
        given = await bench.say(verdict(campaign_id))
        assert given.status_code == 200, given.text
        assert (given.json()["verdict"], given.json()["state"]) == ("promote", "running")
    (event,) = await verdicts(api, campaign_id)
    assert event["data"]["actor"] == event["meta"]["actor"] == f"webhook:{made['webhook_id']}"
    assert (await bench.say(verdict(campaign_id, "halt"), message_id="run-8")).json()["state"] == "halted"
    assert (await api.ok("GET", f"/v1/campaigns/{campaign_id}"))["halt"]["by"] == "lab-tests"


async def test_nothing_passes_that_is_not_signed_by_an_endpoint_that_is_asked(api):
    campaign_id = await launched(api)
    made = await added(api, "phase.awaiting_verdict")
    other = await added(api, "campaign.halted")
    bench = Bench(api, made)
    said = verdict(campaign_id)
    refused = [
        await bench.say(said, secret=other["secret"]),
        await bench.say(said, late=301),
        await bench.say(said, late=-301),
        await bench.say(said, tamper=b" "),
        await bench.say(said, webhook=other["webhook_id"]),
        await bench.say(said, webhook="wh_nobody"),
        await bench.say(said, message_id="x" * 201),
        await api("POST", ANSWERS, key="", params={"webhook": made["webhook_id"]}, json=said),
        await api("POST", ANSWERS, params={"webhook": made["webhook_id"]}, json=said),
    ]
    for answer in refused:
        problem(answer, 401, "webhook.signature")
    problem(await Bench(api, other).say(said), 403, "webhook.answer.not_asked")
    assert await verdicts(api, campaign_id) == []


async def test_an_answer_says_what_it_is_about_and_counts_for_the_epoch_that_was_asked(api):
    campaign_id = await launched(api)
    bench = Bench(api, await added(api, "phase.awaiting_verdict"))
    problem(await bench.say(verdict(campaign_id, gate_epoch=2)), 409, "campaign.external.epoch")
    problem(await bench.say(verdict(campaign_id, gate="other")), 404, "campaign.external.not_found")
    problem(await bench.say({"type": "phase.awaiting_verdict", "data": verdict(campaign_id)}), 422, "request.invalid")
    problem(await bench.say(verdict(campaign_id, reason="x" * 20_000)), 413, "request.too_large")
    assert await verdicts(api, campaign_id) == []
    await api.ok("POST", gate(campaign_id), json={"verdict": "hold", "reason": "by key"}, **LAB)
    assert (await bench.say(verdict(campaign_id))).status_code == 200
    (shown,) = (await api.ok("GET", f"/v1/campaigns/{campaign_id}"))["phases"][0]["external"]
    assert shown["verdict"] == "promote"
