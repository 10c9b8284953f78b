from __future__ import annotations

from decimal import Decimal

import pytest

from orchestrator.domain.digest import canonical_json, digest_of


def test_canonical_json_sorts_keys_and_leaves_no_spaces():
    assert canonical_json({"b": [1, None, True], "a": {"ä": "ü"}}) == '{"a":{"ä":"ü"},"b":[1,null,true]}'.encode()


def test_floats_are_written_as_their_shortest_exact_text():
    assert canonical_json([0.1, 1e-05, 2.0]) == b'["0.1","1e-05","2.0"]'


def test_tuples_and_lists_digest_alike():
    assert digest_of((1, 2)) == digest_of([1, 2])


def test_a_digest_names_its_algorithm():
    assert digest_of({}) == "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_values_without_a_canonical_form_are_refused(value):
    with pytest.raises(ValueError):
        canonical_json([value])


@pytest.mark.parametrize("value", [{1: "a"}, Decimal(1), {1, 2}, b"x"])
def test_other_types_are_refused(value):
    with pytest.raises(TypeError):
        canonical_json(value)
