"""Lengths of time as people write them, kept as whole milliseconds.

Two notations are read: the short one (``90s``, ``15m``, ``2h``, ``7d``, ``1h30m``, ``500ms``) and ISO 8601
(``PT90S``, ``P7D``, ``P1DT12H``, ``PT0.5S``). Months and years are refused, because they have no fixed length; so
is a bare number in a string. An integer counts milliseconds: that is the stored form.
"""

from __future__ import annotations

import re
from typing import Final

from orchestrator.errors import InvalidInputError

MAX_DURATION_MS: Final = 366 * 86_400_000
"""A year. Longer ones are slips of the pen (a unit too large), and deadlines must stay far from overflow."""

_UNITS: Final = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_SHORT: Final = re.compile(r"(\d+w)?(\d+d)?(\d+h)?(\d+m)?(\d+s)?(\d+ms)?", re.ASCII)
_ISO: Final = re.compile(
    r"P(?:(?P<w>\d+)W)?(?:(?P<d>\d+)D)?(?:T(?=\d)(?:(?P<h>\d+)H)?(?:(?P<m>\d+)M)?(?:(?P<s>\d+)(?:[.,](?P<f>\d{1,3}))?S)?)?",
    re.ASCII,
)
_PART: Final = re.compile(r"(\d+)(ms|[wdhms])", re.ASCII)


class DurationError(InvalidInputError, ValueError):
    """Not a length of time."""

    code = "duration.invalid"
    remedy = "Write it like 90s, 15m, 2h, 7d or PT90S."


def parse_duration(value: object) -> int:
    """Milliseconds of a written duration, or of an integer that already counts them.

    Raises:
        DurationError: neither notation, negative, or longer than :data:`MAX_DURATION_MS`.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DurationError(f"A duration is text like 15m or PT90S, not {type(value).__name__}.")
    milliseconds = value if isinstance(value, int) else _parse_text(value.strip())
    if not 0 <= milliseconds <= MAX_DURATION_MS:
        raise DurationError(f"A duration lies between 0 and 366 days, got {str(value)[:40]}.")
    return milliseconds


def format_duration(milliseconds: int) -> str:
    """The short notation, largest units first: ``5400000`` becomes ``1h30m``."""
    if milliseconds < 0:
        raise ValueError(f"a duration is not negative, got {milliseconds}")
    parts: list[str] = []
    rest = milliseconds
    for unit in ("d", "h", "m", "s", "ms"):
        count, rest = divmod(rest, _UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def _parse_text(text: str) -> int:
    if len(text) > 64:  # int() of a very long run of digits is slow, and no duration needs them
        raise DurationError("A duration has at most 64 characters.")
    if text and _SHORT.fullmatch(text):
        return sum(int(count) * _UNITS[unit] for count, unit in _PART.findall(text))
    iso = _ISO.fullmatch(text)
    if iso and any(iso.groupdict().values()):
        whole = sum(int(iso[unit] or 0) * _UNITS[unit] for unit in ("w", "d", "h", "m", "s"))
        return whole + int((iso["f"] or "0").ljust(3, "0"))
    raise DurationError(f"{text!r} is not a duration.")
