"""Time zones by name, from the machine's or the package ``tzdata``'s copy of the IANA database."""

from __future__ import annotations

from datetime import tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo


def known(name: str) -> bool:
    """Whether there is such a zone."""
    return _zone(name) is not None


def zone(name: str | None, fallback: str) -> tzinfo:
    """The zone, or the fallback where there is none of that name. Raises ValueError if that does not exist either."""
    found = (None if name is None else _zone(name)) or _zone(fallback)
    if found is None:
        raise ValueError(f"there is no time zone {fallback}")
    return found


@lru_cache(maxsize=1_024)
def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return None
