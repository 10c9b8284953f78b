from __future__ import annotations

import re
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.query import Comparison, Operator, QueryError, matches, parse, render
from tests.support.queries import comparisons, devices, queries

OPPOSITES = {
    Operator.EQUAL: Operator.NOT_EQUAL,
    Operator.IN: Operator.NOT_IN,
}


@given(queries)
def test_what_is_written_reads_back_as_the_same_query(query):
    assert parse(render(query)) == query


@given(st.text(st.sampled_from("device_id=!;,()'\"* ablt\\"), max_size=40))
def test_any_text_is_refused_or_means_what_it_is_written_back_as(text):
    with suppress(QueryError):
        assert parse(render(parse(text))) == parse(text)


@given(comparisons, devices)
def test_not_equal_and_out_are_the_opposites_of_equal_and_in(query, device):
    if query.operator in OPPOSITES:
        other = Comparison(query.field, OPPOSITES[query.operator], query.values, query.pattern)
        assert matches(query, device) != matches(other, device)


@given(st.lists(st.text("ab*._", max_size=3), min_size=2, max_size=4), st.text("ab*._", max_size=8))
def test_a_pattern_matches_what_its_regular_expression_does(values, found):
    query = Comparison("device_id", Operator.EQUAL, tuple(values), pattern=True)

    class Named:
        device_id = found
        hardware_model = "m"
        version = None
        attributes: dict[str, str] = {}  # noqa: RUF012

    assert matches(query, Named()) == bool(re.fullmatch(".*".join(map(re.escape, values)), found, re.DOTALL))
