from __future__ import annotations

from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.durations import MAX_DURATION_MS, DurationError, format_duration, parse_duration

untimed = settings(deadline=None)  # a busy machine is no defect


@untimed
@given(st.integers(0, MAX_DURATION_MS))
def test_what_is_written_reads_back(milliseconds):
    assert parse_duration(format_duration(milliseconds)) == milliseconds


@untimed
@given(st.integers(0, 366), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_both_notations_agree(days, hours, minutes, seconds):
    iso, short = f"P{days}DT{hours}H{minutes}M{seconds}S", f"{days}d{hours}h{minutes}m{seconds}s"
    try:
        expected = parse_duration(iso)
    except DurationError:
        assert days == 366
    else:
        assert parse_duration(short) == expected


@untimed
@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text):
    with suppress(DurationError):
        assert 0 <= parse_duration(text) <= MAX_DURATION_MS
