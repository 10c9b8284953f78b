"""The load of ``gateway``: devices' requests over a few connections, each sending its next when it has the answer to the last.

As lean as it can be, so that the two cores are the gateway's: one protocol object per connection, no HTTP library, answers
scanned for their length. Run as ``python -m tests.bench.load`` with a :class:`Load` as JSON on standard input; writes ``warm``
when the measured part begins, ``over`` when it ends, then a :class:`Measured` as JSON.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator
from typing import Final, Literal, cast

import msgspec
import uvloop

from tests.bench.common import spread, stride
from tests.bench.fleet import TOKEN, device_id

Script = Generator[tuple[str, bytes], bytes, None]
"""What one device does: yields (kind, request), receives the answer's body."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What to do.

    Attributes:
        kind: ``poll``: idle polls; ``feedback``: single reports; ``cycle``: poll, deploymentBase, four reports.
        host, port: the gateway's.
        first, count: numbers of the devices: ``first`` to ``first + count - 1``.
        connections: how many devices speak at once.
        warm, seconds: length of the part that is not measured, and of the one that is.
        actions: of feedbacks, the action of each device.
        known: devices that poll once before everything else, so that the gateway knows them.
    """

    kind: Literal["poll", "feedback", "cycle"]
    host: str
    port: int
    first: int
    count: int
    connections: int
    warm: float
    seconds: float
    actions: list[int] = []
    known: bool = False


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it: units per second (cycles count as one), times in ms, answers by status, all units ever."""

    per_second: float
    times: dict[str, dict[str, float]]
    statuses: dict[str, int]
    units: int
    incomplete: int = 0
    """Cycles whose device was shown nothing to do."""


_LENGTH: Final = b"content-length: "
_LINK: Final = b"/deploymentBase/"


def _get(device: str, path: str = "") -> bytes:
    return f"GET /default/controller/v1/{device}{path} HTTP/1.1\r\nHost: g\r\nAuthorization: TargetToken {TOKEN}\r\n\r\n".encode()


def _report(device: str, action: int, execution: str, finished: str, *details: str) -> bytes:
    body = msgspec.json.encode(
        {"status": {"execution": execution, "result": {"finished": finished}, "details": details}}
    )
    head = (
        f"POST /default/controller/v1/{device}/deploymentBase/{action}/feedback HTTP/1.1\r\nHost: g\r\n"
        f"Authorization: TargetToken {TOKEN}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def action_of(poll: bytes) -> int | None:
    """The action that a poll's answer links to."""
    _, found, rest = poll.partition(_LINK)
    return int(rest.split(b"?", 1)[0]) if found else None


class Run:
    """All connections together."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.times: dict[str, list[float]] = defaultdict(list)
        self.statuses: Counter[str] = Counter()
        self.units = 0
        self.measured = 0
        self.incomplete = 0
        self.begin = float("inf")
        self.end = float("inf")
        self.over = asyncio.Event()
        self._active = load.connections

    def scripts(self) -> Iterator[Script]:
        load, number = self.load, 0
        step, at = stride(load.count), 0
        while True:
            device_no = load.first + at
            at = (at + step) % load.count
            device = device_id(device_no)
            match load.kind:
                case "poll":
                    yield self._unit("poll", _get(device))
                case "feedback":
                    action = load.actions[device_no - load.first]
                    yield self._unit("feedback", _report(device, action, "proceeding", "none", f"{number} of many"))
                case "cycle":
                    if number == load.count:
                        return
                    yield self._cycle(device)
            number += 1

    def _unit(self, kind: str, request: bytes) -> Script:
        yield kind, request
        self._done()

    def _cycle(self, device: str) -> Script:
        began = time.perf_counter()
        action = action_of((yield "poll", _get(device)))
        if action is None:
            self.incomplete += 1
            return
        yield "start", _get(device, f"/deploymentBase/{action}")
        for state, execution, finished in (
            ("downloading", "download", "none"),
            ("installed", "proceeding", "none"),
            ("trial", "proceeding", "none"),
            ("confirmed", "closed", "success"),
        ):
            yield state, _report(device, action, execution, finished, f"ota.state={state}")
        self._done()
        if self.begin <= began and time.perf_counter() <= self.end:
            self.times["cycle"].append((time.perf_counter() - began) * 1e3)

    def _done(self) -> None:
        self.units += 1
        if self.begin <= time.perf_counter() <= self.end:
            self.measured += 1

    def answered(self, kind: str, status: str, began: float) -> None:
        now = time.perf_counter()
        self.statuses[status] += 1
        if self.begin <= began and now <= self.end:
            self.times[kind].append((now - began) * 1e3)

    def left(self) -> None:
        self._active -= 1
        if self._active == 0:
            self.over.set()


class Connection(asyncio.Protocol):
    """One device after the other."""

    def __init__(self, run: Run, scripts: Iterator[Script]) -> None:
        self._run = run
        self._scripts = scripts
        self._script: Script | None = None
        self._kind = ""
        self._began = 0.0
        self._received = b""
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._next(None)

    def _next(self, body: bytes | None) -> None:
        while time.perf_counter() < self._run.end:
            if self._script is None:
                self._script = next(self._scripts, None)
                if self._script is None:
                    break
                body = None
            try:
                self._kind, request = next(self._script) if body is None else self._script.send(body)
            except StopIteration:
                self._script = None
                continue
            self._began = time.perf_counter()
            self._transport.write(request)
            return
        self._ended = True
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, complete, body = self._received.partition(b"\r\n\r\n")
        if not complete:
            return
        length = int(head.partition(_LENGTH)[2].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        self._received = b""
        status = head[9:12].decode()
        self._run.answered(self._kind, status, self._began)
        if status != "200":
            self._script = None  # what was refused counts as no unit
        self._next(body)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ended:
            self._run.statuses["lost"] += 1
        self._run.left()


async def _spread(load: Load, run: Run, scripts: Iterator[Script], connections: int) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(lambda: Connection(run, scripts), load.host, load.port)


async def _introduce(load: Load) -> None:
    run = Run(msgspec.structs.replace(load, connections=32))
    known = (run._unit("poll", _get(device_id(load.first + n))) for n in range(load.count))
    await _spread(load, run, known, 32)
    await run.over.wait()


def _say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


async def drive(load: Load) -> Measured:
    """Put the load on, and measure it."""
    if load.known:
        await _introduce(load)
    run = Run(load)
    _say("begin")
    await _spread(load, run, run.scripts(), load.connections)
    await asyncio.sleep(load.warm)
    run.begin = time.perf_counter()
    run.end = run.begin + load.seconds
    _say("warm")
    await asyncio.wait([asyncio.ensure_future(run.over.wait())], timeout=load.seconds)
    ended = min(time.perf_counter(), run.end)
    _say("over")
    await asyncio.wait([asyncio.ensure_future(run.over.wait())], timeout=15)
    return Measured(
        per_second=round(run.measured / (ended - run.begin), 1),
        times={kind: spread(each, 2) for kind, each in run.times.items()},
        statuses=dict(run.statuses),
        units=run.units,
        incomplete=run.incomplete,
    )


def main() -> None:
    load = msgspec.json.decode(sys.stdin.buffer.read(), type=Load)
    measured = uvloop.run(drive(load))
    _say(msgspec.json.encode(measured).decode())


if __name__ == "__main__":
    main()
