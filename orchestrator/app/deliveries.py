"""Deliveries of webhooks: from the log into a queue, from the queue to the endpoints.

The consumer makes one row per endpoint and event, by the event's position, so that a repeated batch makes none twice. The sender takes
rows that are due, one after the other per endpoint and all endpoints at once, so that none waits for another. A crash between sending
and recording repeats the message under its id: receivers see everything at least once, and drop what they have by ``webhook-id``.

Not here: deciding anything. What is told has been in force since its commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, Final, Protocol

import structlog
from msgspec import Struct, json

from orchestrator import failpoints
from orchestrator.app.ports import Recorded
from orchestrator.app.registry import Clock
from orchestrator.domain.notification import AWAITING_VERDICT, HALTED, TEST, content, kind_of, pause_ms
from orchestrator.domain.signature import sign

POLL_MS: Final = 500
"""Pause between two looks at the queue."""

AT_ONCE: Final = 20
"""Messages of one endpoint that are taken from the queue at once."""

KEPT_MS: Final = 30 * 86_400_000
"""How long what was delivered, or has died, stays visible."""

FORGET_MS: Final = 3_600_000
"""Pause between two looks for what is older."""

ANSWERS: Final = "/v1/webhook-answers"
"""Where endpoints answer."""

CAMPAIGN: Final = "campaign/"

_log = structlog.get_logger(__name__)


class Subscription(Struct, frozen=True, kw_only=True):
    """An endpoint that is told of events beyond a position."""

    webhook_id: str
    events: frozenset[str]
    since: int


class Subject(Struct, frozen=True, kw_only=True):
    """A campaign, as far as it never changes."""

    name: str
    remediation: dict[str, Any] | None
    """What its plan foresees for the devices that it updated: kind and release; None if nothing."""


class Queued(Struct, frozen=True, kw_only=True):
    """A notification to one endpoint."""

    webhook_id: str
    position: int
    message_id: str
    kind: str
    body: str
    """Exactly what is signed and sent."""
    created_at: int


class Due(Struct, frozen=True, kw_only=True):
    """One that is to be sent now."""

    webhook_id: str
    position: int
    message_id: str
    kind: str
    body: str
    attempts: int
    """Made so far."""
    url: str
    secret: str


class Attempt(Struct, frozen=True, kw_only=True):
    """How an attempt ended."""

    status: int | None = None
    error: str | None = None

    @property
    def taken(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


class DeliveryQueue(Protocol):
    """The rows. Times are milliseconds since the epoch."""

    async def subscriptions(self) -> Sequence[Subscription]: ...

    async def subjects(self, campaign_ids: Collection[str]) -> Mapping[str, Subject]:
        """What notifications say of campaigns beside the event."""
        ...

    async def enqueue(self, queued: Sequence[Queued]) -> None:
        """All of them, in one transaction; what is there already stays as it is."""
        ...

    async def due(self, now: int, limit: int, busy: Collection[str]) -> Sequence[Due]:
        """At most ``limit`` of each endpoint that is not busy, in the order of the log."""
        ...

    async def settle(self, sent: Due, attempt: Attempt, state: str, now: int, next_at: int | None) -> None:
        """Record an attempt; nothing happens if somebody has recorded one meanwhile."""
        ...

    async def forget(self, before: int) -> int:
        """Drop what was settled before; how many."""
        ...


class Poster(Protocol):
    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Attempt:
        """One request, bounded in time; never raises for what the other side does."""
        ...


class WebhookConsumer:
    """``orchestrator.app.relay.Consumer`` that fills the queue.

    Args:
        queue: where to.
        public_url: how receivers reach the API.
    """

    name = "webhooks"

    def __init__(self, queue: DeliveryQueue, public_url: str) -> None:
        self._queue = queue
        self._public_url = public_url.rstrip("/")

    async def deliver(self, events: Sequence[Recorded]) -> None:
        told = [(event, kind) for event in events if (kind := kind_of(event.type, event.event)) is not None]
        if not told or not (subscriptions := await self._queue.subscriptions()):
            return
        ids = {event.stream.removeprefix(CAMPAIGN) for event, _ in told if event.stream.startswith(CAMPAIGN)}
        subjects = await self._queue.subjects(ids)
        await self._queue.enqueue(
            [
                self._queued(subscription, event, kind, subjects)
                for event, kind in told
                for subscription in subscriptions
                if event.position > subscription.since and _wants(subscription, event, kind)
            ]
        )

    def _queued(
        self, subscription: Subscription, event: Recorded, kind: str, subjects: Mapping[str, Subject]
    ) -> Queued:
        subject: dict[str, Any] = {"position": event.position}
        if event.stream.startswith(CAMPAIGN):
            campaign_id = event.stream.removeprefix(CAMPAIGN)
            found = subjects.get(campaign_id)
            subject |= {"campaign_id": campaign_id, "name": found and found.name}
            if kind == HALTED and found is not None and found.remediation is not None:
                subject["remediation"] = found.remediation
        data = content(event.event, subject)
        if kind == AWAITING_VERDICT:
            data["answer_url"] = f"{self._public_url}{ANSWERS}?webhook={subscription.webhook_id}"
        body = {"type": kind, "timestamp": _rfc3339(event.recorded_at), "data": data}
        return Queued(
            webhook_id=subscription.webhook_id,
            position=event.position,
            message_id=event.event_id,
            kind=kind,
            body=json.encode(body).decode(),
            created_at=event.recorded_at,
        )


def _wants(subscription: Subscription, event: Recorded, kind: str) -> bool:
    if kind == TEST:
        return event.event.webhook_id == subscription.webhook_id
    return kind in subscription.events


class WebhookSender:
    """Sends what is due until it is cancelled; one at a time in a deployment, two for a moment do no harm.

    Args:
        queue: where from.
        poster: how.
        now: milliseconds since the epoch.
        dice: in [0, 1), for the pauses.
        counted: is told the kind of each notification and what became of an attempt: delivered, failed or dead.
        poll_ms: between two looks at the queue.
    """

    def __init__(
        self,
        queue: DeliveryQueue,
        poster: Poster,
        *,
        now: Clock,
        dice: Callable[[], float],
        counted: Callable[[str, str], None] = lambda _, __: None,
        poll_ms: int = POLL_MS,
    ) -> None:
        self._queue = queue
        self._poster = poster
        self._now = now
        self._dice = dice
        self._counted = counted
        self._poll = poll_ms / 1_000
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._forgot_at = 0

    async def run(self) -> None:
        """Look, send, record, for ever."""
        try:
            while True:
                try:
                    await self._look()
                except Exception as error:  # noqa: BLE001 (a database that restarts: the next look finds the same)
                    _log.warning("webhooks.queue_unread", error=repr(error))
                await asyncio.sleep(self._poll)
        finally:
            serving = list(self._busy.values())
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)
            self._busy.clear()

    async def _look(self) -> None:
        now = self._now()
        if now >= self._forgot_at + FORGET_MS:
            await self._queue.forget(now - KEPT_MS)
            self._forgot_at = now
        self._busy = {webhook_id: task for webhook_id, task in self._busy.items() if not task.done()}
        due = await self._queue.due(now, AT_ONCE, list(self._busy))
        for webhook_id, messages in groupby(due, key=lambda each: each.webhook_id):
            self._busy[webhook_id] = asyncio.create_task(self._serve(list(messages)))

    async def _serve(self, messages: Sequence[Due]) -> None:
        for message in messages:
            try:
                await self._send(message)
            except Exception as error:  # noqa: BLE001 (not recorded: it is still due, and is sent again under its id)
                _log.warning("webhooks.not_recorded", webhook=message.webhook_id, error=repr(error))
                return

    async def _send(self, message: Due) -> None:
        body, timestamp = message.body.encode(), self._now() // 1_000
        headers = {
            "content-type": "application/json",
            "user-agent": "bellwether",
            "webhook-id": message.message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(message.secret, message.message_id, timestamp, body),
        }
        attempt = await self._poster.post(message.url, headers, body)
        failpoints.hit("webhook.before_record")
        now, pause = self._now(), pause_ms(message.attempts + 1, self._dice())
        if attempt.taken:
            state, result, next_at = "delivered", "delivered", None
        elif pause is None:
            state, result, next_at = "dead", "dead", None
            _log.error(
                "webhooks.dead",
                webhook=message.webhook_id,
                message=message.message_id,
                status=attempt.status,
                error=attempt.error,
            )
        else:
            state, result, next_at = "pending", "failed", now + pause
        await self._queue.settle(message, attempt, state, now, next_at)
        self._counted(message.kind, result)


def _rfc3339(ms: int) -> str:
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
