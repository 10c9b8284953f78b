"""Who a device is and whether it may say so, with a bounded memory in front of the table.

Only a digest of each token is stored; tokens are 256-bit random, so a plain sha256 resists guessing. An unknown device and a wrong
token give the same answer by the same path. Lookups that arrive together are one query.
"""

from __future__ import annotations

import hmac
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, Final

import asyncpg
import msgspec
import structlog
from msgspec.structs import replace
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.sql.engine import RETRYABLE, driver
from orchestrator.adapters.sql.grouping import Grouped
from orchestrator.domain.profile import Profile, ProfileError, parse_profile
from orchestrator.errors import UnavailableError

CACHE_SIZE: Final = 100_000
"""Devices kept in memory, about 0.5 kB each; the ones not seen for longest go first."""

KNOWN_TTL: Final = 60.0
"""Seconds a known device is remembered: how long a withdrawn token still works."""

UNKNOWN_TTL: Final = 2.0
"""Seconds an unknown device is remembered: how long a new one may have to wait, and what a flood of made-up ids is held off with."""

MISMATCH_AGE: Final = 1.0
"""Seconds after which a wrong token makes us look again: how soon a newly issued token works."""

MAX_LOOKUP: Final = 1_000
"""Most devices of one query."""

_LOOKUP: Final = """SELECT i.device_no, i.device_id, i.hardware_model, i.token_hash, m.profile::text AS profile,
    d.reported_at IS NULL OR EXISTS (SELECT 1 FROM assignment a
        WHERE a.device_no = i.device_no AND a.state = 'confirmed' AND a.changed_at > d.reported_at) AS attributes_wanted
FROM device_identity i
LEFT JOIN device d ON d.device_no = i.device_no
LEFT JOIN hardware_model m ON m.name = i.hardware_model
WHERE i.device_id = ANY($1::text[])"""

_NOBODY: Final = sha256(b"").hexdigest()

_log = structlog.get_logger(__name__)


class Identity(msgspec.Struct, frozen=True, gc=False):
    """A registered device. Without cycles, so that the collector need not walk over a whole fleet."""

    device_no: int
    device_id: str
    hardware_model: str
    token_hash: str | None
    profile: Profile
    attributes_wanted: bool
    """It has not stated its attributes since it was registered, or since it last confirmed an update."""


class _Entry(msgspec.Struct, frozen=True, gc=False):
    identity: Identity | None
    read_at: float

    def fresh(self, now: float) -> bool:
        return now - self.read_at < (UNKNOWN_TTL if self.identity is None else KNOWN_TTL)


class SqlIdentities:
    """Registered devices; one per gateway process."""

    def __init__(self, engine: AsyncEngine, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._profiles: dict[str, Profile] = {}
        self._lookups: Grouped[str, Identity] = Grouped(self._look_up, MAX_LOOKUP)

    async def authenticate(self, device_id: str, token: str, *, attributes: bool = False) -> Identity | None:
        """The device, if this is its token; None for a wrong token and for an unknown device.

        Args:
            device_id: as the device names itself.
            token: as the device presents it.
            attributes: whether ``attributes_wanted``, where true, must be as new as this call: another gateway may have taken
                them since, and a client that is asked in vain comes back at once.

        Raises:
            UnavailableError: the database does not answer.
        """
        digest = sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
        now = self._clock()
        entry = self._entries.get(device_id)
        if entry is None or not entry.fresh(now):
            return _verified(await self._read(device_id), digest)
        self._entries.move_to_end(device_id)
        identity = _verified(entry.identity, digest)
        stale = (
            attributes and identity.attributes_wanted
            if identity is not None
            else entry.identity is not None and now - entry.read_at > MISMATCH_AGE
        )
        return _verified(await self._read(device_id), digest) if stale else identity

    def attributes_reported(self, device_id: str) -> None:
        """Remember that a device has just stated its attributes."""
        entry = self._entries.get(device_id)
        if entry is not None and entry.identity is not None:
            self._entries[device_id] = replace(entry, identity=replace(entry.identity, attributes_wanted=False))

    def forget(self, device_id: str) -> None:
        """Look the device up again the next time it comes."""
        self._entries.pop(device_id, None)

    async def _read(self, device_id: str) -> Identity | None:
        if "\0" in device_id:
            return None  # PostgreSQL's text holds no NUL
        return await self._lookups.ask(device_id)

    async def _look_up(self, device_ids: Sequence[str]) -> dict[str, Identity]:
        try:
            found = await self._query(device_ids)
        except (SQLAlchemyError, *RETRYABLE) as error:
            raise UnavailableError(f"The device registry cannot be read: {error!r}.") from error
        now = self._clock()
        for device_id in device_ids:
            self._remember(device_id, _Entry(found.get(device_id), now))
        return found

    async def _query(self, device_ids: Sequence[str]) -> dict[str, Identity]:
        async with driver(self._engine) as conn:
            rows: list[asyncpg.Record] = await conn.fetch(_LOOKUP, device_ids)
        return {row["device_id"]: self._identity(row) for row in rows}

    def _identity(self, row: asyncpg.Record) -> Identity:
        return Identity(
            device_no=row["device_no"],
            device_id=row["device_id"],
            hardware_model=row["hardware_model"],
            token_hash=row["token_hash"],
            profile=self._profile(row["hardware_model"], row["profile"]),
            attributes_wanted=row["attributes_wanted"],
        )

    def _profile(self, hardware_model: str, stored: str | None) -> Profile:
        # A model's profile never changes, so it is read once.
        known = self._profiles.get(hardware_model)
        if known is not None or stored is None:
            return known or Profile()
        try:
            profile = parse_profile(msgspec.json.decode(stored, type=dict[str, Any]))
        except (ProfileError, msgspec.DecodeError) as error:
            _log.error("hardware_model.invalid_profile", hardware_model=hardware_model, error=str(error))
            profile = Profile()
        self._profiles[hardware_model] = profile
        return profile

    def _remember(self, device_id: str, entry: _Entry) -> None:
        self._entries[device_id] = entry
        self._entries.move_to_end(device_id)
        while len(self._entries) > CACHE_SIZE:
            self._entries.popitem(last=False)


def _verified(identity: Identity | None, digest: str) -> Identity | None:
    expected = _NOBODY if identity is None or identity.token_hash is None else identity.token_hash
    matches = hmac.compare_digest(digest, expected)
    return identity if matches and identity is not None and identity.token_hash is not None else None
