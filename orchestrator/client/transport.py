"""Requests to the API: who is asking, which trace it is, what is worth trying again.

Every POST carries an ``Idempotency-Key``, so all requests may be repeated: after a connection that broke, an answer that a service is
away, or "too many". A repeated request has the same key, and the API gives the first answer again.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import msgspec

from orchestrator.client.errors import ApiAddressError, ApiError, ApiUnreachableError, NoApiKeyError, error_of

ATTEMPTS: Final = 4
"""Times a request is sent: with the pauses below it bridges a restart of the API of some 5 s."""

FIRST_PAUSE: Final = 0.4
"""Seconds before the second attempt; doubled with each further one, with jitter."""

LONGEST_PAUSE: Final = 15.0
"""Seconds that a ``Retry-After`` is honoured up to; beyond it the error is shown instead."""

TIMEOUT: Final = 30.0
"""Seconds without a byte until an attempt counts as failed: a cohort preview of a million devices takes about 5."""

CONNECT_TIMEOUT: Final = 5.0
"""Seconds for the connection."""

_AGAIN: Final = frozenset({429, 502, 503, 504})
"""Statuses worth another attempt."""

_IN_FLIGHT: Final = "idempotency.in_flight"
"""Code of a 409 that is worth one too: our own first attempt is still running."""

Body = bytes | Callable[[], Iterable[bytes]]
"""A body that can be sent again."""


class Transport:
    """A connection to one API as one principal. Raises ApiAddressError.

    Args:
        base_url: such as ``http://127.0.0.1:8080``.
        api_key: ``ota_…``.
        transport: instead of the network, for tests.
        sleep: waits that many seconds between attempts.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.trace_id = secrets.token_hex(16)
        """Of all requests of this connection: what to look for in traces and logs."""
        self._api_key = api_key
        self._sleep = sleep
        self._base_url = base_url
        self._http = httpx.Client(
            base_url=base_url,
            transport=transport,
            timeout=httpx.Timeout(TIMEOUT, connect=CONNECT_TIMEOUT),
            headers={"Accept": "application/json", "User-Agent": "ota"},
            # A proxy of the environment stands between this machine and others, never before itself.
            trust_env=not _is_loopback(_host_of(base_url)),
        )

    def close(self) -> None:
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        json: Any = None,
        content: Body | None = None,
        headers: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> httpx.Response:
        """Send, with further attempts if that may help; returns answers below 400.

        Raises:
            NoApiKeyError: there is no key.
            ApiUnreachableError: no connection, or no answer.
            ApiError: the API refused.
        """
        if not self._api_key:
            raise NoApiKeyError
        sent = {"Authorization": f"Bearer {self._api_key}", **(headers or {})}
        if method == "POST":
            sent["Idempotency-Key"] = idempotency_key or uuid4().hex
        if json is not None:
            content, sent["Content-Type"] = msgspec.json.encode(json), "application/json"
        asked = {key: value for key, value in (query or {}).items() if value is not None}
        for attempt in range(1, ATTEMPTS + 1):
            last = attempt == ATTEMPTS
            sent["traceparent"] = f"00-{self.trace_id}-{secrets.token_hex(8)}-01"
            body = content() if callable(content) else content
            try:
                answer = self._http.request(method, path, params=asked, content=body, headers=sent)
            except httpx.TransportError as error:
                if last:
                    raise ApiUnreachableError(f"{self._base_url} does not answer: {_reason(error)}.") from error
                self._sleep(_pause(attempt))
                continue
            if answer.status_code < 400:
                return answer
            refusal = error_of(answer.status_code, answer.content, self.trace_id)
            pause = _pause_before(refusal, answer.headers.get("Retry-After", ""), attempt)
            if pause is None or last:
                raise refusal
            self._sleep(pause)
        raise AssertionError("unreachable")


def _pause(attempt: int) -> float:
    return FIRST_PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)  # noqa: S311 (jitter is no secret)


def _pause_before(refusal: ApiError, retry_after: str, attempt: int) -> float | None:
    """Seconds to wait before another attempt; None if it would not help."""
    if refusal.status not in _AGAIN and refusal.code != _IN_FLIGHT:
        return None
    if not (retry_after.isascii() and retry_after.isdigit()):
        return _pause(attempt)
    wanted = float(retry_after)
    return wanted if wanted <= LONGEST_PAUSE else None


def _host_of(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        raise ApiAddressError(f"{url!r} is not an address: {error}.") from error
    if parts.scheme not in {"http", "https"} or not host:
        raise ApiAddressError(f"{url!r} is not an address of HTTP.")
    return host


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _reason(error: httpx.TransportError) -> str:
    return str(error) or type(error).__name__
