"""Notifications: which events make one, what they say, and how often they are tried."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.notification import ATTEMPTS_S, KINDS, content, kind_of, pause_ms
from schemas import campaign_events as e
from schemas import export, fleet_events, log_events, registry_events

GOLDEN = Path(export.__file__).parent / "golden"
TYPES = {
    **e.EVENT_TYPES,
    **registry_events.EVENT_TYPES,
    **fleet_events.EVENT_TYPES,
    **log_events.EVENT_TYPES,
}


def sample(name: str) -> msgspec.Struct:
    return msgspec.json.decode((GOLDEN / f"{name}.v1.json").read_bytes(), type=TYPES[name])


TOLD = {
    "CampaignSubmitted": "approval.wanted",
    "CampaignHalted": "campaign.halted",
    "StratumHalted": "stratum.halted",
    "HoldOutlasted": "hold.outlasted",
    "CampaignCompleted": "campaign.completed",
    "RemediationDrafted": "remediation.drafted",
    "FleetStopped": "fleet.stopped",
    "FleetReleased": "fleet.released",
    "LogLossAccepted": "log_loss.accepted",
    "WebhookTested": "webhook.test",
}
LATER = ("BreakerOpened", "BreakerClosed")


def test_these_events_are_told_and_no_others():
    found = {name: kind_of(name, sample(name)) for name in TYPES if name not in LATER}
    assert {name: kind for name, kind in found.items() if kind} == TOLD
    assert [kind_of(name, sample("CampaignPaused")) for name in LATER] == ["breaker.opened", "breaker.closed"]
    assert set(KINDS) == {*TOLD.values(), "phase.awaiting_verdict", "breaker.opened", "breaker.closed"} - {
        "webhook.test"
    }


def test_a_verdict_is_wanted_only_where_somebody_is_asked():
    soak = e.SoakStarted(phase=0, at=1, until=2, gate_epoch=1)
    assert kind_of("SoakStarted", soak) is None
    asked = msgspec.structs.replace(soak, external=["lab"])
    assert kind_of("SoakStarted", asked) == "phase.awaiting_verdict"
    assert content(asked, {"position": 7, "name": "spring"}) == {
        "position": 7,
        "name": "spring",
        "phase": 0,
        "at": 1,
        "until": 2,
        "gate_epoch": 1,
        "external": ["lab"],
    }


@pytest.mark.parametrize("name", TOLD)
def test_a_notification_is_small_and_holds_no_plan_and_no_dossier(name):
    said = content(sample(name), {"position": 7})
    assert not {"plan", "dossier", "fact"} & said.keys()
    assert len(json.dumps(said)) < 4_000


def test_long_lists_are_cut():
    culprit = e.StratumCount(stratum="s", started=1, failures=1, log_e=1.0)
    halted = msgspec.structs.replace(sample("CampaignHalted"), strata=[culprit] * 500)
    assert len(content(halted, {})["strata"]) == 20


@given(attempts=st.integers(1, len(ATTEMPTS_S)), dice=st.floats(0, 1, exclude_max=True))
def test_pauses_grow_and_vary_by_a_fifth(attempts, dice):
    pause = pause_ms(attempts, dice)
    assert pause is not None
    assert 0.8 <= pause / (1_000 * ATTEMPTS_S[attempts - 1]) <= 1.2


def test_it_is_tried_for_three_days_and_then_no_more():
    pauses = [pause_ms(attempts, 0.5) for attempts in range(1, 11)]
    assert pauses[-1] is None
    assert 3 * 86_400_000 <= sum(pause or 0 for pause in pauses) <= 3.5 * 86_400_000
