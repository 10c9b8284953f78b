"""How often one API key may ask: a token bucket per key, 429 with Retry-After beyond.

Halting is free: an emergency stop is never refused for what the same key asked before.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import ceil
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from api.limits import TokenBuckets, TooManyRequestsError
from api.problems import of_error
from orchestrator.app.keys import Principal
from orchestrator.config import Settings

KEYS: Final = 10_000
"""API keys remembered, about 300 bytes each; deployments have tens."""

_HALT: Final = re.compile(r"/v1/campaigns/[^/]+/halt")


class KeyLimitError(TooManyRequestsError):
    """The API key asks more often than it may."""

    code = "limit.api_key"


class KeyLimitMiddleware:
    """Stands behind authentication and before a byte of the body is read.

    Args:
        app: the application.
        settings: ``api_key_rate`` and ``api_key_burst``.
        clock: monotonic seconds.
    """

    def __init__(self, app: ASGIApp, settings: Settings, clock: Callable[[], float]) -> None:
        self._app = app
        self._buckets = TokenBuckets(settings.api_key_rate, settings.api_key_burst, KEYS)
        self._policy = f'"key";q={settings.api_key_burst};w={ceil(settings.api_key_burst / settings.api_key_rate)}'
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal: Principal | None = scope.get("state", {}).get("principal")
        if principal is not None and not _HALT.fullmatch(scope["path"]):
            wait = self._buckets.take(principal.key_id, self._clock())
            if wait:
                await self._refuse(scope, ceil(wait))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refuse(self, scope: Scope, seconds: int) -> ASGIApp:
        # The two headers of draft-ietf-httpapi-ratelimit-headers.
        headers = {"RateLimit-Policy": self._policy, "RateLimit": f'"key";r=0;t={seconds}'}
        return of_error(scope, KeyLimitError(retry_after=seconds), headers)
