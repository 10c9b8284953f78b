from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.dossier import Dossier, dossier_digest, freeze, validate_against
from orchestrator.domain.plan import parse_plan
from orchestrator.domain.plan_fields import PlanError

untimed = settings(deadline=None)  # a busy machine is no defect

SMALL = {
    "release": "rel_1",
    "cohort": {"holdback_percent": 5, "salt": "s"},
    "phases": [
        {"name": "canary", "percent": 10, "soak": "1m", "promote": {"p1": 0.1}},
        {"name": "all", "percent": 100, "soak": "1m"},
    ],
    "confirm_deadline": "10m",
    "offer_ttl": "1h",
    "halt": [{"name": "failures", "scope": "stratum", "p0": 0.02, "alpha": 0.01}],
    "max_in_flight": {"initial": 10, "maximum": 100},
}
rubbish = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
fleets = st.dictionaries(st.text("abc", min_size=1, max_size=2), st.integers(1, 800), min_size=1, max_size=5)


@untimed
@given(field=st.sampled_from([*SMALL, "retry", "approvals", "advisory", "other"]), value=rubbish)
def test_any_data_is_a_plan_or_refused_with_pointers_and_codes(field, value):
    plan, problems = None, []
    try:
        plan = parse_plan(SMALL | {field: value})
    except PlanError as error:
        problems = error.errors
    assert (plan is None) == bool(problems)
    for problem in problems:
        assert problem["code"].startswith("plan.")
        assert problem["pointer"].startswith("/")
        assert problem["detail"]
    if plan is not None:
        assert parse_plan(json.loads(json.dumps(plan.canonical()))) == plan


@untimed
@given(strata=fleets)
def test_a_dossier_accounts_for_every_device_and_keeps_its_digest(strata):
    dossier = freeze(parse_plan(SMALL), strata_sizes=strata, release_digest="sha256:1")
    for key, size in strata.items():
        assert dossier.holdback[key] + sum(share.strata[key] for share in dossier.phases) == size
    assert dossier.phases[-1].reached + sum(dossier.holdback.values()) == sum(strata.values())
    stored = Dossier.model_validate(json.loads(json.dumps(dossier.canonical())))
    assert dossier_digest(stored) == dossier_digest(dossier)


@untimed
@given(strata=fleets)
def test_a_plan_without_problems_has_enough_devices_in_every_tested_phase(strata):
    plan = parse_plan(SMALL)
    if validate_against(plan, strata_sizes=strata, release_models=[]):
        return
    dossier = freeze(plan, strata_sizes=strata, release_digest="sha256:1")
    assert all(share.size >= 1 for share in dossier.phases)
    assert dossier.phases[0].size >= 36
