"""Whom another campaign updated is a part of every cohort's condition: of the count before approval, and of the enrolment."""

from __future__ import annotations

from orchestrator.adapters.sql.fleet import selector
from orchestrator.domain.plan import parse_plan
from tests.support.world import plan


def test_the_condition_of_a_cohort_names_the_campaign_the_release_before_and_the_selector():
    cohort = {"updated_by": "cmp_7", "previously": "rel_0", "selector": "device_id==dev-*"}
    condition, parameters = selector(parse_plan(plan(cohort=cohort)), 4)
    assert parameters[:2] == ["cmp_7", "rel_0"]
    assert "p.campaign_id = $4::text" in condition
    assert "= $5::text" in condition
    assert "$6" in condition


def test_a_cohort_that_takes_nobody_back_asks_nothing_of_assignments():
    assert selector(parse_plan(plan()), 4) == ("true", [])
