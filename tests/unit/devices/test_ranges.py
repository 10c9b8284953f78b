from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.devices.errors import RangeNotSatisfiableError
from api.devices.ranges import MAX_RANGES, Span, any_match, parse_range


@pytest.mark.parametrize(
    ("header", "spans"),
    [
        ("bytes=0-0", [Span(0, 1)]),
        ("bytes=0-99", [Span(0, 100)]),
        ("bytes=10-", [Span(10, 100)]),
        ("bytes=-5", [Span(95, 100)]),
        ("bytes=-500", [Span(0, 100)]),
        ("bytes=90-500", [Span(90, 100)]),
        ("Bytes = 1-2", [Span(1, 3)]),
        ("bytes=0-1, 4-5 ,-1", [Span(0, 2), Span(4, 6), Span(99, 100)]),
        ("bytes=50-60,0-1", [Span(50, 61), Span(0, 2)]),
        ("bytes=0-1,200-300", [Span(0, 2)]),
    ],
)
def test_ranges_of_a_hundred_bytes(header: str, spans: list[Span]):
    assert parse_range(header, 100) == spans


def test_other_units_are_ignored():
    assert parse_range("lines=1-2", 100) is None


@pytest.mark.parametrize(
    "header",
    [
        "bytes=100-",
        "bytes=100-200,300-",
        "bytes=-0",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=5-1",
        "bytes=1",
        "bytes=1-2-3",
        "bytes=0-50,40-60",
        "bytes=0-,-1",
        "bytes=" + "9" * 40 + "-",
        "bytes=" + ",".join(f"{n}-{n}" for n in range(MAX_RANGES + 1)),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_size(header: str):
    with pytest.raises(RangeNotSatisfiableError) as refused:
        parse_range(header, 100)
    assert refused.value.fields["content_range"] == "bytes */100"


@given(st.text(max_size=60), st.integers(0, 1_000))
def test_no_header_breaks_the_reader_and_no_span_leaves_the_artifact(text: str, size: int):
    try:
        spans = parse_range("bytes=" + text, size)
    except RangeNotSatisfiableError:
        return
    assert spans
    assert all(0 <= span.start < span.end <= size for span in spans)
    assert sum(span.length for span in spans) <= size


def test_content_range_counts_from_zero_and_includes_the_last_byte():
    assert Span(5, 10).content_range(100) == "bytes 5-9/100"


def test_a_weak_tag_matches_only_where_weak_comparison_is_asked_for():
    assert any_match('"a", "b"', '"b"', weak=False)
    assert any_match("*", '"b"', weak=False)
    assert any_match('W/"b"', '"b"', weak=True)
    assert not any_match('W/"b"', '"b"', weak=False)
    assert not any_match('"a"', '"b"', weak=True)
