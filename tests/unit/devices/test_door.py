from __future__ import annotations

import asyncio
import io
import json
import resource
import socket
from http.client import HTTPResponse
from typing import Any, cast

import pytest

from api.devices import listener
from api.devices.door import Door, is_poll
from tests.unit.devices.conftest import Site

POLL = b"GET /default/controller/v1/dev-1 HTTP/1.1\r\nHost: g\r\n\r\n"


@pytest.mark.parametrize(
    "first",
    [
        POLL,
        b"GET /DEFAULT/controller/v1/a%2Fb/ HTTP/1.0\r\n",
        b"GET /default/controller/v1/dev-1?x=1 HTTP/1.1\r\n",
    ],
)
def test_a_poll_is_known_by_its_first_line(first):
    assert is_poll(first)


@pytest.mark.parametrize(
    "first",
    [
        b"GET /default/controller/v1/dev-1/deploymentBase/7?c=1 HTTP/1.1\r\n",
        b"GET /default/controller/v1/dev-1/softwaremodules/7/artifacts/fw.bin HTTP/1.1\r\n",
        b"POST /default/controller/v1/dev-1/deploymentBase/7/feedback HTTP/1.1\r\n",
        b"PUT /default/controller/v1/dev-1/configData HTTP/1.1\r\n",
        b"POST /default/controller/v1/dev-1 HTTP/1.1\r\n",
        b"GET /readyz HTTP/1.1\r\n",
        b"GET /default/controller/v1/dev-1 HT",
        b"",
    ],
)
def test_what_is_no_poll_or_not_yet_one_is_let_in(first):
    assert not is_poll(first)


class Wire:
    """A transport, as far as a door uses it."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False
        self.protocol: Any = None

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol


class Server(asyncio.Protocol):
    """What stands behind the door."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def connection_made(self, transport: Any) -> None:
        self.seen.append(transport)

    def data_received(self, data: bytes) -> None:
        self.seen.append(data)


def open_door(refusal: bytes | None) -> tuple[Door, Wire, list[Server]]:
    made: list[Server] = []

    def serve() -> Server:
        made.append(Server())
        return made[-1]

    wire, opened = Wire(), Door(serve, lambda: refusal)
    opened.connection_made(cast("asyncio.Transport", wire))
    return opened, wire, made


def test_a_poll_that_cannot_be_served_is_answered_without_a_server():
    opened, wire, made = open_door(b"later")
    opened.data_received(POLL)
    assert (wire.written, wire.closed, made) == (b"later", True, [])


@pytest.mark.parametrize(("refusal", "first"), [(None, POLL), (b"later", b"POST"), (b"later", POLL[:20])])
def test_everything_else_reaches_the_server_from_the_first_byte(refusal, first):
    opened, wire, made = open_door(refusal)
    opened.data_received(first)
    (server,) = made
    assert server.seen == [wire, first]
    assert wire.protocol is server
    assert (wire.written, wire.closed) == (b"", False)


def parsed(answer: bytes) -> HTTPResponse:
    class Socket:
        def makefile(self, *_: Any) -> io.BytesIO:
            return io.BytesIO(answer)

    response = HTTPResponse(cast("socket.socket", Socket()))
    response.begin()
    return response


def test_a_refusal_at_the_door_is_the_same_as_one_inside(make_site):
    site: Site = make_site(overload_requests=8)
    assert site.gateway.at_the_door() is None
    for _ in range(3):
        site.gateway._limits.beat(0.0, 2)
    answer = site.gateway.at_the_door()
    assert answer is not None
    response = parsed(answer)
    assert response.status == 429
    assert response.getheader("Connection") == "close"
    assert response.getheader("Content-Type") == "application/problem+json"
    assert int(response.getheader("Retry-After") or "") >= 5
    assert json.loads(response.read())["code"] == "gateway.overloaded"
    assert site.put_off == [("request", "gateway.overloaded")]


async def test_inside_and_at_the_door_the_same_words_are_said(make_site):
    site: Site = make_site(overload_requests=8)
    for _ in range(3):
        site.gateway._limits.beat(0.0, 2)
    inside, outside = await site.ask("dev-1"), parsed(site.gateway.at_the_door() or b"")
    assert inside.status_code == outside.status
    assert inside.content == outside.read()


# ---- the listener


def test_connections_that_wait_are_counted_until_they_are_accepted():
    listening = listener.bind("127.0.0.1", 0)
    with listening:
        listening.listen(16)
        waiting = [socket.create_connection(listening.getsockname()) for _ in range(5)]
        assert listener.queued(listening) == 5
        listening.accept()[0].close()
        assert listener.queued(listening) == 4
        for each in waiting:
            each.close()
    assert listener.queued(listening) == 0, "closed"


def test_an_address_that_is_taken_is_an_error():
    with listener.bind("127.0.0.1", 0) as first:
        first.listen()
        with pytest.raises(OSError, match="in use"):
            listener.bind("127.0.0.1", first.getsockname()[1])


def test_a_gateway_takes_the_descriptors_it_may_have():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        taken = listener.raise_descriptor_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (taken, hard)
        assert taken == (listener.MOST_DESCRIPTORS if hard < 0 else min(hard, listener.MOST_DESCRIPTORS))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
