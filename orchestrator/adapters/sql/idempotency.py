"""Answers of POST requests by principal and key, so that a repeated request gets the first one's answer.

The effect itself is exactly once by its command id, which is made of the same principal and key; this table only remembers what was
answered. So a claim that was left behind by a crash may be taken over: the command then finds its own effect.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.sql.engine import driver, transaction
from orchestrator.app.idempotency import Claim, Claimed

KEPT_MS: Final = 7 * 86_400_000
"""How long an answer is remembered: longer than any client retries."""


class SqlIdempotency:
    """``orchestrator.app.idempotency.Answers`` on PostgreSQL."""

    def __init__(self, engine: AsyncEngine, *, lease_ms: int) -> None:
        """After ``lease_ms`` without an answer a claim counts as left behind."""
        self._engine = engine
        self._lease = lease_ms

    async def claim(self, principal: str, key: str, fingerprint: str, now: int) -> Claim:
        """Take the key for this request, or say what became of the request that took it."""
        async with transaction(self._engine) as conn:
            mine = await conn.fetchval(
                "INSERT INTO idempotency AS t (principal, key, fingerprint, created_at) VALUES ($1, $2, $3, $4)"
                " ON CONFLICT (principal, key) DO UPDATE SET fingerprint = excluded.fingerprint, status = NULL, body = NULL,"
                "   created_at = excluded.created_at"
                " WHERE t.created_at < $5 OR (t.status IS NULL AND t.fingerprint = excluded.fingerprint AND t.created_at < $6)"
                " RETURNING true",
                principal,
                key,
                fingerprint,
                now,
                now - KEPT_MS,
                now - self._lease,
            )
            if mine:
                return Claim(Claimed.NEW)
            row = await conn.fetchrow(
                "SELECT fingerprint, status, body FROM idempotency WHERE principal = $1 AND key = $2", principal, key
            )
        if row is None:
            return Claim(Claimed.IN_FLIGHT)  # released this moment: trying again is right
        if row["fingerprint"] != fingerprint:
            return Claim(Claimed.OTHER_REQUEST)
        if row["status"] is None:
            return Claim(Claimed.IN_FLIGHT)
        return Claim(Claimed.ANSWERED, row["status"], row["body"])

    async def finish(self, principal: str, key: str, status: int, body: dict[str, Any]) -> None:
        """Remember the answer."""
        async with driver(self._engine) as conn:
            await conn.execute(
                "UPDATE idempotency SET status = $3, body = $4::jsonb WHERE principal = $1 AND key = $2",
                principal,
                key,
                status,
                msgspec.json.encode(body).decode(),
            )

    async def release(self, principal: str, key: str) -> None:
        """Give the key back: the request failed and had no effect."""
        async with driver(self._engine) as conn:
            await conn.execute(
                "DELETE FROM idempotency WHERE principal = $1 AND key = $2 AND status IS NULL", principal, key
            )

    async def purge(self, now: int) -> int:
        """Forget old answers; returns how many."""
        async with driver(self._engine) as conn:
            done = await conn.execute("DELETE FROM idempotency WHERE created_at < $1", now - KEPT_MS)
        return int(done.split()[-1])
