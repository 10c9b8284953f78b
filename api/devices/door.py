"""The first bytes of every connection: in a storm, polls are turned away here, before anything is made for them.

A refusal inside the application costs three quarters of an answer, because most of the work is the server's: a gateway that refused
there would be as busy with refusing as with serving, and nothing would be gained. Here it is a read, a look at the first line and
a write.

Only polls on new connections are judged, from a complete request line; everything else, and every further request of a connection,
goes to the server as if there were no door.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_POLL: Final = re.compile(rb"GET /[^/ ]+/controller/v1/[^/? ]+/?(?:\?[^ ]*)? HTTP/1\.[01]\r\n")


def is_poll(first: bytes) -> bool:
    """Whether the first bytes of a connection are a poll."""
    return _POLL.match(first) is not None


class Door(asyncio.Protocol):
    """One connection, until its first bytes are there.

    Args:
        serve: makes the server's protocol.
        refusal: the answer to a poll that cannot be served now, None if it can.
    """

    __slots__ = ("_refusal", "_serve", "_transport")

    def __init__(self, serve: Callable[[], asyncio.Protocol], refusal: Callable[[], bytes | None]) -> None:
        self._serve = serve
        self._refusal = refusal

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if is_poll(data) and (answer := self._refusal()) is not None:
            self._transport.write(answer)
            self._transport.close()
            return
        server = self._serve()
        self._transport.set_protocol(server)
        server.connection_made(self._transport)
        server.data_received(data)


def door(refusal: Callable[[], bytes | None]) -> Callable[..., asyncio.Protocol]:
    """What uvicorn takes as ``http``: its own protocol behind a door."""

    def make(**given: Any) -> asyncio.Protocol:
        return Door(partial(HttpToolsProtocol, **given), refusal)

    return make
