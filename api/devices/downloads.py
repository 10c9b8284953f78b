"""Artifacts over HTTP: whole, in ranges, and resumed days later under the same entity tag."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from http import HTTPStatus
from typing import Final

from api.devices.errors import PreconditionFailedError
from api.devices.http import Answer, Request
from api.devices.ranges import Span, any_match, parse_range
from api.devices.services import Artifacts

OCTETS: Final = b"application/octet-stream"


async def serve(request: Request, artifacts: Artifacts, sha256: str) -> None:
    """Answer a GET or HEAD for an artifact. Time-based conditions are ignored: content never changes under its digest.

    Raises:
        PreconditionFailedError: ``If-Match`` names another artifact.
        RangeNotSatisfiableError: see ``parse_range``.
    """
    etag = f'"{sha256}"'
    headers = [
        (b"etag", etag.encode()),
        (b"accept-ranges", b"bytes"),
        (b"x-content-type-options", b"nosniff"),
    ]
    wanted = request.header(b"if-match")
    if wanted is not None and not any_match(wanted, etag, weak=False):
        raise PreconditionFailedError
    known = request.header(b"if-none-match")
    if known is not None and any_match(known, etag, weak=True):
        await request.answer(Answer(HTTPStatus.NOT_MODIFIED, headers=headers))
        return
    size = await artifacts.size(sha256)
    spans = _spans(request, etag, size)
    if spans is None:
        await request.begin(HTTPStatus.OK, size, OCTETS, headers)
        await _stream(request, [(b"", Span(0, size))], b"", artifacts, sha256)
    elif len(spans) == 1:
        span = spans[0]
        headers.append((b"content-range", span.content_range(size).encode()))
        await request.begin(HTTPStatus.PARTIAL_CONTENT, span.length, OCTETS, headers)
        await _stream(request, [(b"", span)], b"", artifacts, sha256)
    else:
        await _multipart(request, spans, size, headers, artifacts, sha256)


def _spans(request: Request, etag: str, size: int) -> list[Span] | None:
    # RFC 9110 defines ranges for GET alone.
    ranges = request.header(b"range") if request.method == "GET" else None
    condition = request.header(b"if-range")
    if ranges is None or (condition is not None and condition.strip() != etag):
        return None
    return parse_range(ranges, size)


async def _multipart(
    request: Request,
    spans: Sequence[Span],
    size: int,
    headers: list[tuple[bytes, bytes]],
    artifacts: Artifacts,
    sha256: str,
) -> None:
    # Clients go by the lengths in the parts' headers; that 128 bits of a digest occur in the content is no concern.
    boundary = sha256[:32].encode()
    parts = [
        (
            b"\r\n--%b\r\nContent-Type: %b\r\nContent-Range: %b\r\n\r\n"
            % (boundary, OCTETS, span.content_range(size).encode()),
            span,
        )
        for span in spans
    ]
    end = b"\r\n--%b--\r\n" % boundary
    length = sum(len(head) + span.length for head, span in parts) + len(end)
    content_type = b"multipart/byteranges; boundary=" + boundary
    await request.begin(HTTPStatus.PARTIAL_CONTENT, length, content_type, headers)
    await _stream(request, parts, end, artifacts, sha256)


async def _stream(
    request: Request, parts: Sequence[tuple[bytes, Span]], end: bytes, artifacts: Artifacts, sha256: str
) -> None:
    if request.method == "HEAD":
        await request.send({"type": "http.response.body", "body": b""})
        return
    # The server drops what is sent to a client that is gone; without a look the rest of the file would be read for nobody.
    gone = asyncio.create_task(_disconnected(request))
    try:
        async with aclosing(_pieces(parts, artifacts, sha256)) as pieces:
            async for piece in pieces:
                if gone.done():
                    return
                await request.send({"type": "http.response.body", "body": piece, "more_body": True})
        await request.send({"type": "http.response.body", "body": end})
    finally:
        gone.cancel()


async def _pieces(
    parts: Sequence[tuple[bytes, Span]], artifacts: Artifacts, sha256: str
) -> AsyncGenerator[bytes, None]:
    for head, span in parts:
        if head:
            yield head
        left = span.length
        chunks: AsyncIterator[bytes] = artifacts.open_range(sha256, span.start, span.end)
        async for chunk in chunks:
            left -= len(chunk)
            yield chunk
        if left:
            # The length is announced: cutting the connection is the only way left to say that something is wrong.
            raise EOFError(f"artifact {sha256}: {left} bytes of {span.length} are missing")


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
