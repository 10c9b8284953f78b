"""What exists: ``orchestrator.app.registry.Registry`` on PostgreSQL.

Two kinds of rows follow from a registry event. Projections are made again by a rebuild (:func:`project`). Identities, that is tokens
and API keys, are changed together with the event and never replayed: an old token must not come back while a rebuild runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg
import msgspec
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.sql import event_log
from orchestrator.adapters.sql.engine import driver, transaction
from orchestrator.adapters.sql.locks import own_event_log
from orchestrator.app.ports import Meta, Recorded, VersionConflictError
from orchestrator.app.registry import (
    AlreadyExistsError,
    ApiKey,
    Artifact,
    DeviceNotFoundError,
    HardwareModel,
    Release,
    ReleaseNotFoundError,
    TrustedKey,
)
from schemas import registry_events as e


async def project(conn: asyncpg.Connection, item: Recorded) -> None:
    """Write the projected rows that follow from one event; used by the append and by the rebuild."""
    event, at = item.event, item.recorded_at
    match event:
        case e.HardwareModelCreated():
            await conn.execute(
                "INSERT INTO hardware_model (name, profile, created_at) VALUES ($1, $2::jsonb, $3)",
                *(event.name, _json(event.profile), at),
            )
        case e.TrustedKeyAdded():
            await conn.execute(
                "INSERT INTO trusted_key (key_id, hardware_model, algorithm, pem, added_at) VALUES ($1, $2, $3, $4, $5)",
                *(event.key_id, event.hardware_model, event.algorithm, event.pem, at),
            )
        case e.ArtifactStored():
            await conn.execute(
                "INSERT INTO artifact (sha256, hardware_model, sha1, md5, size, filename, image, stored_at)"
                " VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb, $8)",
                *(event.sha256, event.hardware_model, event.sha1, event.md5, event.size, event.filename),
                *(_json(event.image), at),
            )
        case e.ReleaseRegistered():
            await conn.execute(
                "INSERT INTO release (release_id, name, version, artifacts, digest, created_at, components)"
                " VALUES ($1, $2, $3, $4::jsonb, $5, $6, $7::jsonb)",
                *(event.release_id, event.name, event.version, _json(event.artifacts), event.digest, at),
                _json(event.components),
            )
        case e.DevicesRegistered():
            await conn.copy_records_to_table(
                "device",
                columns=["device_no", "device_id", "hardware_model", "attributes", "registered_at"],
                records=[(d.device_no, d.device_id, d.hardware_model, _json(d.attributes), at) for d in event.devices],
            )
        case _:
            pass


async def _identify(conn: asyncpg.Connection, item: Recorded) -> None:
    """Change the identities that the event is about."""
    event, at = item.event, item.recorded_at
    match event:
        case e.DevicesRegistered():
            await conn.copy_records_to_table(
                "device_identity",
                columns=["device_no", "device_id", "hardware_model", "token_hash", "registered_at"],
                records=[(d.device_no, d.device_id, d.hardware_model, d.token_hash, at) for d in event.devices],
            )
        case e.DeviceTokenIssued():
            await conn.execute(
                "UPDATE device_identity SET token_hash = $2 WHERE device_no = $1", event.device_no, event.token_hash
            )
        case e.ApiKeyCreated():
            await conn.execute(
                "INSERT INTO api_key (key_id, name, scopes, secret_hash, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6)",
                *(event.key_id, event.name, event.scopes, event.secret_hash, at, event.expires_at),
            )
        case e.ApiKeyRevoked():
            await conn.execute(
                "UPDATE api_key SET revoked_at = $2 WHERE key_id = $1 AND revoked_at IS NULL", event.key_id, at
            )
        case _:
            pass


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


class SqlRegistry:
    """``orchestrator.app.registry.Registry`` on PostgreSQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def record(
        self,
        stream: str,
        events: Sequence[Struct],
        *,
        command_id: str,
        meta: Meta,
        expected_version: int | None = None,
    ) -> list[Recorded]:
        try:
            async with transaction(self._engine) as conn:
                # First of all locks here, so that of two of the same command the second finds what the first did.
                await own_event_log(conn)
                if done := await event_log.of_command(conn, command_id):
                    return done
                version: Any = await conn.fetchval(
                    "SELECT coalesce(max(version), 0) FROM event_log WHERE stream = $1", stream
                )
                if expected_version is not None and expected_version != version:
                    raise VersionConflictError(f"Stream {stream} is at version {version}, expected {expected_version}.")
                appended = await event_log.append(conn, stream, version, events, command_id=command_id, meta=meta)
                for item in appended:
                    await _identify(conn, item)
                    await project(conn, item)
                return appended
        except asyncpg.UniqueViolationError as why:
            raise AlreadyExistsError(f"{why}.") from why

    async def done(self, command_id: str) -> list[Recorded]:
        async with driver(self._engine) as conn:
            return await event_log.of_command(conn, command_id)

    async def hardware_models(self, names: Sequence[str]) -> dict[str, HardwareModel]:
        rows = await self._fetch(
            "SELECT name, profile, created_at FROM hardware_model WHERE name = ANY($1::text[])", list(names)
        )
        return {row["name"]: msgspec.convert(dict(row), HardwareModel) for row in rows}

    async def trusted_keys(self, hardware_model: str) -> list[TrustedKey]:
        rows = await self._fetch(
            "SELECT key_id, hardware_model, algorithm, pem, added_at FROM trusted_key WHERE hardware_model = $1"
            " ORDER BY added_at, key_id",
            hardware_model,
        )
        return [msgspec.convert(dict(row), TrustedKey) for row in rows]

    async def highest_counter(self, hardware_model: str) -> int | None:
        rows = await self._fetch(
            "SELECT max((image->>'security_counter')::bigint) AS highest FROM artifact WHERE hardware_model = $1",
            hardware_model,
        )
        return rows[0]["highest"]

    async def artifact(self, sha256: str, hardware_model: str) -> Artifact | None:
        rows = await self._fetch(
            f"SELECT {ARTIFACT} FROM artifact WHERE sha256 = $1 AND hardware_model = $2", sha256, hardware_model
        )
        return msgspec.convert(dict(rows[0]), Artifact) if rows else None

    async def release(self, release_id: str) -> Release:
        rows = await self._fetch(f"SELECT {RELEASE} FROM release WHERE release_id = $1", release_id)
        if not rows:
            raise ReleaseNotFoundError(f"There is no release {release_id[:64]!r}.")
        return msgspec.convert(dict(rows[0]), Release)

    async def registered(self, device_ids: Sequence[str]) -> list[str]:
        rows = await self._fetch(
            "SELECT device_id FROM device_identity WHERE device_id = ANY($1::text[]) ORDER BY device_id",
            list(device_ids),
        )
        return [row["device_id"] for row in rows]

    async def device_no(self, device_id: str) -> int:
        rows = await self._fetch("SELECT device_no FROM device_identity WHERE device_id = $1", device_id)
        if not rows:
            raise DeviceNotFoundError(f"There is no device {device_id[:64]!r}.")
        return rows[0]["device_no"]

    async def device_numbers(self, count: int) -> list[int]:
        rows = await self._fetch("SELECT nextval('device_no')::int AS no FROM generate_series(1, $1)", count)
        return [row["no"] for row in rows]

    async def api_key(self, key_id: str) -> ApiKey | None:
        rows = await self._fetch(f"SELECT {_API_KEY} FROM api_key WHERE key_id = $1", key_id)
        return msgspec.convert(dict(rows[0]), ApiKey) if rows else None

    async def api_keys(self) -> list[ApiKey]:
        rows = await self._fetch(f"SELECT {_API_KEY} FROM api_key ORDER BY key_id DESC")
        return [msgspec.convert(dict(row), ApiKey) for row in rows]

    async def _fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        async with driver(self._engine) as conn:
            return await conn.fetch(query, *args)


ARTIFACT = "sha256, hardware_model, sha1, md5, size, filename, image, stored_at"
RELEASE = "release_id, name, version, artifacts, digest, created_at, components"
_API_KEY = "key_id, name, scopes, secret_hash, created_at, expires_at, revoked_at"
