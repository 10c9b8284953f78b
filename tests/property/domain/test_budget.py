from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.budget import BudgetLimits, BudgetRule, Candidate, Usage, admit, limits

untimed = settings(deadline=None)  # a busy machine is no defect

SITES, MODELS = ("berlin", "lyon", "-"), ("a", "b")
PLACES = [(0, site) for site in SITES] + [(1, model) for model in MODELS]
COUNTS = st.integers(0, 12)


@st.composite
def budgets(draw) -> list[BudgetLimits]:
    def one(label: str, values: tuple[str, ...]) -> BudgetLimits:
        known = draw(st.dictionaries(st.sampled_from(values), st.integers(1, 8)))
        devices = {value: 10 * limit for value, limit in known.items()}
        return BudgetLimits(label=label, devices=devices, limits=known, other=draw(st.integers(1, 3)))

    return [one("attribute.site", SITES), one("hardware_model", MODELS)]


@st.composite
def queues(draw) -> list[Candidate]:
    values = draw(st.lists(st.tuples(st.sampled_from(SITES), st.sampled_from(MODELS), st.booleans()), max_size=40))
    return [Candidate(number, (site, model), held) for number, (site, model, held) in enumerate(values)]


usages = st.dictionaries(st.sampled_from(PLACES), COUNTS).map(Usage)


def counted(candidates: list[Candidate], admitted: tuple[int, ...], usage: Usage) -> Counter[tuple[int, str]]:
    """In flight afterwards, counted anew."""
    found = Counter(usage.in_flight)
    for device, values, held in candidates:
        if device in admitted and not held:
            found.update(enumerate(values))
    return found


@untimed
@given(rules=budgets(), candidates=queues(), usage=usages, room=st.integers(0, 40))
def test_no_place_gets_above_its_limit_and_a_place_above_it_gets_nothing(rules, candidates, usage, room):
    found = admit(candidates, usage, rules, room)
    after = counted(candidates, found.admitted, usage)
    assert Counter(found.usage.in_flight) == after
    assert len(found.admitted) <= room
    for place in PLACES:
        limit = rules[place[0]].limit(place[1])
        assert after[place] <= max(limit, usage.in_flight.get(place, 0))
        if usage.in_flight.get(place, 0) > limit:
            assert not [c for c in candidates if c.device_no in found.admitted and c.values[place[0]] == place[1]]


@untimed
@given(rules=budgets(), candidates=queues(), usage=usages, room=st.integers(0, 40))
def test_the_order_is_kept_and_nobody_who_has_room_is_passed_over(rules, candidates, usage, room):
    found = admit(candidates, usage, rules, room)
    assert list(found.admitted) == sorted(found.admitted)
    looked_at = len(found.admitted) + len(found.refused)
    assert {*found.admitted, *found.refused} == set(range(looked_at))
    assert looked_at == len(candidates) or len(found.admitted) == room
    for device in found.refused:
        candidate = candidates[device]
        before = counted(candidates[:device], found.admitted, usage)
        places = list(enumerate(candidate.values))
        assert any(before[p] + (not candidate.held) > rules[p[0]].limit(p[1]) for p in places)


@untimed
@given(rules=budgets(), candidates=queues(), usage=usages, room=st.integers(0, 40), cut=st.integers(0, 40))
def test_a_queue_that_is_looked_at_in_two_parts_gives_the_same(rules, candidates, usage, room, cut):
    whole = admit(candidates, usage, rules, room)
    first = admit(candidates[:cut], usage, rules, room)
    second = admit(candidates[cut:], first.usage, rules, room - len(first.admitted))
    assert (*first.admitted, *second.admitted) == whole.admitted
    assert first.refused | second.refused == whole.refused
    assert second.usage == whole.usage


@untimed
@given(rules=budgets(), candidates=queues(), usage=usages)
def test_who_is_sent_away_is_told_a_place_that_is_full(rules, candidates, usage):
    found = admit(candidates, usage, rules, len(candidates))
    for device, (number, value) in found.refused.items():
        assert candidates[device].values[number] == value
        assert found.usage.in_flight.get((number, value), 0) >= rules[number].limit(value)


@untimed
@given(percent=st.floats(0.001, 100.0), min_count=st.integers(1, 50), devices=st.integers(1, 10_000))
def test_a_limit_is_the_share_rounded_down_and_at_least_the_minimum(percent, min_count, devices):
    rule = BudgetRule(label="attribute.site", max_percent=percent, min_count=min_count)
    found = limits(rule, {"berlin": devices})
    limit = found.limit("berlin")
    assert limit >= min_count
    assert limit == min_count or limit <= percent * devices / 100 + 1e-6
    assert limit == min_count or limit + 1 > percent * devices / 100 - 1e-6
    assert found.limit("appeared later") == min_count
