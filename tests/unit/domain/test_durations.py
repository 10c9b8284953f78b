from __future__ import annotations

import pytest

from orchestrator.domain.durations import MAX_DURATION_MS, DurationError, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("90s", 90_000),
        ("15m", 900_000),
        ("2h", 7_200_000),
        ("7d", 604_800_000),
        ("2w", 1_209_600_000),
        ("500ms", 500),
        ("1h30m", 5_400_000),
        ("1m5ms", 60_005),
        ("0s", 0),
        (" 5m ", 300_000),
        ("PT90S", 90_000),
        ("PT0.5S", 500),
        ("PT1,025S", 1_025),
        ("P7D", 604_800_000),
        ("P1DT12H", 129_600_000),
        ("P1W", 604_800_000),
        ("PT1H30M", 5_400_000),
        (1_500, 1_500),
        (0, 0),
    ],
)
def test_both_notations_and_milliseconds_are_read(text, milliseconds):
    assert parse_duration(text) == milliseconds


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            "90",
            "s",
            "1.5h",
            "1 h",
            "-5s",
            "5x",
            "30m1h",
            "1M",
            "P",
            "PT",
            "P1DT",
            "P1M",
            "P1Y",
            "PT5",
            "٣s",
            "1h\n2m",
        ),
        *("9" * 65 + "s", "400d", MAX_DURATION_MS + 1, -1, 1.5, True, None, ["1h"]),
    ],
)
def test_anything_else_is_refused_with_an_example(value):
    with pytest.raises(DurationError) as caught:
        parse_duration(value)
    assert caught.value.code == "duration.invalid"
    assert "90s" in caught.value.remedy


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0s"), (90_000, "1m30s"), (5_400_000, "1h30m"), (604_800_000, "7d"), (60_005, "1m5ms"), (500, "500ms")],
)
def test_durations_are_written_with_the_largest_units_first(milliseconds, text):
    assert format_duration(milliseconds) == text


def test_negative_durations_are_not_written():
    with pytest.raises(ValueError):
        format_duration(-1)
