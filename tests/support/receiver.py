"""A receiver of webhooks on a real socket: keeps what it got, and answers as it is told to."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from typing import Any, Self

from msgspec import json

from orchestrator.domain.signature import verified


@dataclass(frozen=True)
class Got:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def message(self) -> Any:
        return json.decode(self.body)

    def signed_by(self, secret: str) -> bool:
        at = self.headers["webhook-timestamp"]
        return verified(secret, self.id, at, self.headers["webhook-signature"], self.body, int(at))


@dataclass
class Receiver:
    """``answers`` are used up one by one, then it is 204; a status of 0 is a request that is never answered."""

    answers: list[int] = field(default_factory=list)
    got: list[Got] = field(default_factory=list)
    extra: str = ""
    """More headers of the answer."""
    tls: ssl.SSLContext | None = None

    async def __aenter__(self) -> Self:
        self._open: set[asyncio.StreamWriter] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in list(self._open):
            writer.close()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?of=us"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            lines = (line.partition(": ") for line in head[1:] if line)
            headers = {name.lower(): value for name, _, value in lines}
            body = await reader.readexactly(int(headers["content-length"]))
            self.got.append(Got(head[0].split(" ")[1], headers, body))
            status = self.answers.pop(0) if self.answers else 204
            if not status:
                await reader.read()  # until the other side gives up
                return
            writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n{self.extra}Connection: close\r\n\r\n".encode())
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()
