"""One key asks too often; nobody else notices, and it can still halt."""

from __future__ import annotations

import asyncio


async def test_a_key_that_asks_too_often_is_told_when_to_come_back(open_api, settings):
    async with open_api(settings.model_copy(update={"api_key_burst": 5, "api_key_rate": 0.001})) as api:
        answers = [await api("GET", "/v1/campaigns") for _ in range(7)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
        refused = answers[-1]
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["code"] == "limit.api_key"
        assert int(refused.headers["retry-after"]) == 1_000
        assert refused.headers["ratelimit"] == '"key";r=0;t=1000'
        assert refused.headers["ratelimit-policy"] == '"key";q=5;w=5000'
        others = await asyncio.gather(*(api("GET", "/v1/campaigns", by="bob") for _ in range(5)))
        assert {answer.status_code for answer in others} == {200}
        assert (await api("GET", "/healthz", key="")).status_code == 200


async def test_an_emergency_stop_is_never_refused_for_asking_too_often(api, open_api, settings):
    campaign_id = await api.running(await api.ready())
    async with open_api(settings.model_copy(update={"api_key_burst": 1, "api_key_rate": 0.001})) as limited:
        assert (await limited("GET", "/v1/campaigns")).status_code == 200
        assert (await limited("GET", "/v1/campaigns")).status_code == 429
        assert (await limited.act(campaign_id, "pause", json={"reason": "r"})).status_code == 429
        halted = await limited.act(campaign_id, "halt", json={"reason": "smoke"})
        assert halted.status_code == 200, halted.text
        assert halted.json()["state"] == "halted"
