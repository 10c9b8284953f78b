"""The short version, which always runs: one campaign on the whole system, with deaths where they hurt most."""

from __future__ import annotations

import pytest

from orchestrator.demo.scenario import Play

PLACES = (
    "slice.before_commit:1:1",
    "projector.before_commit:0.2:1",
    "start.after_commit:0.3:1",
    "gateway.after_ack:0.02:1",
    "api.before_answer:0.4:1",
    "relay.before_bookmark:0.5:1",
)


@pytest.mark.timeout(240)
async def test_a_campaign_over_kills_loses_nothing_and_does_nothing_twice(make_harness):
    harness = make_harness(devices=120, failpoints=",".join(PLACES))
    async with harness.up():
        state = await harness.ended(await harness.launch(Play.GOOD))
        verdict = await harness.judge()
    assert verdict.clean, f"seed {harness.seed}: {verdict}"
    assert state == "completed"
    assert harness.deaths.total() >= 3
