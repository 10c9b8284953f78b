"""API keys: how machines and the command line say who they are.

``ota_<environment>_<id>_<secret><checksum>``: the id finds the row, the secret is compared in constant time with a stored hash (it has
238 random bits, so a plain sha256 resists guessing), the checksum lets scanners tell a leaked key from noise without asking us.

An actor is known by the key's *name*, so two keys of one person are one actor to the four-eyes rule.
"""

from __future__ import annotations

import hmac
import re
import secrets
import string
from collections.abc import Collection, Sequence
from enum import StrEnum
from hashlib import sha256
from typing import Final
from zlib import crc32

from msgspec import Struct

from orchestrator.app.ports import Meta
from orchestrator.app.registry import ApiKey, Clock, NewId, Registry, Traceparent, untraced
from orchestrator.domain.actors import RESERVED
from orchestrator.errors import ForbiddenError, InvalidInputError, NotFoundError, UnauthorizedError
from schemas.registry_events import ApiKeyCreated, ApiKeyRevoked

SECRET_LENGTH: Final = 40
"""Characters of a key's secret, of 62 kinds: 238 bits."""

MAX_LIFETIME_MS: Final = 366 * 86_400_000
"""A key lives for a year at most; a longer-lived one is a password that nobody rotates."""

_ALPHABET: Final = string.ascii_letters + string.digits
_FORMAT: Final = re.compile(r"ota_[a-z0-9]+_([a-z0-9]+)_([A-Za-z0-9]{40})([0-9a-f]{8})", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}", re.ASCII)
_NOBODY: Final = sha256(b"").hexdigest()


class Scope(StrEnum):
    """What a key may do. Halting needs less than launching; resuming after a halt needs an approval."""

    CAMPAIGN_READ = "campaign:read"
    CAMPAIGN_WRITE = "campaign:write"
    CAMPAIGN_LAUNCH = "campaign:launch"
    CAMPAIGN_APPROVE = "campaign:approve"
    CAMPAIGN_HALT = "campaign:halt"
    CAMPAIGN_GATE = "campaign:gate"
    """Verdicts of external gates, and nothing else: the key of a test bench."""
    RELEASE_READ = "release:read"
    RELEASE_PUBLISH = "release:publish"
    WEBHOOK_READ = "webhook:read"
    WEBHOOK_WRITE = "webhook:write"
    DEVICE_READ = "device:read"
    DEVICE_WRITE = "device:write"
    DEVICE_WILL = "device:will"
    """What owners of devices want, and nothing else: the key of a customer portal."""
    AUDIT_READ = "audit:read"
    ADMIN = "admin"
    """All of the above, and keys."""


class KeyInvalidError(UnauthorizedError):
    """The API key is not valid."""

    code = "auth.key.invalid"
    remedy = "Send `Authorization: Bearer ota_…` with a key from `ota key create`."


class KeyExpiredError(UnauthorizedError):
    """The API key has expired or was revoked."""

    code = "auth.key.expired"
    remedy = "Have a new key created with `ota key create`."


class ScopeMissingError(ForbiddenError):
    """The API key does not have the scope that this needs."""

    code = "auth.scope.missing"
    remedy = "Use a key with that scope, or have one created with `ota key create --scope`."


class KeyRequestError(InvalidInputError):
    """The key cannot be created as asked."""

    code = "auth.key.request"


class KeyNotFoundError(NotFoundError):
    """There is no such API key."""

    code = "auth.key.not_found"
    remedy = "`ota key list` shows them."


class Principal(Struct, frozen=True, kw_only=True):
    """Who is asking."""

    name: str
    key_id: str
    scopes: frozenset[str]

    def require(self, scope: Scope) -> None:
        """Raises ScopeMissingError."""
        if scope not in self.scopes and Scope.ADMIN not in self.scopes:
            raise ScopeMissingError(f"Key {self.key_id} ('{self.name}') does not have the scope {scope}.")


class CreatedKey(Struct, frozen=True, kw_only=True):
    """``key`` is shown once: a repeated command gives None, because only its hash was kept."""

    key: str | None
    key_id: str
    name: str
    scopes: list[str]
    expires_at: int | None


class ApiKeys:
    """Create, list, revoke, authenticate."""

    def __init__(
        self,
        registry: Registry,
        *,
        now: Clock,
        new_id: NewId,
        environment: str = "live",
        traceparent: Traceparent = untraced,
    ) -> None:
        self._registry = registry
        self._now = now
        self._new_id = new_id
        self._environment = environment
        self._traceparent = traceparent

    async def create(
        self, name: str, scopes: Collection[str], *, actor: str, command_id: str, lifetime_ms: int | None = None
    ) -> CreatedKey:
        """Create a key. ``lifetime_ms`` is how long it works, MAX_LIFETIME_MS at most and by default.

        Raises KeyRequestError.
        """
        self._check(name, scopes, lifetime_ms)
        key_id = self._new_id("key").partition("_")[2]
        secret = "".join(secrets.choice(_ALPHABET) for _ in range(SECRET_LENGTH))
        event = ApiKeyCreated(
            key_id=key_id,
            name=name,
            scopes=sorted(set(scopes)),
            secret_hash=_hash(secret),
            expires_at=self._now() + (lifetime_ms or MAX_LIFETIME_MS),
            actor=actor,
        )
        recorded = await self._registry.record(
            f"api-key/{key_id}", [event], command_id=command_id, meta=self._meta(actor), expected_version=0
        )
        made: ApiKeyCreated = recorded[0].event
        return CreatedKey(
            key=self._format(key_id, secret) if made.key_id == key_id else None,
            key_id=made.key_id,
            name=made.name,
            scopes=made.scopes,
            expires_at=made.expires_at,
        )

    async def list(self) -> Sequence[ApiKey]:
        """All keys, the newest first."""
        return await self._registry.api_keys()

    async def revoke(self, key_id: str, *, actor: str, command_id: str) -> None:
        """End a key now; a key that has ended already stays as it is. Raises KeyNotFoundError."""
        key = await self._registry.api_key(key_id)
        if key is None:
            raise KeyNotFoundError(f"There is no API key {key_id}.")
        if key.revoked_at is None:
            await self._registry.record(
                f"api-key/{key_id}",
                [ApiKeyRevoked(key_id=key_id, actor=actor)],
                command_id=command_id,
                meta=self._meta(actor),
            )

    async def authenticate(self, presented: str) -> Principal:
        """The principal behind a presented key. Raises KeyInvalidError, KeyExpiredError."""
        found = _FORMAT.fullmatch(presented)
        if found is None or _checksum(presented[:-8]) != found[3]:
            raise KeyInvalidError
        key = await self._registry.api_key(found[1])
        matches = hmac.compare_digest(_hash(found[2]), _NOBODY if key is None else key.secret_hash)
        if key is None or not matches:
            raise KeyInvalidError
        if key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= self._now()):
            raise KeyExpiredError(f"API key {key.key_id} has expired or was revoked.")
        return Principal(name=key.name, key_id=key.key_id, scopes=frozenset(key.scopes))

    def _check(self, name: str, scopes: Collection[str], lifetime_ms: int | None) -> None:
        if not _NAME.fullmatch(name):
            raise KeyRequestError(f"{name!r} is not a name of a key: 1 to 64 of letters, digits and . _ @ + -.")
        if name in RESERVED:
            raise KeyRequestError(f"'{name}' is what the system calls itself in the log; choose another name.")
        if not scopes:
            raise KeyRequestError("A key needs at least one scope.")
        if unknown := sorted(set(scopes) - {scope.value for scope in Scope}):
            known = ", ".join(scope.value for scope in Scope)
            raise KeyRequestError(f"There is no scope {', '.join(map(repr, unknown))}; known are {known}.")
        if lifetime_ms is not None and not 0 < lifetime_ms <= MAX_LIFETIME_MS:
            raise KeyRequestError("A key lives for longer than nothing and for 366 days at most.")

    def _format(self, key_id: str, secret: str) -> str:
        body = f"ota_{self._environment}_{key_id}_{secret}"
        return body + _checksum(body)

    def _meta(self, actor: str) -> Meta:
        return Meta(actor=actor, traceparent=self._traceparent())


def _hash(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


def _checksum(body: str) -> str:
    return f"{crc32(body.encode()):08x}"
