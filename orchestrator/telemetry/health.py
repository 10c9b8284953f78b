"""``/healthz``, ``/readyz`` and ``/metrics`` of roles that serve nothing else.

``/healthz`` answers while the event loop turns; ``/readyz`` asks every check and names the ones that fail; neither
starts anything. Only GET and HEAD, no bodies, one answer per connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

import msgspec
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

CHECK_TIMEOUT: Final = 2.0
"""Seconds until a check counts as failed: below the usual probe's patience of a few seconds."""

REQUEST_TIMEOUT: Final = 5.0
"""Seconds in which a request's head must have come."""

MAX_HEAD: Final = 8_192
"""Bytes of a request's head; probes send a few hundred."""

Check = tuple[str, Callable[[], Awaitable[None]]]
"""A name and a function that raises if what it looks at does not work."""

_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}
_JSON: Final = "application/json"


class _Settings(Protocol):
    @property
    def host(self) -> str: ...
    @property
    def health_port(self) -> int: ...


class Server:
    """A running listener, or none if the settings ask for none."""

    def __init__(self, server: asyncio.Server | None = None) -> None:
        self._server = server

    @property
    def port(self) -> int | None:
        """Where it listens; None if it does not."""
        return self._server.sockets[0].getsockname()[1] if self._server and self._server.sockets else None

    async def aclose(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()


async def run_checks(checks: Sequence[Check]) -> tuple[bool, list[dict[str, Any]]]:
    """Ask all checks at once. Returns whether all passed, and per check name, ok and what is wrong."""

    async def ask(name: str, check: Callable[[], Awaitable[None]]) -> dict[str, Any]:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                await check()
        except TimeoutError:
            return {"name": name, "ok": False, "detail": f"no answer within {CHECK_TIMEOUT:g} s"}
        except Exception as error:  # noqa: BLE001 (whatever a check raises is its answer)
            return {"name": name, "ok": False, "detail": str(error) or type(error).__name__}
        return {"name": name, "ok": True}

    results = await asyncio.gather(*(ask(name, check) for name, check in checks))
    return all(result["ok"] for result in results), list(results)


async def listen(host: str, port: int, checks: Sequence[Check], metrics: Callable[[], bytes]) -> Server:
    """Serve on this address; port 0 takes a free one. Raises OSError if the address is taken."""

    async def answer(target: str) -> tuple[int, str, bytes]:
        match target.partition("?")[0]:
            case "/healthz":
                return 200, _JSON, b'{"status":"ok"}'
            case "/readyz":
                ready, results = await run_checks(checks)
                body = {"status": "ok" if ready else "unavailable", "checks": results}
                return (200 if ready else 503), _JSON, msgspec.json.encode(body)
            case "/metrics":
                return 200, CONTENT_TYPE_PLAIN_0_0_4, metrics()
            case _:
                return 404, _JSON, b'{"status":"not found"}'

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT):
                    head = await _head(reader)
                method, _, rest = head.partition(" ")
                target, _, version = rest.partition(" ")
                if not version.startswith("HTTP/1."):
                    status, kind, body = 400, _JSON, b'{"status":"bad request"}'
                elif method not in {"GET", "HEAD"}:
                    status, kind, body = 405, _JSON, b'{"status":"method not allowed"}'
                else:
                    status, kind, body = await answer(target)
                lines = (
                    f"HTTP/1.1 {status} {_REASONS[status]}",
                    f"Content-Type: {kind}",
                    f"Content-Length: {len(body)}",
                    "Cache-Control: no-store",
                    "Connection: close",
                    "\r\n",
                )
                writer.write("\r\n".join(lines).encode() + (b"" if method == "HEAD" else body))
                await writer.drain()
            finally:
                writer.close()
                await writer.wait_closed()

    return Server(await asyncio.start_server(serve, host, port, limit=MAX_HEAD))


async def serve_health(settings: _Settings, checks: Sequence[Check], metrics: Callable[[], bytes]) -> Server:
    """Serve on ``settings.host`` and ``settings.health_port``; nothing if that port is 0."""
    if not settings.health_port:
        return Server()
    return await listen(settings.host, settings.health_port, checks, metrics)


async def _head(reader: asyncio.StreamReader) -> str:
    """The request line. Headers are read and left alone."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        return ""
    return head.split(b"\r\n", 1)[0].decode("latin-1")
