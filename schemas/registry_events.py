"""Decisions about what exists: hardware models, trusted keys, artifacts, releases, devices, API keys.

Stored in the event log beside the campaigns' events, one stream per thing (devices in batches), projected into the tables of the same
names. Secrets never enter: tokens and keys are present as salted hashes only, and what webhooks sign with not at all.
"""

from __future__ import annotations

from typing import Any

import msgspec


class _Event(msgspec.Struct, frozen=True, kw_only=True):
    pass


class HardwareModelCreated(_Event, frozen=True, kw_only=True):
    name: str
    profile: dict[str, Any]
    """How its clients speak: see ``orchestrator.domain.profile``."""
    actor: str


class TrustedKeyAdded(_Event, frozen=True, kw_only=True):
    key_id: str
    hardware_model: str
    algorithm: str
    pem: str
    actor: str


class ArtifactStored(_Event, frozen=True, kw_only=True):
    sha256: str
    sha1: str
    md5: str
    size: int
    filename: str
    hardware_model: str
    image: dict[str, Any]
    """What the verifier found: version, image digest, security counter, dependencies, key id, algorithm."""
    actor: str


class ReleaseComponent(msgspec.Struct, frozen=True, kw_only=True):
    """One of several parts of a device that a release updates."""

    name: str
    kind: str
    """``app`` or ``os``."""
    sha256: str
    after: list[str] = []
    """Names of components that must be in before this one."""


class ReleaseRegistered(_Event, frozen=True, kw_only=True):
    release_id: str
    name: str
    version: str
    artifacts: dict[str, str]
    """Hardware model to artifact sha256; with components, that of the last one."""
    digest: str
    actor: str
    components: dict[str, list[ReleaseComponent]] = {}
    """Hardware model to its components in the order of their installation; models that have one artifact are absent."""


class RegisteredDevice(msgspec.Struct, frozen=True, kw_only=True):
    device_no: int
    device_id: str
    hardware_model: str
    attributes: dict[str, str] = {}
    token_hash: str | None = None
    """Hex sha256 of the token; tokens are 256-bit random, so a plain hash resists guessing."""


class DevicesRegistered(_Event, frozen=True, kw_only=True):
    devices: list[RegisteredDevice]
    actor: str


class DeviceTokenIssued(_Event, frozen=True, kw_only=True):
    device_no: int
    device_id: str
    token_hash: str
    actor: str


class ApiKeyCreated(_Event, frozen=True, kw_only=True):
    key_id: str
    name: str
    scopes: list[str]
    secret_hash: str
    expires_at: int | None
    actor: str


class ApiKeyRevoked(_Event, frozen=True, kw_only=True):
    key_id: str
    actor: str


class WebhookAdded(_Event, frozen=True, kw_only=True):
    """An endpoint is told of events beyond this one. Its secret is kept beside the log, because it must sign."""

    webhook_id: str
    url: str
    events: list[str]
    actor: str


class WebhookRemoved(_Event, frozen=True, kw_only=True):
    webhook_id: str
    actor: str


class WebhookTested(_Event, frozen=True, kw_only=True):
    """The endpoint is told of this event, which means nothing else."""

    webhook_id: str
    actor: str


class ProjectionsReplaced(_Event, frozen=True, kw_only=True):
    """A rebuild took the place of live tables that differed from it, because somebody said so."""

    reason: str
    differences: list[str]
    """The first of each table."""
    actor: str


RegistryEvent = (
    HardwareModelCreated
    | TrustedKeyAdded
    | ArtifactStored
    | ReleaseRegistered
    | DevicesRegistered
    | DeviceTokenIssued
    | ApiKeyCreated
    | ApiKeyRevoked
    | WebhookAdded
    | WebhookRemoved
    | WebhookTested
    | ProjectionsReplaced
)

EVENT_TYPES: dict[str, type[msgspec.Struct]] = {cls.__name__: cls for cls in RegistryEvent.__args__}
