from __future__ import annotations

import pytest

from orchestrator.domain.query import And, Comparison, Operator, Or, QueryError, parse, render
from orchestrator.domain.query.parse import MAX_DEPTH, MAX_LENGTH, MAX_TERMS

EQUAL, IN = Operator.EQUAL, Operator.IN
A = Comparison("device_id", EQUAL, ("a",))
B = Comparison("device_id", EQUAL, ("b",))
C = Comparison("device_id", EQUAL, ("c",))


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("device_id==a", A),
        (" ( device_id == a ) ", A),
        ("device_id==a;device_id==b,device_id==c", Or((And((A, B)), C))),
        ("device_id==a and device_id==b or device_id==c", Or((And((A, B)), C))),
        ("device_id==a;(device_id==b,device_id==c)", And((A, Or((B, C))))),
        ("attribute.site=in=('new york', b)", Comparison("attribute.site", IN, ("new york", "b"))),
        ("version=lt=2.10", Comparison("version", Operator.LESS, ("2.10",))),
        ("attribute.battery=ge=12.5", Comparison("attribute.battery", Operator.AT_LEAST, ("12.5",))),
        ("attribute.x=exists=false", Comparison("attribute.x", Operator.EXISTS, ("false",))),
        ("device_id==a*b*", Comparison("device_id", EQUAL, ("a", "b", ""), pattern=True)),
        ("device_id=='a*b'", Comparison("device_id", EQUAL, ("a*b",))),
        (r"device_id=='it\'s \\ \"'", Comparison("device_id", EQUAL, ("it's \\ \"",))),
        ("device_id==''", Comparison("device_id", EQUAL, ("",))),
    ],
)
def test_a_selector_is_read_as_it_is_meant(text, query):
    assert parse(text) == query
    assert parse(render(query)) == query


@pytest.mark.parametrize(
    ("text", "position", "detail"),
    [
        ("", 0, "A field is needed"),
        ("device_id", 9, "An operator is needed"),
        ("device_id=a", 9, "An operator is needed"),
        ("device_id=like=a", 9, "An operator is needed"),
        ("device_id==", 11, "A value is needed"),
        ("serial==a", 0, "no field 'serial'"),
        ("device_id==a;", 13, "A field is needed"),
        ("device_id==a b", 13, "should end here"),
        ("device_id==a andx", 13, "should end here"),
        ("(device_id==a", 13, "parenthesis of character 1"),
        ("device_id==a)", 12, "should end here"),
        ("device_id=='a", 11, "quote is not closed"),
        (r"device_id=='\n'", 12, "A backslash stands before"),
        ("device_id=='\0'", 12, "NUL"),
        ("device_id=in=a", 13, "A list in parentheses"),
        ("device_id=in=(a", 15, "goes on with"),
        ("device_id=in=()", 14, "A value is needed"),
        ("version=gt=2.x", 11, "dotted numbers"),
        ("attribute.n=gt=many", 15, "a number"),
        ("attribute.n=exists=maybe", 19, "true or false"),
    ],
)
def test_an_error_points_at_what_is_wrong(text, position, detail):
    with pytest.raises(QueryError) as caught:
        parse(text)
    assert detail in caught.value.detail
    assert caught.value.caret.splitlines()[-1] == " " * position + "^"


def test_the_caret_stands_under_the_place_in_a_long_selector_too():
    text = "device_id==a;" * 20 + "serial==a"
    with pytest.raises(QueryError) as caught:
        parse(text)
    shown, caret = caught.value.caret.splitlines()
    assert shown[caret.index("^") :].startswith("serial")


@pytest.mark.parametrize(
    "text",
    [
        "device_id==" + "a" * MAX_LENGTH,
        "(" * (MAX_DEPTH + 1) + "device_id==a" + ")" * (MAX_DEPTH + 1),
        "device_id=in=(" + ",".join("a" * (MAX_TERMS + 1)) + ")",
    ],
)
def test_what_is_too_large_is_refused(text):
    with pytest.raises(QueryError, match=r"at most|More than"):
        parse(text)
