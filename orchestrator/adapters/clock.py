"""The only wall clock. The core never reads it: times are arguments there."""

from __future__ import annotations

import time
from secrets import token_bytes
from uuid import UUID


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def uuid7() -> str:
    """A time-ordered UUID (RFC 9562, version 7), so that ids sort by birth."""
    raw = (now_ms().to_bytes(6) + token_bytes(10))[:16]
    value = int.from_bytes(raw)
    value = (value & ~(0xF << 76)) | (0x7 << 76)
    value = (value & ~(0x3 << 62)) | (0x2 << 62)
    return str(UUID(int=value))


def new_id(prefix: str) -> str:
    """``prefix_`` and 26 hex digits of a version 7 UUID: sortable, unguessable enough to be no secret."""
    return f"{prefix}_{uuid7().replace('-', '')[:26]}"
