"""What the gateway needs from the rest of the system, and its own limits."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from random import random
from typing import Final, Protocol

from orchestrator.app.ports import Offers
from orchestrator.config import Settings
from orchestrator.domain.profile import Profile
from orchestrator.telemetry.health import Check
from schemas.device_events import DeviceEvent

MAX_REPORTS_IN_HAND: Final = 1_000
"""Reports read or being written at once, beyond which devices are asked to come back: with the largest bodies 256 MB."""

BODY_TIMEOUT: Final = 10.0
"""Seconds in which a body must arrive: a report in hand counts against the limit above."""

MAX_DEVICE_ID: Final = 256
"""Characters of a controllerId, as in hawkBit."""


class Device(Protocol):
    """An authenticated device."""

    @property
    def device_no(self) -> int: ...
    @property
    def device_id(self) -> str: ...
    @property
    def profile(self) -> Profile: ...
    @property
    def attributes_wanted(self) -> bool: ...


class Identities(Protocol):
    """Who is who; see ``orchestrator.adapters.sql.identities``."""

    async def authenticate(self, device_id: str, token: str, *, attributes: bool = False) -> Device | None: ...
    def attributes_reported(self, device_id: str) -> None: ...
    def forget(self, device_id: str) -> None: ...


class Facts(Protocol):
    """The log of facts; see ``orchestrator.adapters.kafka.producer``."""

    async def send(self, event: DeviceEvent, traceparent: str | None = None) -> tuple[int, int]:
        """Partition and offset, once all in-sync replicas have the event."""
        ...


class Presence(Protocol):
    """Last-seen times; losable."""

    def seen(self, device_no: int, at: int) -> None: ...


class Artifacts(Protocol):
    """Content-addressed files."""

    async def size(self, sha256: str) -> int:
        """Bytes of the file."""
        ...

    def open_range(self, sha256: str, start: int, end: int) -> AsyncIterator[bytes]:
        """Bytes ``start`` to ``end``, ``end`` not included, in pieces small enough to hold many of at once."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayServices:
    """Everything a gateway is made of. Whoever makes these starts and stops them."""

    settings: Settings
    offers: Offers
    facts: Facts
    identities: Identities
    presence: Presence
    artifacts: Artifacts
    clock: Callable[[], int]
    """Milliseconds since the epoch: ``recorded_at`` of what devices report."""
    metrics: Callable[[], bytes]
    """Everything measured so far, in Prometheus' text format."""
    readiness: Sequence[Check] = ()
    transient: tuple[type[Exception], ...] = (OSError, TimeoutError)
    """Errors of the database that pass by themselves: the device is asked to come back."""
    chance: Callable[[], float] = field(default=random)
    """Uniform in 0 to 1, for the jitter of polls and of those who are turned away."""
    monotonic: Callable[[], float] = time.monotonic
    """Seconds of a clock that never goes back, for limits."""
    queued: Callable[[], int] = lambda: 0
    """Connections that wait to be accepted."""
    traceparent: Callable[[], str | None] = lambda: None
    """The running trace, if it is sampled."""
    ingested: Callable[[str], None] = lambda _: None
    """Told the type of every event that was acknowledged."""
    refused: Callable[[str, str], None] = lambda _, __: None
    """Told what kind of report was refused (``feedback`` or ``configData``) and the error's code."""
    put_off: Callable[[str, str], None] = lambda _, __: None
    """Told what was asked to come back later (``feedback``, ``configData``, or ``request``) and the error's code."""
