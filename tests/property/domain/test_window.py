from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.window import Schedule

MINUTE = 60_000
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia"]
CHANGES = [
    datetime(2026, 3, 29, 1, tzinfo=UTC),
    datetime(2026, 10, 25, 1, tzinfo=UTC),
    datetime(2026, 3, 8, 7, tzinfo=UTC),
    datetime(2026, 11, 1, 6, tzinfo=UTC),
    datetime(2026, 4, 4, 15, tzinfo=UTC),
    datetime(2026, 6, 15, 12, tzinfo=UTC),
]

clocks = st.builds(lambda h, m: f"{h:02}:{m:02}", st.integers(0, 23), st.sampled_from((0, 15, 30, 59)))
windows = st.builds(
    lambda days, begin, end: {"days": sorted(days), "from": begin, "to": end},
    st.sets(st.sampled_from(("mon", "tue", "wed", "thu", "fri", "sat", "sun")), min_size=1),
    clocks,
    clocks,
).filter(lambda window: window["from"] != window["to"])
schedules = st.lists(windows, min_size=1, max_size=3).map(lambda found: Schedule.model_validate({"windows": found}))
moments = st.builds(
    lambda change, minutes: round((change + timedelta(minutes=minutes)).timestamp()) * 1_000,
    st.sampled_from(CHANGES),
    st.integers(-600, 600),
)


@settings(deadline=None)
@given(schedules, st.sampled_from(ZONES), moments)
def test_a_closed_window_opens_when_it_says_and_not_a_minute_before(schedule, name, now):
    zone = ZoneInfo(name)
    shut = schedule.outside(now, zone)
    if shut is None:
        return
    assert shut.until is not None
    assert schedule.outside(shut.until, zone) is None
    before = {*range(now, shut.until, 30 * MINUTE), *range(max(now, shut.until - 90 * MINUTE), shut.until, MINUTE)}
    assert all(schedule.outside(moment, zone) is not None for moment in before)


@given(windows, st.sampled_from(ZONES), moments)
def test_a_window_is_open_where_the_clock_on_the_wall_is_within_it(window, name, now):
    local = datetime.fromtimestamp(now / 1_000, ZoneInfo(name))
    clock, day = f"{local:%H:%M}", f"{local:%a}".lower()
    yesterday = f"{local - timedelta(days=1):%a}".lower()
    if window["from"] < window["to"]:
        expected = day in window["days"] and window["from"] <= clock < window["to"]
    else:
        expected = (day in window["days"] and clock >= window["from"]) or (
            yesterday in window["days"] and clock < window["to"]
        )
    schedule = Schedule.model_validate({"windows": [window]})
    assert (schedule.outside(now, ZoneInfo(name)) is None) == expected


NIGHTS = {"days": ["mon", "tue", "wed", "thu", "fri"], "from": "22:00", "to": "05:00"}


def at(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1_000)


@pytest.mark.parametrize(
    ("now", "opens"),
    [
        ("2026-11-20T21:59+01:00", "2026-11-20T22:00+01:00"),  # a Friday
        ("2026-11-20T22:00+01:00", None),
        ("2026-11-21T04:59+01:00", None),  # Friday's night goes on
        ("2026-11-21T05:00+01:00", "2026-11-23T22:00+01:00"),  # nothing on the weekend
        ("2026-07-03T21:59+02:00", "2026-07-03T22:00+02:00"),  # the same hour in summer
    ],
)
def test_weekday_nights_in_berlin(now, opens):
    schedule = Schedule.model_validate({"windows": [NIGHTS], "timezone": "Europe/Berlin"})
    shut = schedule.outside(at(now), ZoneInfo("Europe/Berlin"))
    assert (shut and shut.until) == (opens and at(opens))


def test_start_end_and_freezes_close_the_campaign_in_every_zone():
    schedule = Schedule.model_validate(
        {
            "start_at": "2026-12-01T00:00:00Z",
            "end_at": "2026-12-31T00:00:00Z",
            "freezes": [{"from": "2026-12-24T00:00:00+01:00", "to": "2026-12-27T00:00:00+01:00", "reason": "holidays"}],
        }
    )
    found = [
        schedule.shut(at(text))
        for text in (
            "2026-11-30T23:59Z",
            "2026-12-01T00:00Z",
            "2026-12-24T12:00Z",
            "2026-12-27T00:00Z",
            "2026-12-31T00:00Z",
        )
    ]
    assert [shut and str(shut.why) for shut in found] == ["not_begun", None, "frozen", None, "ended"]
    assert [shut and shut.until for shut in found] == [
        at("2026-12-01T00:00Z"),
        None,
        at("2026-12-26T23:00Z"),
        None,
        None,
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"windows": [{"from": "22:00", "to": "22:00"}]},
        {"windows": [{"from": "9", "to": "10:00"}]},
        {"windows": [{"from": "24:00", "to": "10:00"}]},
        {"windows": [{"days": [], "from": "09:00", "to": "10:00"}]},
        {"start_at": "2026-12-01T00:00:00"},
        {"start_at": "soon"},
        {"start_at": "2026-12-01T00:00:00Z", "end_at": "2026-12-01T00:00:00Z"},
        {"freezes": [{"from": "2026-12-02T00:00:00Z", "to": "2026-12-01T00:00:00Z", "reason": "r"}]},
        {"fallback_timezone": "device"},
    ],
)
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError):
        Schedule.model_validate(wrong)
