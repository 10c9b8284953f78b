from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.blast import blast_bound, phase_bounds
from orchestrator.domain.boundary import crosses, halt_horizons
from orchestrator.domain.dossier import Dossier, freeze
from orchestrator.domain.pacing import in_flight_cap
from orchestrator.domain.plan import parse_plan
from orchestrator.domain.revision import UnchangedError, revised

untimed = settings(deadline=None)  # a busy machine is no defect

FLEET = 400


@lru_cache
def horizons(minimum: int) -> tuple[int, ...]:
    return halt_horizons(0.02, 0.01, minimum, FLEET)


@untimed
@given(
    minimum=st.integers(1, 12),
    cap=st.integers(1, 80),
    percent=st.integers(0, 100),
    failures_last=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_no_order_or_delay_of_reports_exceeds_the_bound(minimum, cap, percent, failures_last, seed):
    """Offers go out whenever there is room; reports come in any order; offers stop at the report that crosses."""
    random = Random(seed)
    in_flight: list[bool] = []
    started = known = 0
    while not crosses(horizons(minimum), started, known):
        room = min(cap - len(in_flight), FLEET - started)
        offered = random.randint(0, room)
        in_flight += [random.randrange(100) < percent for _ in range(offered)]
        started += offered
        if not in_flight and started == FLEET:
            break
        if in_flight and (room == 0 or random.random() < 0.7):
            # The worst case for the gate: good devices confirm and make room, bad ones keep silent for as long as they can.
            index = in_flight.index(False) if failures_last and False in in_flight else random.randrange(len(in_flight))
            known += in_flight.pop(index)
    assert known + sum(in_flight) <= blast_bound(horizons(minimum), minimum, started, cap)


@untimed
@given(minimum=st.integers(1, 12), n=st.integers(1, FLEET - 1), cap=st.integers(1, 80))
def test_the_bound_grows_with_devices_and_with_the_cap(minimum, n, cap):
    bound = blast_bound(horizons(minimum), minimum, n, cap)
    assert bound <= blast_bound(horizons(minimum), minimum, n + 1, cap)
    assert bound <= blast_bound(horizons(minimum), minimum, n, cap + 1)


PACES = st.fixed_dictionaries(
    {
        "initial": st.integers(1, 30),
        "room": st.integers(0, 80),
        "add": st.integers(1, 20),
        "per_confirmed": st.integers(1, 20),
        "phase_caps": st.tuples(*[st.none() | st.integers(1, 60)] * 3),
    }
)


def paced(pace: dict[str, Any]) -> dict[str, Any]:
    """Changes of a plan: a cap that grows inside its phases."""
    cap = {"initial": pace["initial"], "maximum": pace["initial"] + pace["room"]}
    growth = {name: pace[name] for name in ("add", "per_confirmed")}
    phases = {f"p{index}": {"max_in_flight": own} for index, own in enumerate(pace["phase_caps"])}
    return {"max_in_flight": cap | growth, "phases": phases}


def dossier_of(pace: dict[str, Any]) -> Dossier:
    changes = paced(pace)
    phases = [
        {"name": name, "percent": percent, "soak": 0} | changes["phases"][name]
        for name, percent in (("p0", 10), ("p1", 40), ("p2", 100))
    ]
    plan = {
        "release": "rel_1",
        "phases": phases,
        "confirm_deadline": "20s",
        "offer_ttl": "60s",
        "halt": [{"name": "failures", "scope": "campaign", "p0": 0.02, "alpha": 0.01}],
        "max_in_flight": changes["max_in_flight"],
    }
    return freeze(parse_plan(plan), strata_sizes={"all": FLEET}, release_digest="sha256:r")


@settings(deadline=None, max_examples=150)
@given(
    pace=PACES,
    later=st.none() | PACES,
    percent=st.integers(0, 60),
    failures_last=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_the_printed_bound_holds_while_the_cap_grows_falls_and_is_revised(pace, later, percent, failures_last, seed):
    """What a phase confirms raises its cap; setbacks and a revision come at any time."""
    random = Random(seed)
    dossier = dossier_of(pace)
    (rule,) = dossier.rules
    revision_at = random.randrange(FLEET)
    in_flight: list[tuple[int, bool]] = []
    started = known = phase = setbacks = 0
    confirmed = [0, 0, 0]
    while not crosses(rule.horizons, started, known) or known < rule.min_failures:
        if later is not None and started >= revision_at:
            with suppress(UnchangedError):
                dossier = revised(dossier, paced(later))
            later = None
        if started == dossier.phases[phase].reached and phase < 2 and random.random() < 0.3:
            phase, setbacks = phase + 1, 0
        setbacks += random.random() < 0.02
        plan = dossier.plan
        cap = in_flight_cap(
            plan.max_in_flight.initial,
            plan.max_in_flight.maximum,
            phase,
            plan.phases[phase].max_in_flight,
            growth=plan.max_in_flight.growth(confirmed[phase]),
            setbacks=setbacks,
        )
        room = max(0, min(cap - len(in_flight), dossier.phases[phase].reached - started))
        offered = random.randint(0, room)
        in_flight += [(phase, random.randrange(100) < percent) for _ in range(offered)]
        started += offered
        bound = phase_bounds(dossier)[phase]
        assert cap <= bound.in_flight
        assert known + sum(bad for _, bad in in_flight) <= bound.failures
        if not in_flight and started == FLEET:
            break
        if in_flight and (room == 0 or random.random() < 0.7):
            good = [index for index, (_, bad) in enumerate(in_flight) if not bad]
            index = good[0] if failures_last and good else random.randrange(len(in_flight))
            of, bad = in_flight.pop(index)
            known += bad
            confirmed[of] += not bad
    assert known + sum(bad for _, bad in in_flight) <= phase_bounds(dossier)[phase].failures


@settings(deadline=None, max_examples=100)
@given(paces=st.lists(PACES, min_size=2, max_size=4))
def test_a_revision_reckons_with_what_versions_before_it_left_in_flight(paces):
    dossier = dossier_of(paces[0])
    for pace in paces[1:]:
        before = [bound.failures for bound in phase_bounds(dossier)]
        try:
            dossier = revised(dossier, paced(pace))
        except UnchangedError:
            continue
        assert all(new.failures >= old for new, old in zip(phase_bounds(dossier), before, strict=True))
