"""Answers that are remembered, so that a repeated request gets the first one's."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Protocol

from msgspec import Struct


class Claimed(StrEnum):
    NEW = "new"
    """Go ahead; then ``finish`` or ``release``."""
    ANSWERED = "answered"
    IN_FLIGHT = "in_flight"
    OTHER_REQUEST = "other_request"
    """The key was used for another request."""


class Claim(Struct, frozen=True):
    outcome: Claimed
    status: int | None = None
    body: dict[str, Any] | None = None


class Answers(Protocol):
    """Answers by principal and key. Times are milliseconds since the epoch."""

    async def claim(self, principal: str, key: str, fingerprint: str, now: int) -> Claim:
        """Take the key for this request, or say what became of the request that took it."""
        ...

    async def finish(self, principal: str, key: str, status: int, body: dict[str, Any]) -> None:
        """Remember the answer."""
        ...

    async def release(self, principal: str, key: str) -> None:
        """Give the key back: the request failed and had no effect."""
        ...

    async def purge(self, now: int) -> int:
        """Forget old answers; returns how many."""
        ...
