"""Webhooks: endpoints that are told of decisions, and their signed answers.

Registering and removing are events; a secret never is. It is made here, shown once, and kept where the sender finds it
(``WebhookStore``). An answer speaks for an external gate with the endpoint's signature in the place of an API key. The signature
covers the body, not the address, so the body names campaign, phase, gate and gate epoch; the message's id is the command id, so a
repeated message is one verdict; and a notification of ours that somebody sends back is no answer, because it has another form.

Not here: turning events into deliveries and sending them (``deliveries``).
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from msgspec import Struct

from orchestrator.app.ports import Meta, Recorded
from orchestrator.app.queries import Key, Page
from orchestrator.app.registry import Clock, NewId, Traceparent, untraced
from orchestrator.app.verdicts import ExternalVerdicts, Given
from orchestrator.domain.notification import AWAITING_VERDICT, KINDS
from orchestrator.domain.signature import PREFIX, verified
from orchestrator.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError, UnauthorizedError
from schemas.registry_events import WebhookAdded, WebhookRemoved, WebhookTested

SECRET_BYTES: Final = 32
"""Of a secret: what HMAC-SHA256 can use, and within the 24 to 64 bytes of the specification."""

MAX_URL: Final = 2_000
"""Characters of an address."""

MAX_WEBHOOKS: Final = 100
"""Endpoints of a deployment: each event is a row for each of them, and each is served by a task of its own."""

MAX_MESSAGE_ID: Final = 200
"""Characters of the id of an answer; a UUID has 36."""


class WebhookRequestError(InvalidInputError):
    """The webhook cannot be added as asked."""

    code = "webhook.request"


class TooManyWebhooksError(ConflictError):
    """There are as many webhooks as there may be."""

    code = "webhook.limit"
    remedy = "Remove one that nobody listens to: `ota webhook list`."


class WebhookNotFoundError(NotFoundError):
    """There is no such webhook."""

    code = "webhook.not_found"
    remedy = "`ota webhook list` shows them."


class SignatureError(UnauthorizedError):
    """The answer is not signed by that webhook's secret, or not fresh."""

    code = "webhook.signature"
    remedy = "Sign `id.timestamp.body` as the Standard Webhooks specification says, with the secret of the webhook, when you send it."


class NotAskedError(ForbiddenError):
    """The webhook is not subscribed to phase.awaiting_verdict, so it has nothing to answer."""

    code = "webhook.answer.not_asked"
    remedy = f"Subscribe it to {AWAITING_VERDICT}, or give the verdict with an API key."


class Webhook(Struct, frozen=True, kw_only=True):
    webhook_id: str
    url: str
    events: list[str]
    created_at: int
    created_by: str


class CreatedWebhook(Webhook, frozen=True, kw_only=True):
    """``secret`` is shown once: a repeated command gives None."""

    secret: str | None


class Delivery(Struct, frozen=True, kw_only=True):
    """What became of one notification at one endpoint."""

    message_id: str
    kind: str
    position: int
    """Of the event in the log."""
    state: str
    """pending, delivered or dead."""
    attempts: int
    status: int | None
    """HTTP status of the last attempt, if there was an answer."""
    error: str | None
    created_at: int
    next_at: int | None
    """Of a pending one: when it is tried next, ms."""
    settled_at: int | None


class WebhookStore(Protocol):
    """Webhooks with their events, and their secrets beside the log."""

    async def add(self, event: WebhookAdded, secret: str, *, command_id: str, meta: Meta) -> tuple[Recorded, bool]:
        """Append and keep the secret, in one transaction. False if the command had taken effect before: no secret is kept then."""
        ...

    async def record(self, event: WebhookRemoved | WebhookTested, *, command_id: str, meta: Meta) -> Recorded:
        """Append. A removal forgets the secret and what was to be delivered, in the same transaction."""
        ...

    async def webhooks(self) -> Sequence[Webhook]:
        """Those that were not removed, the newest first."""
        ...

    async def webhook(self, webhook_id: str) -> Webhook | None:
        """None also for a removed one."""
        ...

    async def secret(self, webhook_id: str) -> str | None: ...

    async def deliveries(self, webhook_id: str, limit: int, after: Key | None) -> Page[Delivery]:
        """The newest first."""
        ...


class Webhooks:
    """Add, list, remove, try out; and take answers."""

    def __init__(
        self,
        store: WebhookStore,
        verdicts: ExternalVerdicts,
        *,
        now: Clock,
        new_id: NewId,
        traceparent: Traceparent = untraced,
    ) -> None:
        self._store = store
        self._verdicts = verdicts
        self._now = now
        self._new_id = new_id
        self._traceparent = traceparent

    async def add(self, url: str, events: Sequence[str], *, actor: str, command_id: str) -> CreatedWebhook:
        """Tell ``url`` of these events from now on. Raises WebhookRequestError, TooManyWebhooksError."""
        _check(url, events)
        if len(await self._store.webhooks()) >= MAX_WEBHOOKS:
            raise TooManyWebhooksError(f"There are {MAX_WEBHOOKS} webhooks already.")
        secret = PREFIX + b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
        webhook_id = self._new_id("wh")
        event = WebhookAdded(webhook_id=webhook_id, url=url, events=sorted(set(events)), actor=actor)
        recorded, new = await self._store.add(event, secret, command_id=command_id, meta=self._meta(actor))
        made: WebhookAdded = recorded.event
        return CreatedWebhook(
            webhook_id=made.webhook_id,
            url=made.url,
            events=made.events,
            created_at=recorded.recorded_at,
            created_by=made.actor,
            secret=secret if new else None,
        )

    async def list(self) -> Sequence[Webhook]:
        """Those that are told of events, the newest first."""
        return await self._store.webhooks()

    async def remove(self, webhook_id: str, *, actor: str, command_id: str) -> None:
        """Tell it nothing more, also nothing that was still to be delivered. Raises WebhookNotFoundError."""
        await self._require(webhook_id)
        event = WebhookRemoved(webhook_id=webhook_id, actor=actor)
        await self._store.record(event, command_id=command_id, meta=self._meta(actor))

    async def test(self, webhook_id: str, *, actor: str, command_id: str) -> Delivery:
        """Send it a notification without meaning, on the way that every other one takes. Raises WebhookNotFoundError."""
        await self._require(webhook_id)
        event = WebhookTested(webhook_id=webhook_id, actor=actor)
        recorded = await self._store.record(event, command_id=command_id, meta=self._meta(actor))
        return Delivery(
            message_id=recorded.event_id,
            kind="webhook.test",
            position=recorded.position,
            state="pending",
            attempts=0,
            status=None,
            error=None,
            created_at=recorded.recorded_at,
            next_at=recorded.recorded_at,
            settled_at=None,
        )

    async def deliveries(self, webhook_id: str, limit: int, after: Key | None) -> Page[Delivery]:
        """What it was told, the newest first. Raises WebhookNotFoundError."""
        await self._require(webhook_id)
        return await self._store.deliveries(webhook_id, limit, after)

    async def check_answer(self, webhook_id: str, headers: Mapping[str, str], body: bytes) -> str:
        """The command id of an answer that is signed by the webhook and fresh. Raises SignatureError, NotAskedError."""
        message_id = headers.get("webhook-id", "")
        secret = await self._store.secret(webhook_id)
        signed = verified(
            secret or _NOBODY,
            message_id,
            headers.get("webhook-timestamp", ""),
            headers.get("webhook-signature", ""),
            body,
            self._now() // 1_000,
        )
        well_formed = 0 < len(message_id) <= MAX_MESSAGE_ID and message_id.isascii() and message_id.isprintable()
        if secret is None or not signed or not well_formed:
            raise SignatureError
        webhook = await self._require(webhook_id)
        if AWAITING_VERDICT not in webhook.events:
            raise NotAskedError
        return f"webhook/{webhook_id}/{message_id}"

    async def answer(self, webhook_id: str, command_id: str, said: Mapping[str, Any]) -> Given:
        """Give the verdict of a checked answer. Raises what ``ExternalVerdicts.give`` raises."""
        return await self._verdicts.give(
            said["campaign_id"],
            said["phase"],
            said["gate"],
            said["verdict"],
            said["reason"],
            actor=f"webhook:{webhook_id}",
            command_id=command_id,
            evidence=said["evidence_url"],
            gate_epoch=said["gate_epoch"],
        )

    async def _require(self, webhook_id: str) -> Webhook:
        webhook = await self._store.webhook(webhook_id)
        if webhook is None:
            raise WebhookNotFoundError(f"There is no webhook {webhook_id[:64]!r}.")
        return webhook

    def _meta(self, actor: str) -> Meta:
        return Meta(actor=actor, traceparent=self._traceparent())


_NOBODY: Final = PREFIX + b64encode(bytes(SECRET_BYTES)).decode()
"""Compared with where there is no secret, so that an unknown webhook takes as long as a wrong signature."""


def _check(url: str, events: Sequence[str]) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
        parts = urlsplit("")
    if not usable or len(url) > MAX_URL or not url.isascii() or not url.isprintable() or " " in url:
        raise WebhookRequestError(f"{url[:100]!r} is no http or https address of at most {MAX_URL} ASCII characters.")
    if parts.username is not None or parts.fragment:
        raise WebhookRequestError(
            "The address holds credentials or a fragment.",
            remedy="The address is kept in the log: what proves who sends is the signature.",
        )
    if not events:
        raise WebhookRequestError("A webhook needs at least one event.")
    if unknown := sorted(set(events) - set(KINDS)):
        raise WebhookRequestError(f"There is no event {', '.join(map(repr, unknown))}; known are {', '.join(KINDS)}.")
