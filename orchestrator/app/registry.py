"""What exists: hardware models, trusted keys, artifacts, releases, devices, API keys; and the port that keeps it.

Each is decided by an event of ``schemas.registry_events`` and read from the rows that follow from it. Times are milliseconds since the
epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from msgspec import Struct

from orchestrator.app.ports import Meta, Recorded
from orchestrator.errors import ConflictError, NotFoundError
from schemas.registry_events import ReleaseComponent

NewId = Callable[[str], str]
"""A fresh id with a prefix: ``rel`` gives ``rel_…``."""

Clock = Callable[[], int]
"""Milliseconds since the epoch."""

Traceparent = Callable[[], str | None]
"""W3C context of the current span, kept with what it causes."""


def untraced() -> str | None:
    """For callers outside of any trace."""
    return None


class AlreadyExistsError(ConflictError):
    """There is one of that name already."""

    code = "conflict.exists"


class HardwareModelNotFoundError(NotFoundError):
    """There is no such hardware model."""

    code = "hardware_model.not_found"
    remedy = "Create it with `ota hardware-model create`."


class ReleaseNotFoundError(NotFoundError):
    """There is no such release."""

    code = "release.not_found"


class DeviceNotFoundError(NotFoundError):
    """There is no such device."""

    code = "device.not_found"


class HardwareModel(Struct, frozen=True, kw_only=True):
    name: str
    profile: dict[str, Any]
    created_at: int


class TrustedKey(Struct, frozen=True, kw_only=True):
    key_id: str
    hardware_model: str
    algorithm: str
    pem: str
    added_at: int


class Artifact(Struct, frozen=True, kw_only=True):
    sha256: str
    hardware_model: str
    sha1: str
    md5: str
    size: int
    filename: str
    image: dict[str, Any]
    """What the verifier found: version, image digest, security counter, dependencies, key id, algorithm."""
    stored_at: int


class Release(Struct, frozen=True, kw_only=True):
    release_id: str
    name: str
    version: str
    artifacts: dict[str, str]
    """Hardware model to artifact sha256; with components, that of the last one."""
    digest: str
    created_at: int
    components: dict[str, list[ReleaseComponent]] = {}
    """Hardware model to its components in the order of their installation; models that have one artifact are absent."""


class ApiKey(Struct, frozen=True, kw_only=True):
    key_id: str
    name: str
    scopes: list[str]
    secret_hash: str
    created_at: int
    expires_at: int | None
    revoked_at: int | None


class Registry(Protocol):
    """Registry events and the rows that follow from them, written in one transaction."""

    async def record(
        self,
        stream: str,
        events: Sequence[Struct],
        *,
        command_id: str,
        meta: Meta,
        expected_version: int | None = None,
    ) -> list[Recorded]:
        """Append and write the rows; a command id that has taken effect returns its first events.

        Raises VersionConflictError if the stream is not at ``expected_version``, AlreadyExistsError if a row is there already.
        """
        ...

    async def done(self, command_id: str) -> list[Recorded]:
        """What a command has caused; empty if it never took effect."""
        ...

    async def hardware_models(self, names: Sequence[str]) -> dict[str, HardwareModel]:
        """Those of ``names`` that exist."""
        ...

    async def trusted_keys(self, hardware_model: str) -> list[TrustedKey]: ...

    async def highest_counter(self, hardware_model: str) -> int | None:
        """Highest security counter among the model's artifacts; None if none of them has one."""
        ...

    async def artifact(self, sha256: str, hardware_model: str) -> Artifact | None: ...

    async def release(self, release_id: str) -> Release:
        """Raises ReleaseNotFoundError."""
        ...

    async def registered(self, device_ids: Sequence[str]) -> list[str]:
        """Those of ``device_ids`` that exist, sorted."""
        ...

    async def device_no(self, device_id: str) -> int:
        """Raises DeviceNotFoundError."""
        ...

    async def device_numbers(self, count: int) -> list[int]:
        """Numbers that no device has or ever had."""
        ...

    async def api_key(self, key_id: str) -> ApiKey | None: ...

    async def api_keys(self) -> list[ApiKey]:
        """All of them, revoked and expired ones included; the newest first."""
        ...
