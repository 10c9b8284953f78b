"""When a campaign may offer: start and end, freezes, and weekly windows in a time zone.

Windows are in local time, that of the campaign or of each device, so that "at night" means night where the device is, in summer and in
winter. The hour that the clock skips has no window; of the hour that it repeats both are in it. Without windows every hour is one.

Not here: where a zone's rules come from (they are an argument), and what a closed window does to devices that have started: nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.domain.plan_fields import Line, PlanModel

MAX_WINDOWS: Final = 28
"""Windows of a plan: four a day."""

MAX_FREEZES: Final = 100
"""Freezes of a plan: a year of holidays and more."""

DEVICE: Final = "device"
"""In place of a zone's name: each device's own, from its attribute ``timezone``."""

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_CLOCK: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])|24:00")
_LOOK_AHEAD: Final = 9
"""Days: a week, and the two that a change of the clock may cost."""

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


def _clock(value: str) -> str:
    if not _CLOCK.fullmatch(value):
        raise PydanticCustomError("plan.window.clock", "A time of day is written like 22:00.")
    return value


def _instant(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, datetime):  # YAML reads an unquoted date and time by itself
        found = value
    else:
        try:
            found = datetime.fromisoformat(str(value))
        except ValueError as error:
            raise PydanticCustomError("plan.time", "A date and time is written like 2026-12-24T00:00:00Z.") from error
    if found.tzinfo is None:
        raise PydanticCustomError("plan.time", "A date and time needs its offset from UTC, such as Z or +01:00.")
    return round(found.timestamp() * 1_000)


Clock = Annotated[str, Field(strict=True), AfterValidator(_clock)]
Instant = Annotated[int, BeforeValidator(_instant, json_schema_input_type=str | int)]
"""Milliseconds since the epoch; written as RFC 3339."""


class Window(PlanModel):
    """From one time of day to another; past midnight if it ends before it begins. ``days`` are those that it begins on."""

    days: Annotated[tuple[Day, ...], Field(min_length=1, max_length=7)] = _DAYS
    from_: Annotated[Clock, Field(alias="from")]
    to: Clock

    @model_validator(mode="after")
    def _has_a_length(self) -> Self:
        if self.from_ in {self.to, "24:00"}:
            raise PydanticCustomError("plan.window.clock", "A window begins before midnight and ends at another time.")
        return self


class Freeze(PlanModel):
    """Nothing is offered from one moment to another."""

    from_: Annotated[Instant, Field(alias="from")]
    to: Instant
    reason: Line

    @model_validator(mode="after")
    def _ends_after_its_beginning(self) -> Self:
        if self.to <= self.from_:
            raise PydanticCustomError("plan.time", "A freeze ends after it begins.")
        return self


class Closed(StrEnum):
    """Why nothing may be offered now."""

    NOT_BEGUN = "not_begun"
    ENDED = "ended"
    FROZEN = "frozen"
    WINDOW = "window"


@dataclass(frozen=True, slots=True)
class Shut:
    """Nothing may be offered. ``until`` is the earliest moment to ask again, ms; None for ever."""

    why: Closed
    until: int | None
    detail: str


class Schedule(PlanModel):
    """When the campaign may offer. Without anything in it, always."""

    start_at: Instant | None = None
    end_at: Instant | None = None
    """No offer from then on; what has started goes on."""
    freezes: Annotated[tuple[Freeze, ...], Field(max_length=MAX_FREEZES)] = ()
    windows: Annotated[tuple[Window, ...], Field(max_length=MAX_WINDOWS)] = ()
    timezone: Line = "UTC"
    """Of the windows: an IANA name, or ``device`` for each device's attribute ``timezone``."""
    fallback_timezone: Line = "UTC"
    """Of devices whose attribute is missing or names no zone."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.start_at is not None and self.end_at is not None and self.end_at <= self.start_at:
            raise PydanticCustomError("plan.time", "A campaign ends after it begins.")
        if self.fallback_timezone == DEVICE:
            raise PydanticCustomError("plan.timezone", "The fallback is the name of a zone.")
        return self

    @property
    def per_device(self) -> bool:
        """Whether windows are asked for each device."""
        return bool(self.windows) and self.timezone == DEVICE

    @property
    def zones(self) -> frozenset[str]:
        """Names of zones that have to exist."""
        return frozenset({self.timezone, self.fallback_timezone}) - {DEVICE}

    def shut(self, now: int) -> Shut | None:
        """Whether the whole campaign may offer nothing at ``now`` (ms), its windows apart."""
        if self.start_at is not None and now < self.start_at:
            return Shut(Closed.NOT_BEGUN, self.start_at, f"The campaign begins at {written(self.start_at)}.")
        if self.end_at is not None and now >= self.end_at:
            return Shut(Closed.ENDED, None, f"The campaign ended at {written(self.end_at)}.")
        for freeze in self.freezes:
            if freeze.from_ <= now < freeze.to:
                return Shut(Closed.FROZEN, freeze.to, f"Frozen until {written(freeze.to)}: {freeze.reason}.")
        return None

    def outside(self, now: int, zone: tzinfo) -> Shut | None:
        """Whether ``now`` (ms) is outside every window in that zone; ``until`` is when the next one opens."""
        if not self.windows or self._inside(now, zone):
            return None
        until = min(opening for opening in self._openings(now, zone) if opening > now)
        return Shut(Closed.WINDOW, until, f"Outside its windows until {written(until)}.")

    def _inside(self, now: int, zone: tzinfo) -> bool:
        local = datetime.fromtimestamp(now / 1_000, UTC).astimezone(zone)
        today, clock = local.date(), f"{local:%H:%M}"
        yesterday = today - timedelta(days=1)
        for window in self.windows:
            begins, begun = _DAYS[today.weekday()] in window.days, _DAYS[yesterday.weekday()] in window.days
            if window.from_ < window.to:
                if begins and window.from_ <= clock < window.to:
                    return True
            elif (begins and clock >= window.from_) or (begun and clock < window.to):
                return True
        return False

    def _openings(self, now: int, zone: tzinfo) -> Iterator[int]:
        """Moments after which a window is open, among them the next one."""
        first = datetime.fromtimestamp(now / 1_000, UTC).astimezone(zone).date()
        for ahead in range(-1, _LOOK_AHEAD):
            day = first + timedelta(days=ahead)
            for window in self.windows:
                if _DAYS[day.weekday()] in window.days:
                    yield from self._opening(day, window, zone)

    def _opening(self, day: date, window: Window, zone: tzinfo) -> Iterator[int]:
        hour, minute = map(int, window.from_.split(":"))
        for fold in (0, 1):
            local = datetime.combine(day, time(hour, minute, fold=fold), zone)
            found = round(local.timestamp() * 1_000)
            if self._inside(found, zone):
                yield found
        # The clock may skip the time at which the window begins: then it opens where the clock goes on, if it has not ended by then.
        skipped = datetime.combine(day, time(hour, minute, fold=1), zone)
        if skipped.utcoffset() != datetime.combine(day, time(hour, minute, fold=0), zone).utcoffset():
            yield from self._after_a_change(round(skipped.timestamp() * 1_000), zone)

    def _after_a_change(self, about: int, zone: tzinfo) -> Iterator[int]:
        """The first minute inside, within some hours of a change of the clock."""
        start = about - about % 60_000 - 3 * 3_600_000
        before = self._inside(start - 60_000, zone)
        for now in range(start, start + 6 * 3_600_000, 60_000):
            inside = self._inside(now, zone)
            if inside and not before:
                yield now
            before = inside


def written(moment: int) -> str:
    """A moment (ms) for people."""
    return f"{datetime.fromtimestamp(moment / 1_000, UTC):%Y-%m-%dT%H:%M:%SZ}"


ALWAYS: Final = Schedule()
"""The schedule of a plan that says nothing about one."""
