"""``Idempotency-Key``: a repeated POST gets the first one's answer.

The effect is exactly once by the command id ``principal/key`` of the event log, whatever happens to the answer. Only successes are
remembered: a refused request had no effect, so it may be corrected and sent again under the same key. Secrets are not remembered: the
route says with ``scope["state"]["remember"]`` what to keep instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final
from uuid import uuid4

import msgspec
import structlog
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator import failpoints
from orchestrator.app.idempotency import Answers, Claim, Claimed
from orchestrator.app.keys import Principal
from orchestrator.errors import ConflictError, InvalidInputError

MAX_KEY: Final = 200
"""Characters of a key; a UUID has 36."""

_KEPT_HEADERS: Final = ("etag", "location")

_log = structlog.get_logger(__name__)


class KeyFormatError(InvalidInputError):
    """The Idempotency-Key is not usable."""

    code = "idempotency.key"
    status = 400
    remedy = f"Send 1 to {MAX_KEY} printable ASCII characters without blanks, such as a UUID."


class KeyReusedError(InvalidInputError):
    """The Idempotency-Key was used for another request."""

    code = "idempotency.key_reused"
    remedy = "Use a fresh key for each new request."


class InFlightError(ConflictError):
    """A request with this Idempotency-Key is still running."""

    code = "idempotency.in_flight"
    remedy = "Send the same request again in a moment."


class IdempotencyMiddleware:
    """Sets ``scope["state"]["command_id"]``, remembers and repeats answers.

    Args:
        app: the application.
        answers: where answers are kept.
        now: milliseconds since the epoch.
    """

    def __init__(self, app: ASGIApp, answers: Answers, now: Callable[[], int]) -> None:
        self._app = app
        self._answers = answers
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (principal := scope["state"].get("principal")) is None:
            await self._app(scope, receive, send)
            return
        assert isinstance(principal, Principal)
        key = _key(scope) if scope["method"] == "POST" else None
        scope["state"]["command_id"] = f"{principal.key_id}/{key or uuid4()}"
        if key is None:
            await self._app(scope, receive, send)
            return
        claim = await self._answers.claim(principal.key_id, key, _fingerprint(scope), self._now())
        match claim.outcome:
            case Claimed.NEW:
                await self._perform(scope, receive, send, principal.key_id, key)
            case Claimed.ANSWERED:
                await _repeat(claim)(scope, receive, send)
            case Claimed.IN_FLIGHT:
                raise InFlightError(retry_after=1)
            case Claimed.OTHER_REQUEST:
                raise KeyReusedError

    async def _perform(self, scope: Scope, receive: Receive, send: Send, principal: str, key: str) -> None:
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        done = False
        try:
            await self._app(scope, receive, keep)
            done = messages[0]["status"] < 300
        finally:
            if not done:
                # Also when the client has gone and this task is being cancelled.
                await asyncio.shield(self._release(principal, key))
        if done:
            failpoints.hit("api.before_remember")
            await self._remember(scope, messages, principal, key)
            failpoints.hit("api.before_answer")
        for message in messages:
            await send(message)

    async def _remember(self, scope: Scope, messages: list[Message], principal: str, key: str) -> None:
        start, *rest = messages
        headers = {name.decode().lower(): value.decode() for name, value in start["headers"]}
        body = b"".join(message.get("body", b"") for message in rest)
        content = scope["state"].get("remember", msgspec.json.decode(body) if body else None)
        answer = {"headers": {k: v for k, v in headers.items() if k in _KEPT_HEADERS}, "content": content}
        try:
            await self._answers.finish(principal, key, start["status"], answer)
        except Exception as error:  # noqa: BLE001 (the effect stands and must be answered)
            _log.warning("answer not remembered", principal=principal, error=repr(error))

    async def _release(self, principal: str, key: str) -> None:
        try:
            await self._answers.release(principal, key)
        except Exception as error:  # noqa: BLE001 (what went wrong before is the answer)
            _log.warning("key not released; it is free after its lease", principal=principal, error=repr(error))


def _repeat(claim: Claim) -> JSONResponse:
    assert claim.body is not None
    assert claim.status is not None
    headers = {**claim.body["headers"], "Idempotency-Replayed": "true"}
    return JSONResponse(claim.body["content"], claim.status, headers)


def _key(scope: Scope) -> str | None:
    values = [value for name, value in scope["headers"] if name == b"idempotency-key"]
    if not values:
        return None
    key = values[0].decode("latin-1")
    if len(values) > 1 or not 0 < len(key) <= MAX_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise KeyFormatError
    return key


def _fingerprint(scope: Scope) -> str:
    """Digest of the request. A streamed body is not in it; its declared length is, and its digest if the address states one."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    body: Any = scope["state"].get("body", headers.get(b"content-length", b""))
    parts = (scope["method"].encode(), scope["path"].encode(), scope.get("query_string", b""), body)
    return sha256(b"\0".join(parts)).hexdigest()
