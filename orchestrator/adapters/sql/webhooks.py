"""Webhooks on PostgreSQL: ``orchestrator.app.webhooks.WebhookStore`` and ``orchestrator.app.deliveries.DeliveryQueue``.

Like API keys, webhooks are changed together with their events and never replayed: a rebuild leaves these tables alone. Secrets are in
a table of their own, beside the log and in clear, because they have to sign: who reads the database can sign as we do. Deliveries are
a queue; what they say is in the log.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import asyncpg
import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.sql import event_log
from orchestrator.adapters.sql.engine import driver, transaction
from orchestrator.adapters.sql.locks import own_event_log
from orchestrator.app.deliveries import Attempt, Due, Queued, Subject, Subscription
from orchestrator.app.ports import Meta, Recorded
from orchestrator.app.queries import Key, Page
from orchestrator.app.webhooks import Delivery, Webhook
from schemas.registry_events import WebhookAdded, WebhookRemoved, WebhookTested

_WEBHOOK = "webhook_id, url, events, created_at, created_by"
_DELIVERY = "message_id, kind, position, state, attempts, status, error, created_at, next_at, settled_at"

_DUE = """
SELECT webhook_id, position, message_id, kind, body, attempts, url, secret FROM (
    SELECT d.*, w.url, s.secret, row_number() OVER (PARTITION BY d.webhook_id ORDER BY d.position) AS place
    FROM webhook_delivery d JOIN webhook w ON w.webhook_id = d.webhook_id AND w.removed_at IS NULL
    JOIN webhook_secret s ON s.webhook_id = d.webhook_id
    WHERE d.state = 'pending' AND d.next_at <= $1 AND d.webhook_id <> ALL($3::text[])
) q WHERE place <= $2 ORDER BY webhook_id, position"""


def _foreseen(remediation: dict[str, Any] | None) -> dict[str, Any] | None:
    """What a plan foresees; plans of before say nothing of it."""
    return None if remediation is None or remediation["kind"] == "none" else remediation


class SqlWebhooks:
    """Both ports; each call is a transaction of its own."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    # ---- WebhookStore

    async def add(self, event: WebhookAdded, secret: str, *, command_id: str, meta: Meta) -> tuple[Recorded, bool]:
        async with transaction(self._engine) as conn:
            item, new = await _append(conn, event, command_id, meta)
            if new:
                await conn.execute(
                    f"INSERT INTO webhook ({_WEBHOOK}, since) VALUES ($1, $2, $3, $4, $5, $6)",
                    *(event.webhook_id, event.url, event.events, item.recorded_at, event.actor, item.position),
                )
                await conn.execute(
                    "INSERT INTO webhook_secret (webhook_id, secret) VALUES ($1, $2)", event.webhook_id, secret
                )
            return item, new

    async def record(self, event: WebhookRemoved | WebhookTested, *, command_id: str, meta: Meta) -> Recorded:
        async with transaction(self._engine) as conn:
            item, new = await _append(conn, event, command_id, meta)
            if new and isinstance(event, WebhookRemoved):
                await conn.execute(
                    "UPDATE webhook SET removed_at = $2 WHERE webhook_id = $1 AND removed_at IS NULL",
                    *(event.webhook_id, item.recorded_at),
                )
                await conn.execute("DELETE FROM webhook_secret WHERE webhook_id = $1", event.webhook_id)
                await conn.execute("DELETE FROM webhook_delivery WHERE webhook_id = $1", event.webhook_id)
            return item

    async def webhooks(self) -> Sequence[Webhook]:
        rows = await self._fetch(f"SELECT {_WEBHOOK} FROM webhook WHERE removed_at IS NULL ORDER BY webhook_id DESC")
        return [msgspec.convert(dict(row), Webhook) for row in rows]

    async def webhook(self, webhook_id: str) -> Webhook | None:
        rows = await self._fetch(
            f"SELECT {_WEBHOOK} FROM webhook WHERE webhook_id = $1 AND removed_at IS NULL", webhook_id
        )
        return msgspec.convert(dict(rows[0]), Webhook) if rows else None

    async def secret(self, webhook_id: str) -> str | None:
        rows = await self._fetch("SELECT secret FROM webhook_secret WHERE webhook_id = $1", webhook_id)
        return rows[0]["secret"] if rows else None

    async def deliveries(self, webhook_id: str, limit: int, after: Key | None) -> Page[Delivery]:
        rows = await self._fetch(
            f"SELECT {_DELIVERY} FROM webhook_delivery WHERE webhook_id = $1 AND ($3::bigint IS NULL OR position < $3)"
            " ORDER BY position DESC LIMIT $2",
            *(webhook_id, limit + 1, None if after is None else after[0]),
        )
        items = [msgspec.convert(dict(row), Delivery) for row in rows[:limit]]
        return Page(items=items, after=(items[-1].position,) if len(rows) > limit else None)

    # ---- DeliveryQueue

    async def subscriptions(self) -> Sequence[Subscription]:
        rows = await self._fetch("SELECT webhook_id, events, since FROM webhook WHERE removed_at IS NULL")
        return [
            Subscription(webhook_id=row["webhook_id"], events=frozenset(row["events"]), since=row["since"])
            for row in rows
        ]

    async def subjects(self, campaign_ids: Collection[str]) -> Mapping[str, Subject]:
        rows = await self._fetch(
            "SELECT campaign_id, name, plan -> 'remediation' AS remediation FROM campaign WHERE campaign_id = ANY($1::text[])",
            sorted(campaign_ids),
        )
        return {
            row["campaign_id"]: Subject(name=row["name"], remediation=_foreseen(row["remediation"])) for row in rows
        }

    async def enqueue(self, queued: Sequence[Queued]) -> None:
        async with transaction(self._engine) as conn:
            await conn.executemany(
                "INSERT INTO webhook_delivery (webhook_id, position, message_id, kind, body, state, attempts, next_at, created_at)"
                " VALUES ($1, $2, $3, $4, $5, 'pending', 0, $6, $6) ON CONFLICT (webhook_id, position) DO NOTHING",
                [(q.webhook_id, q.position, q.message_id, q.kind, q.body, q.created_at) for q in queued],
            )

    async def due(self, now: int, limit: int, busy: Collection[str]) -> Sequence[Due]:
        rows = await self._fetch(_DUE, now, limit, sorted(busy))
        return [msgspec.convert(dict(row), Due) for row in rows]

    async def settle(self, sent: Due, attempt: Attempt, state: str, now: int, next_at: int | None) -> None:
        async with transaction(self._engine) as conn:
            await conn.execute(
                "UPDATE webhook_delivery SET state = $4, attempts = attempts + 1, status = $5, error = $6, next_at = $7,"
                " settled_at = $8 WHERE webhook_id = $1 AND position = $2 AND attempts = $3 AND state = 'pending'",
                *(sent.webhook_id, sent.position, sent.attempts, state, attempt.status, attempt.error, next_at),
                None if state == "pending" else now,
            )

    async def forget(self, before: int) -> int:
        async with transaction(self._engine) as conn:
            done = await conn.execute("DELETE FROM webhook_delivery WHERE settled_at < $1", before)
        return int(done.rpartition(" ")[2])

    async def _fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        async with driver(self._engine) as conn:
            return await conn.fetch(query, *args)


async def _append(
    conn: asyncpg.Connection, event: WebhookAdded | WebhookRemoved | WebhookTested, command_id: str, meta: Meta
) -> tuple[Recorded, bool]:
    """Append to the webhook's stream; False with what the command did before, if it did."""
    await own_event_log(conn)
    if done := await event_log.of_command(conn, command_id):
        return done[0], False
    stream = f"webhook/{event.webhook_id}"
    version: Any = await conn.fetchval("SELECT coalesce(max(version), 0) FROM event_log WHERE stream = $1", stream)
    (item,) = await event_log.append(conn, stream, version, [event], command_id=command_id, meta=meta)
    return item, True
