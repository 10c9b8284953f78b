"""What a request's body may be: bounded in size, JSON where JSON is expected, not nested for ever, no NUL characters.

Bodies are read here, once, before anything else sees them, so a refusal leaves nothing half done. Streamed bodies are left to the
route that takes them, which has its own limit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import accumulate
from typing import Final

import msgspec
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.errors import InvalidInputError, OtaError

MAX_DEPTH: Final = 32
"""Levels of nested JSON; a plan has five."""

_STRINGS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NO_BRACKETS: Final = bytes(sorted(set(range(256)) - set(b"[]{}")))
_STEP: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


class BodyTooLargeError(OtaError):
    """The body is larger than allowed here."""

    code = "request.too_large"
    status = 413
    remedy = "Send less at once."


class MalformedJsonError(InvalidInputError):
    """The body is not JSON."""

    code = "request.malformed_json"
    status = 400
    remedy = "Send one JSON value in UTF-8."


class TooDeepError(InvalidInputError):
    """The JSON is nested too deeply."""

    code = "request.too_deep"
    status = 400
    remedy = f"Nest at most {MAX_DEPTH} levels."


class NulCharacterError(InvalidInputError):
    """A text in the body holds a NUL character, which cannot be stored."""

    code = "request.nul"
    status = 400
    remedy = "Leave it out."


class MediaTypeError(OtaError):
    """The body is not declared as JSON."""

    code = "request.media_type"
    status = 415
    remedy = "Send `Content-Type: application/json`."


class BadLengthError(InvalidInputError):
    """The header Content-Length is not a number."""

    code = "request.content_length"
    status = 400


class BodyMiddleware:
    """Reads and checks bodies; ``scope["state"]["body"]`` holds what was read.

    Args:
        app: the application.
        limit: bytes of a body.
        limits: other limits, by path.
        streamed: paths whose bodies are left alone.
    """

    def __init__(self, app: ASGIApp, limit: int, limits: Mapping[str, int], streamed: frozenset[str]) -> None:
        self._app = app
        self._limit = limit
        self._limits = limits
        self._streamed = streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._streamed:
            await self._app(scope, receive, send)
            return
        limit = self._limits.get(scope["path"], self._limit)
        headers = dict(scope["headers"])
        body = await _read(receive, headers.get(b"content-length"), limit)
        if body:
            kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
            if kind != b"application/json" and not (kind.startswith(b"application/") and kind.endswith(b"+json")):
                raise MediaTypeError
            check_json(body)
        scope["state"]["body"] = body
        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)


def check_json(body: bytes) -> None:
    """Raises MalformedJsonError, TooDeepError, NulCharacterError."""
    brackets = _STRINGS.sub(b"", body).translate(None, _NO_BRACKETS)
    if max(accumulate((_STEP[bracket] for bracket in brackets), initial=0)) > MAX_DEPTH:
        raise TooDeepError
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as why:
        raise MalformedJsonError(f"The body is not JSON: {why}.") from why
    if b"\\u0000" in body:
        raise NulCharacterError


async def _read(receive: Receive, declared: bytes | None, limit: int) -> bytes:
    if declared is not None:
        if not declared.isdigit():
            raise BadLengthError
        if int(declared[:20]) > limit:
            raise BodyTooLargeError(f"The body has {declared.decode()[:20]} bytes; at most {limit} are allowed here.")
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > limit:
            raise BodyTooLargeError(f"The body has more than {limit} bytes.")
        if not message.get("more_body", False):
            return b"".join(chunks)
