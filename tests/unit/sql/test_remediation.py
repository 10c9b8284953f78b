"""Whom another campaign updated, as a condition on devices."""

from __future__ import annotations

from orchestrator.adapters.sql.remediation import updated
from orchestrator.domain.plan import CohortSpec


def test_the_condition_of_a_cohort_names_the_campaign_and_the_release_before():
    condition, parameters = updated(CohortSpec(updated_by="cmp_7", previously="rel_0"), 4)
    assert parameters == ["cmp_7", "rel_0"]
    assert "p.campaign_id = $4::text" in condition
    assert "= $5::text" in condition
    assert "$6" not in condition


def test_a_cohort_that_takes_nobody_back_asks_nothing_of_assignments():
    assert updated(CohortSpec(), 4) == ("true", [])
