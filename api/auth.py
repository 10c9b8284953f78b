"""Who is asking: a bearer API key, looked up once per request, before a byte of the body is read."""

from __future__ import annotations

from typing import Final, Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from orchestrator.app.keys import KeyInvalidError, Principal

ANSWERS: Final = "/v1/webhook-answers"
"""Answers to webhooks, which prove by a signature of the body who sends them."""

PUBLIC: Final = frozenset({"/healthz", "/readyz", "/metrics", "/openapi.json", ANSWERS})
"""Paths that need no key: probes, scrapers, the description of the API, which holds no secret, and answers that are signed."""


class Keys(Protocol):
    async def authenticate(self, presented: str) -> Principal:
        """Raises KeyInvalidError, KeyExpiredError."""
        ...


class KeyMissingError(KeyInvalidError):
    """No API key was presented."""

    code = "auth.key.missing"


class AuthMiddleware:
    """Puts the principal into ``scope["state"]["principal"]``; everything that is not public needs one."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in PUBLIC:
            scope["state"]["principal"] = await self._keys.authenticate(_presented(scope))
        await self._app(scope, receive, send)


def _presented(scope: Scope) -> str:
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if not values:
        raise KeyMissingError
    kind, _, key = values[0].decode("latin-1").partition(" ")
    if len(values) > 1 or kind.lower() != "bearer":
        raise KeyInvalidError("The header Authorization does not hold one bearer key.")
    return key.strip()
