"""Byte ranges and entity tags of downloads (RFC 9110, sections 13 and 14). Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from api.devices.errors import RangeNotSatisfiableError

MAX_RANGES: Final = 256
"""Ranges of one request; SWUpdate's delta handler asks for up to 150 at once."""

_RANGE: Final = re.compile(r"(\d{0,18})-(\d{0,18})")


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes ``start`` to ``end``, ``end`` not included."""

    start: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.start

    def content_range(self, size: int) -> str:
        """Value of ``Content-Range``."""
        return f"bytes {self.start}-{self.end - 1}/{size}"


def parse_range(header: str, size: int) -> list[Span] | None:
    """The spans that a ``Range`` header asks for, in its order; None for units other than bytes, which are ignored.

    Raises:
        RangeNotSatisfiableError: none lies within ``size`` bytes, or the header is malformed, overlaps, or asks for too many.
    """
    unit, _, text = header.partition("=")
    if unit.strip().lower() != "bytes":
        return None
    parts = text.split(",", MAX_RANGES)
    if len(parts) > MAX_RANGES:
        raise _unsatisfiable(f"More than {MAX_RANGES} ranges.", size)
    spans = [span for part in parts if (span := _span(part.strip(), size)) is not None]
    if not spans:
        raise _unsatisfiable(f"The artifact has {size} bytes.", size)
    in_order = sorted(spans, key=lambda span: span.start)
    if any(later.start < earlier.end for earlier, later in pairwise(in_order)):
        raise _unsatisfiable("The ranges overlap.", size)
    return spans


def _span(part: str, size: int) -> Span | None:
    match = _RANGE.fullmatch(part)
    if match is None or part == "-":
        raise _unsatisfiable(f"{part[:40]!r} is not a range of bytes.", size)
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            raise _unsatisfiable(f"{part!r} ends before it starts.", size)
    return Span(start, end) if start < end else None


def _unsatisfiable(detail: str, size: int) -> RangeNotSatisfiableError:
    return RangeNotSatisfiableError(detail, content_range=f"bytes */{size}")


def any_match(header: str, etag: str, *, weak: bool) -> bool:
    """Whether an ``If-Match`` (strong comparison) or ``If-None-Match`` (``weak``) header names this entity tag."""
    tags = [tag.strip() for tag in header.split(",")]
    if weak:
        tags = [tag.removeprefix("W/") for tag in tags]
    return "*" in tags or etag in tags
