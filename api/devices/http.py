"""HTTP over plain ASGI, as little as devices need: every answer has a Content-Length, no body is larger than allowed.

Not here: routing frameworks and response classes. An idle poll through them costs five times as much CPU as its work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote

import msgspec
from starlette.types import Receive, Scope, Send

from api.devices.errors import BodyTimeoutError, BodyTooLargeError
from api.devices.services import BODY_TIMEOUT
from orchestrator.errors import OtaError

HAL: Final = b"application/hal+json"
JSON: Final = b"application/json"
PROBLEM: Final = b"application/problem+json"
TEXT: Final = b"text/plain; charset=utf-8"

Headers = Sequence[tuple[bytes, bytes]]


class ClientGoneError(Exception):
    """The client closed the connection before its request was complete."""


class Answer(msgspec.Struct, frozen=True):
    """A complete answer."""

    status: int = 200
    body: bytes = b""
    content_type: bytes | None = None
    headers: Headers = ()


class Request:
    """One HTTP request."""

    __slots__ = ("_headers", "method", "receive", "send", "started")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.receive = receive
        self.send = send
        self.started = False
        """Whether the answer's status is on its way."""
        self._headers: Sequence[tuple[bytes, bytes]] = scope["headers"]

    def header(self, name: bytes) -> str | None:
        """A header's value; several of one name are joined, as RFC 9110 says."""
        values = [value for key, value in self._headers if key == name]
        return b", ".join(values).decode("latin-1") if values else None

    async def body(self, limit: int) -> bytes:
        """The whole body.

        Args:
            limit: most bytes.

        Raises:
            BodyTooLargeError: it has more than ``limit`` bytes; what is beyond is not read.
            BodyTimeoutError: it did not arrive in time.
            ClientGoneError: the client is gone.
        """
        declared = self.header(b"content-length")
        if declared is not None and declared.isascii() and declared.isdigit() and int(declared) > limit:
            raise BodyTooLargeError(f"The body has {declared} bytes, the most are {limit}.")
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                return await self._read(limit)
        except TimeoutError as error:
            raise BodyTimeoutError(f"The body did not arrive within {BODY_TIMEOUT:g} s.") from error

    async def _read(self, limit: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise BodyTooLargeError(f"The body has more than {limit} bytes.")
            parts.append(part)
            more = message.get("more_body", False)
        return b"".join(parts)

    async def answer(self, answer: Answer) -> None:
        await self.begin(answer.status, len(answer.body), answer.content_type, answer.headers)
        await self.send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else answer.body})

    async def begin(self, status: int, length: int, content_type: bytes | None, headers: Headers) -> None:
        """Send status and headers. An answer that must not have a body (304) has no length either."""
        fields = list(headers)
        if status != HTTPStatus.NOT_MODIFIED:
            fields.append((b"content-length", str(length).encode()))
        if content_type is not None:
            fields.append((b"content-type", content_type))
        self.started = True
        await self.send({"type": "http.response.start", "status": status, "headers": fields})


def segments(scope: Scope) -> list[str]:
    """The path's segments, decoded one by one, so that an encoded slash stays within its segment."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    parts = raw.decode("latin-1").strip("/").split("/")
    return [unquote(part) for part in parts] if b"%" in raw else parts


def json_answer(status: int, body: Any) -> Answer:
    return Answer(status, msgspec.json.encode(body), JSON)


def problem(error: OtaError, status: int, headers: Headers = ()) -> Answer:
    """An error as RFC 9457 says."""
    body: Mapping[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": error.code,
        "detail": error.detail,
        **({"remedy": error.remedy} if error.remedy else {}),
    }
    # What is left of a body that was not read would be taken for the next request.
    unread = isinstance(error, BodyTooLargeError | BodyTimeoutError)
    closing: Headers = [(b"connection", b"close")] if unread else []
    return Answer(status, msgspec.json.encode(body), PROBLEM, [*headers, *closing])
