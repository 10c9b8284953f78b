"""Rates, queues and appointments: the arithmetic of turning requests away. Pure; time in seconds and chance are arguments.

Everything is O(1) per request and of bounded memory, because it runs for requests that are about to be refused. A bucket that was
forgotten for lack of room starts full: the bound on memory is kept at the cost of the limit, never the other way round.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Hashable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from orchestrator.errors import InvalidInputError

IPV6_SITE_BITS: Final = 64
"""Bits of an IPv6 address that name a site: whoever has one address has 2^64 of them."""

STANDING_BEATS: Final = 3
"""Readings in a row that make a queue: one may be a garbage collection, or another process's turn on the processor."""


EPSILON: Final = 1e-6
"""Seconds that rounding may cost a client."""


class TooManyRequestsError(InvalidInputError):
    """Too many requests."""

    code = "limit.exceeded"
    status = 429
    remedy = "Come back after the seconds in Retry-After."


class ExemptListError(InvalidInputError):
    """The list of exempt addresses is not one."""

    code = "settings.limit_exempt"
    remedy = "Write addresses or networks, with commas between them: 127.0.0.1,10.0.0.0/8."


class TokenBuckets:
    """A token bucket per key, kept as the one time at which it will be full again (the generic cell rate algorithm, ITU-T I.371).

    Args:
        per_second: tokens that come back per second.
        burst: tokens of a full bucket.
        keys: buckets remembered; the one not asked for longest is forgotten first.
    """

    __slots__ = ("_burst", "_full_at", "_interval", "_keys")

    def __init__(self, per_second: float, burst: int, keys: int) -> None:
        self._interval = 1 / per_second
        self._burst = burst
        self._keys = keys
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: Hashable, now: float, *, keep: float = 0.0) -> float:
        """Take a token if more than ``keep`` are there; 0 if it was taken, else the seconds until it could be.

        A refusal takes nothing, so that a client that insists is not held off for ever.
        """
        debt = self._debt(key, now)
        wait = debt - (self._burst - keep) * self._interval
        if wait > EPSILON:
            return wait
        self._full_at[key] = now + debt
        while len(self._full_at) > self._keys:
            self._full_at.popitem(last=False)
        return 0.0

    def wait(self, key: Hashable, now: float, *, keep: float = 0.0) -> float:
        """What ``take`` would return, with nothing taken."""
        wait = self._debt(key, now) - (self._burst - keep) * self._interval
        return wait if wait > EPSILON else 0.0

    def _debt(self, key: Hashable, now: float) -> float:
        """Seconds until the bucket would be full again if a token were taken."""
        full_at = self._full_at.get(key)
        if full_at is None:
            return self._interval
        self._full_at.move_to_end(key)
        return max(0.0, full_at - now) + self._interval


class Standing:
    """The least of the last ``beats`` readings.

    As CoDel has it (RFC 8289): a queue that goes away by itself is a burst, one that stands is overload.
    """

    __slots__ = ("_readings",)

    def __init__(self, beats: int = STANDING_BEATS) -> None:
        self._readings: deque[float] = deque([0.0] * beats, maxlen=beats)

    def note(self, reading: float) -> None:
        self._readings.append(reading)

    @property
    def least(self) -> float:
        return min(self._readings)


class Capacity:
    """How much a process can do per second, seen while it has more to do than it can: at other times what it does is what is asked.

    Args:
        per_second: what is believed before anything was seen.
        memory: seconds in which an old belief fades (to 37 %).
        least: per second; a process that stood still is not believed to stand still for ever.
    """

    __slots__ = ("_done", "_least", "_memory", "per_second")

    def __init__(self, per_second: float, memory: float, least: float) -> None:
        self.per_second = per_second
        self._memory = memory
        self._least = least
        self._done = 0.0

    def did(self, work: float) -> None:
        """Count work that was done."""
        self._done += work

    def look(self, seconds: float, *, saturated: bool) -> None:
        """Learn from the ``seconds`` since the last look, if the process was ``saturated`` all the while."""
        done, self._done = self._done, 0.0
        if saturated and seconds > 0:
            weight = -math.expm1(-seconds / self._memory)
            self.per_second = max(self._least, self.per_second + weight * (done / seconds - self.per_second))


class Appointments:
    """When those who are turned away should come back: one after the other at a rate that can be served, like a queue outside.

    Args:
        soonest, latest: bounds of what anybody is told, whole seconds.
    """

    __slots__ = ("_free_at", "latest", "soonest")

    def __init__(self, soonest: int, latest: int) -> None:
        self._free_at = -math.inf
        self.soonest = soonest
        self.latest = latest

    def make(self, now: float, chance: float, per_second: float) -> int:
        """Seconds until the next free appointment; the queue, of which ``per_second`` can be served, grows by one.

        ``chance`` is uniform in 0 to 1. Up to a fifth is added, so that clients that were turned away together do not come back
        together. When the queue is as long as ``latest``, it grows no more and everybody is told something of the later half.
        """
        ahead = max(0.0, self._free_at - now)
        if self.soonest + ahead >= self.latest:
            return math.ceil(self.latest * (1 + chance) / 2)
        self._free_at = now + ahead + 1 / per_second
        return min(self.latest, math.ceil((self.soonest + ahead) * (1 + 0.2 * chance)))

    def busy(self, now: float, memory: float) -> bool:
        """Whether anybody is expected back, or was up to ``memory`` seconds ago."""
        return now < self._free_at + memory


class Sites:
    """Keys of addresses: IPv4 as it is, IPv6 by site; None for those without a limit. Unix sockets have none: their peers are local.

    Args:
        exempt: addresses and networks without a limit, with commas between them.

    Raises:
        ExemptListError: ``exempt`` is no such list.
    """

    __slots__ = ("_exempt", "_keys", "_known")

    def __init__(self, exempt: str, keys: int) -> None:
        try:
            self._exempt = [ip_network(part.strip()) for part in exempt.split(",") if part.strip()]
        except ValueError as error:
            raise ExemptListError(str(error)) from error
        self._keys = keys
        self._known: OrderedDict[str, int | str | None] = OrderedDict()

    def key(self, host: str) -> int | str | None:
        """``host`` is what the server says of the peer."""
        try:
            return self._known[host]
        except KeyError:
            found = self._known[host] = self._find(host)
            if len(self._known) > self._keys:
                self._known.popitem(last=False)
            return found

    def _find(self, host: str) -> int | str | None:
        try:
            address: IPv4Address | IPv6Address = ip_address(host.partition("%")[0])
        except ValueError:
            return None
        if isinstance(address, IPv6Address):
            # A dual-stack listener shows IPv4 clients in this form; by site they would all be one.
            address = address.ipv4_mapped or address
        if any(_holds(network, address) for network in self._exempt):
            return None
        if isinstance(address, IPv4Address):
            return int(address)
        return f"{int(address) >> (128 - IPV6_SITE_BITS):x}"


def _holds(network: IPv4Network | IPv6Network, address: IPv4Address | IPv6Address) -> bool:
    return network.version == address.version and address in network
