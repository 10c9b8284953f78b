"""What the projector reports of a batch becomes series."""

from __future__ import annotations

import pytest

from orchestrator.adapters.sql.facts import Applied
from orchestrator.telemetry.observers import projector_observer
from schemas import device_events as d
from schemas.campaign_events import CampaignHalted


@pytest.fixture
def observe(telemetry):
    return projector_observer(telemetry.instruments, "t", "g")


def test_facts_that_stated_nothing_new_are_counted_by_type(observe, series):
    observe(Applied(facts=5, duplicates={d.CONFIRMED: 2, d.TRIAL: 1}), 0.1)
    observe(Applied(facts=5, duplicates={d.CONFIRMED: 1}), 0.1)
    assert series("ota_events_duplicates_total") == {(("type", d.CONFIRMED),): 3, (("type", d.TRIAL),): 1}


def test_evaluations_are_counted_by_their_verdict(observe, series):
    halt = CampaignHalted(by="gate", reason="r", phase=0, gate_epoch=1, ledger_position=1)
    observe(Applied(evaluations=3, halts=[halt]), 0.1)
    observe(Applied(evaluations=0), 0.1)
    assert series("ota_campaign_gate_evaluations_total") == {
        (("reason", "evidence"), ("verdict", "halt")): 1,
        (("reason", "evidence"), ("verdict", "hold")): 2,
    }
