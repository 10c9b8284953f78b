"""The fleet of ``storm``: many thousand devices that come back at once, each from its own loopback address, without an event loop.

One process, one epoll, one request per connection: connect, ask, read, close. Sessions of TLS or tasks of asyncio would cost more
than the gateway that is measured. A device heeds Retry-After unless it is one of the heedless, and keeps every report until it was
answered 200, over any number of cuts; so what was acknowledged is known exactly.

Run as ``python -m tests.bench.reconnect`` with an :class:`Order` as one JSON line on standard input, then ``cut`` (stand still) and
``back`` (everybody reconnects) lines. Writes a :class:`Second` as JSON per
second, and in the end an :class:`Account` to the order's file.
"""

from __future__ import annotations

import errno
import heapq
import os
import random
import select
import socket
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

import msgspec

from tests.bench.common import percentile
from tests.bench.fleet import TOKEN, device_id

TIMEOUT: Final = 10.0
"""Seconds until a client gives a request up, as real ones do."""

HEEDLESS_PAUSE: Final = 10.0
"""Seconds after which a client that does not read Retry-After asks again: SWUpdate's pause between reports."""

SHORTEST_RETRY: Final = 1.0
LONGEST_RETRY: Final = 10.0
"""Seconds until a request is repeated that got no answer: doubled each time, up to these."""

PAUSE: Final = (0.2, 1.0)
"""Seconds between two steps of an update."""

FIRST_ADDRESS: Final = int(IPv4Address("127.1.0.0"))

BIND_ADDRESS_NO_PORT: Final = 24
"""``IP_BIND_ADDRESS_NO_PORT`` of <linux/in.h>: the port is chosen by connect, from all that are free towards the gateway."""

STATES: Final = (
    ("downloading", "download", "none"),
    ("installed", "proceeding", "none"),
    ("trial", "proceeding", "none"),
    ("confirmed", "closed", "success"),
)

LAST: Final = len(STATES) + 2
"""The step after the reports: a poll. Steps 0 and 1 are the poll and the deploymentBase of a device with an offer."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to do.

    Attributes:
        host, port: the gateway's.
        devices: their numbers are 1 to ``devices``.
        actions: of devices 1 to ``len(actions)``, which are being updated when the cut comes; the others have nothing to do.
        per_address: devices that share an address.
        sockets: most connections at once: descriptors are finite, and a device that finds none free waits in line.
        spread: seconds within which all come back.
        heedless: of 100 devices, how many do not read Retry-After.
        seed: of the dice.
        account: file that receives the account.
    """

    host: str
    port: int
    account: str
    devices: int
    actions: list[int]
    per_address: int = 1
    sockets: int = 16_000
    spread: float = 10.0
    heedless: int = 10
    seed: int = 1


class Second(msgspec.Struct, kw_only=True):
    """What happened in one second; ``at`` counts from ``back`` and is negative before it."""

    at: int
    attempted: int = 0
    accepted: int = 0
    shed: int = 0
    errors: int = 0
    reports: int = 0
    """Of the accepted."""
    reports_shed: int = 0
    backlog: int = 0
    """Devices that were not yet served after the cut."""
    open: int = 0
    p95_ms: float = 0.0
    """From connect to answer, of the accepted."""


class Account(msgspec.Struct, kw_only=True):
    """How it ended."""

    acknowledged: list[str]
    """``ota-event-id`` of every report that was answered 200, repetitions included."""
    served: int
    drained_s: float
    """From ``back`` until the last device was served."""
    interrupted: int
    """Reports that were sent and not answered when the fleet came back."""
    statuses: dict[str, int]
    errors: dict[str, int]
    most_attempts: int
    """Of one device, from ``back`` until it was served."""
    waits: list[int]
    """Every Retry-After that was told."""
    report_waits_s: list[float]
    """From ``back``, or from when a report was due if later, until it was taken."""
    cpu_s: float


class Device:
    """One device; ``step`` is what it has to say or ask next."""

    __slots__ = ("action", "attempts", "due", "failures", "number", "served", "step")

    def __init__(self, number: int, action: int | None) -> None:
        self.number = number
        self.action = action
        self.step = LAST if action is None else 0
        self.attempts = 0
        self.failures = 0
        self.due = 0.0
        self.served = False

    @property
    def reporting(self) -> bool:
        return 2 <= self.step < LAST

    def request(self) -> bytes:
        device = device_id(self.number)
        if self.step in {0, LAST}:
            return _head("GET", device)
        if self.step == 1:
            return _head("GET", device, f"/deploymentBase/{self.action}")
        state, execution, finished = STATES[self.step - 2]
        body = msgspec.json.encode(
            {
                "status": {
                    "execution": execution,
                    "result": {"finished": finished},
                    "details": [f"ota.state={state}"],
                }
            }
        )
        return _head("POST", device, f"/deploymentBase/{self.action}/feedback", len(body)) + body


@dataclass(slots=True)
class Call:
    """A request on its way."""

    device: Device
    sock: socket.socket
    began: float
    unsent: bytes
    received: bytes = b""


class Fleet:
    """All devices."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._gateway = (order.host, order.port)
        self._dice = random.Random(order.seed)
        updating = len(order.actions)
        self._devices = [
            Device(number, order.actions[number - 1] if number <= updating else None)
            for number in range(1, order.devices + 1)
        ]
        self._due: list[tuple[float, int]] = []
        self._calls: dict[int, Call] = {}
        self._deadlines: deque[tuple[float, Call]] = deque()
        self._epoll = select.epoll()
        self._epoll.register(0, select.EPOLLIN)
        self._still = False
        self._back_at: float | None = None
        self._next_second = time.monotonic() + 1
        self._second = Second(at=-1)
        self._times: list[float] = []
        self._last_served = 0.0
        self._errors: Counter[str] = Counter()
        self._statuses: Counter[str] = Counter()
        self._account = Account(
            acknowledged=[],
            served=0,
            drained_s=0.0,
            interrupted=0,
            statuses={},
            errors={},
            most_attempts=0,
            waits=[],
            report_waits_s=[],
            cpu_s=0.0,
        )
        for device in self._devices[:updating]:
            self._schedule(device, time.monotonic() + self._dice.uniform(0, PAUSE[1] * LAST))

    def run(self) -> Account:
        """Until every device was served after the cut."""
        while self._account.served < len(self._devices):
            now = time.monotonic()
            if now >= self._next_second:
                self._tell(now)
            if not self._still:
                self._begin(now)
            self._give_up(now)
            # Connections are begun in small groups, so that answers are read while others are begun.
            pause = 0.0 if not self._still and self._due and self._due[0][0] <= now and self._room else 0.01
            for fd, events in self._epoll.poll(pause, 1_024):
                if fd == 0:
                    self._obey()
                elif (call := self._calls.get(fd)) is not None:
                    self._go_on(call, events)
        self._tell(time.monotonic())
        account = self._account
        account.drained_s = round(self._last_served - (self._back_at or 0.0), 2)
        account.statuses, account.errors = dict(self._statuses), dict(self._errors)
        account.cpu_s = round(time.process_time(), 2)
        return account

    # ---- the course of things

    @property
    def _room(self) -> bool:
        return len(self._calls) < self._order.sockets

    def _schedule(self, device: Device, at: float) -> None:
        device.due = at
        heapq.heappush(self._due, (at, device.number))

    def _obey(self) -> None:
        words = os.read(0, 4_096)
        if not words:
            raise SystemExit("whoever gave the order is gone")
        for word in words.split():
            if word == b"cut":
                self._still = True
                self._due.clear()
            else:
                self._come_back(time.monotonic())

    def _come_back(self, now: float) -> None:
        for call in list(self._calls.values()):
            self._end(call)
        self._account.interrupted = sum(device.reporting and device.failures > 0 for device in self._devices)
        self._still = False
        self._due.clear()
        self._tell(now)
        self._back_at, self._next_second, self._second = now, now + 1, Second(at=0)
        for device in self._devices:
            device.attempts = device.failures = 0
            self._schedule(device, now + self._dice.uniform(0, self._order.spread))

    def _tell(self, now: float) -> None:
        second = self._second
        second.backlog = len(self._devices) - self._account.served
        second.open = len(self._calls)
        if self._times:
            second.p95_ms = round(percentile(self._times, 0.95) * 1e3, 1)
            self._times = []
        _say(msgspec.json.encode(second))
        self._next_second = now + 1
        self._second = Second(at=-1 if self._back_at is None else second.at + 1)

    def _begin(self, now: float) -> None:
        for _ in range(64):
            if not self._room or not self._due or self._due[0][0] > now:
                return
            _, number = heapq.heappop(self._due)
            self._connect(self._devices[number - 1], now)

    def _connect(self, device: Device, now: float) -> None:
        self._second.attempted += 1
        device.attempts += 1
        address = FIRST_ADDRESS + device.number // self._order.per_address
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.SOL_IP, BIND_ADDRESS_NO_PORT, 1)
        sock.bind((str(IPv4Address(address)), 0))
        call = Call(device, sock, now, device.request())
        failed = sock.connect_ex(self._gateway)
        if failed not in {0, errno.EINPROGRESS}:
            sock.close()
            self._failed(device, errno.errorcode.get(failed, "connect"))
            return
        self._calls[sock.fileno()] = call
        self._deadlines.append((now + TIMEOUT, call))
        # Over loopback a connection is there at once unless the gateway's queue is full.
        self._epoll.register(sock.fileno(), select.EPOLLIN if self._sent(call) else select.EPOLLOUT | select.EPOLLIN)

    def _sent(self, call: Call) -> bool:
        try:
            call.unsent = call.unsent[call.sock.send(call.unsent) :]
        except OSError:
            return False  # not connected yet; if it never will be, epoll says so
        return not call.unsent

    def _go_on(self, call: Call, events: int) -> None:
        if call.unsent and events & select.EPOLLOUT and not events & (select.EPOLLERR | select.EPOLLHUP):
            if self._sent(call):
                self._epoll.modify(call.sock.fileno(), select.EPOLLIN)
            return
        try:
            data = call.sock.recv(65_536)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(call)
            self._failed(call.device, errno.errorcode.get(error.errno or 0, "lost"))
            return
        call.received += data
        answer = _complete(call.received)
        if answer is not None:
            self._end(call)
            self._answered(call, *answer)
        elif not data:
            self._end(call)
            self._failed(call.device, "closed")

    def _give_up(self, now: float) -> None:
        while self._deadlines and self._deadlines[0][0] <= now:
            _, call = self._deadlines.popleft()
            if self._calls.get(call.sock.fileno()) is call:
                self._end(call)
                self._failed(call.device, "timeout")

    def _end(self, call: Call) -> None:
        self._epoll.unregister(call.sock.fileno())
        del self._calls[call.sock.fileno()]
        call.sock.close()

    # ---- what a device makes of it

    def _failed(self, device: Device, why: str) -> None:
        self._second.errors += 1
        self._errors[why] += 1
        device.failures += 1
        pause = min(LONGEST_RETRY, SHORTEST_RETRY * 2 ** min(device.failures - 1, 8))
        self._again(device, self._dice.uniform(pause / 2, pause))

    def _again(self, device: Device, pause: float) -> None:
        if not self._still:
            self._schedule(device, time.monotonic() + pause)

    def _answered(self, call: Call, status: str, head: bytes) -> None:
        device, now = call.device, time.monotonic()
        self._statuses[status] += 1
        if status == "200":
            self._times.append(now - call.began)
            self._accepted(device, head, now)
        elif status == "429":
            self._second.shed += 1
            self._second.reports_shed += device.reporting
            told = int(_header(head, b"retry-after: "))
            self._account.waits.append(told)
            heedless = device.number * 61 % 100 < self._order.heedless
            self._again(device, HEEDLESS_PAUSE if heedless else told)
        else:
            self._failed(device, status)

    def _accepted(self, device: Device, head: bytes, now: float) -> None:
        self._second.accepted += 1
        device.failures = 0
        if device.reporting:
            self._second.reports += 1
            self._account.acknowledged.append(_header(head, b"ota-event-id: ").decode())
            if self._back_at is not None:
                self._account.report_waits_s.append(round(now - max(self._back_at, device.due), 3))
        if device.step < LAST:
            device.step += 1
            if self._back_at is not None or device.step < LAST:
                self._again(device, self._dice.uniform(*PAUSE))
        elif self._back_at is not None:
            self._served(device, now)

    def _served(self, device: Device, now: float) -> None:
        assert not device.served
        device.served = True
        self._last_served = now
        self._account.served += 1
        self._account.most_attempts = max(self._account.most_attempts, device.attempts)


def _head(method: str, device: str, path: str = "", length: int | None = None) -> bytes:
    body = "" if length is None else f"Content-Type: application/json\r\nContent-Length: {length}\r\n"
    return (
        f"{method} /default/controller/v1/{device}{path} HTTP/1.1\r\nHost: g\r\n"
        f"Authorization: TargetToken {TOKEN}\r\nConnection: close\r\n{body}\r\n"
    ).encode()


def _complete(received: bytes) -> tuple[str, bytes] | None:
    """Status and head, once the body is there."""
    head, complete, body = received.partition(b"\r\n\r\n")
    if not complete or len(body) < int(_header(head, b"content-length: ")):
        return None
    return head[9:12].decode(), head


def _header(head: bytes, name: bytes) -> bytes:
    return head.partition(b"\r\n" + name)[2].split(b"\r\n", 1)[0]


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    Path(order.account).write_bytes(msgspec.json.encode(Fleet(order).run()))


if __name__ == "__main__":
    main()
