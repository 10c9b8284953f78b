from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.paging import CursorFilterError, CursorInvalidError, Cursors

KEYS = st.lists(st.integers(-(2**63), 2**63 - 1) | st.text(), min_size=1, max_size=4).map(tuple)
FILTERS = st.dictionaries(st.text(), st.none() | st.text() | st.lists(st.text()))

cursors = Cursors(b"secret")


@given(KEYS, st.text(), FILTERS)
def test_a_cursor_comes_back_as_its_key(key, kind, filters):
    assert cursors.decode(cursors.encode(key, kind, filters), kind, filters) == key


@given(KEYS, st.text(), FILTERS, st.text(), FILTERS)
def test_a_cursor_is_refused_elsewhere(key, kind, filters, other_kind, other_filters):
    cursor = cursors.encode(key, kind, filters)
    if (kind, filters) != (other_kind, other_filters):
        with pytest.raises(CursorFilterError):
            cursors.decode(cursor, other_kind, other_filters)


@given(KEYS, st.data())
def test_a_cursor_that_was_changed_is_refused(key, data):
    cursor = cursors.encode(key, "devices", {})
    at = data.draw(st.integers(0, len(cursor) - 2))
    other = data.draw(st.sampled_from("ABCdef019-_").filter(lambda letter: letter != cursor[at]))
    with pytest.raises(CursorInvalidError):
        cursors.decode(cursor[:at] + other + cursor[at + 1 :], "devices", {})


@given(st.text(max_size=80))
def test_what_was_made_up_is_refused(text):
    with pytest.raises(CursorInvalidError):
        cursors.decode(text, "devices", {})


def test_a_cursor_of_another_deployment_is_refused():
    with pytest.raises(CursorInvalidError):
        cursors.decode(Cursors(b"other").encode((1,), "devices", {}), "devices", {})


def test_no_cursor_is_the_first_page():
    assert cursors.decode(None, "devices", {}) is None
