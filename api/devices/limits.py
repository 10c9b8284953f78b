"""Whom the gateway turns away, and in which order: polls first, reports of an update last.

A poll that is refused is made later and nothing is lost. A report that is refused may never come again (Zephyr's client makes none
twice), and an update whose report is missing counts as harm. So at every limit a poll is refused while a report still passes:

- of an address, of a device: polls leave a part of the bucket to reports;
- of the process: the more is waiting, the fewer kinds of request are let in (``SHARES``). What waits is seen in three places: requests
  in hand, the lateness of the event loop, and connections that were not accepted yet. The last two say nothing against a report that
  is here already; only the number in hand, which bounds memory, can refuse it.

Cheap checks come first. The address and the process are asked before the database is asked who this is; the device after. Downloads
take no tokens, because a client that streams makes hundreds of range requests a second; they have a number of their own instead.

Every refusal is 429 with Retry-After. Of the clients we know SWUpdate and rauc-hawkbit-updater repeat the request, Zephyr's waits for
its next poll, and none reads Retry-After; what spreads these is the poll interval, which is drawn more widely after a refusal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from math import ceil
from typing import Final

from api.devices.errors import OverloadedError
from api.limits import Appointments, Capacity, Sites, Standing, TokenBuckets, TooManyRequestsError
from orchestrator.config import Settings

TICK: Final = 0.05
"""Seconds between two beats of the heart that looks at what waits: three in a row are noticed in time, twenty a second cost
nothing."""

LOADED: Final = 10.0
"""Seconds that poll intervals stay widely drawn after the last appointment: those who come with the wave are spread too."""

FIRST_GUESS: Final = 5_000.0
"""Polls on new connections per second that one core serves (``ota bench storm``): believed until a storm has shown what it is here."""

MEMORY: Final = 2.0
"""Seconds in which the belief about that fades: a storm lasts longer, another process's turn on the processor does not."""

LEAST: Final = 50.0
"""Requests per second that a gateway is believed to serve at least."""

REFUSAL: Final = 1 / 3
"""Work of a refusal at the door, in polls served (``ota bench storm``: 60 and 187 µs)."""

RESERVE: Final = 0.25
"""Part of a bucket that polls leave to everything else."""


class Kind(Enum):
    """What a device wants, in the order in which it is turned away; downloads apart."""

    POLL = "poll"
    HEALTH = "health"
    ATTRIBUTES = "configData"
    WORK = "work"
    """What comes between a poll and a report: deploymentBase, cancelAction."""
    REPORT = "feedback"
    DOWNLOAD = "download"


SHARES: Final = {Kind.POLL: 0.25, Kind.HEALTH: 0.5, Kind.ATTRIBUTES: 0.5, Kind.WORK: 0.75, Kind.REPORT: 1.0}
"""Part of the overload bounds from which a kind is turned away."""


class AddressLimitError(TooManyRequestsError):
    """Too many requests come from this address."""

    code = "limit.address"


class DeviceLimitError(TooManyRequestsError):
    """The device asks more often than it may."""

    code = "limit.device"


class DownloadLimitError(TooManyRequestsError):
    """As many downloads are under way as this gateway serves at once."""

    code = "gateway.downloads"


def kind_of(path: Sequence[str]) -> Kind:
    """The kind of a request by what follows the device's base."""
    match path:
        case []:
            return Kind.POLL
        case ["configData"]:
            return Kind.ATTRIBUTES
        case [_, _, "feedback"]:
            return Kind.REPORT
        case ["softwaremodules", *_]:
            return Kind.DOWNLOAD
        case _:
            return Kind.WORK


class DeviceLimits:
    """The limits of one gateway process.

    Args:
        settings: the bounds.
        clock: monotonic seconds.
        chance: uniform in 0 to 1.
        queued: connections that wait to be accepted.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float],
        chance: Callable[[], float],
        queued: Callable[[], int] = lambda: 0,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._chance = chance
        self._sites = Sites(settings.limit_exempt, settings.limit_keys)
        self._addresses = TokenBuckets(settings.address_rate, settings.address_burst, settings.limit_keys)
        self._devices = TokenBuckets(settings.device_rate, settings.device_burst, settings.limit_keys)
        self._appointments = Appointments(settings.retry_after_min, settings.retry_after_max)
        self._capacity = Capacity(FIRST_GUESS, MEMORY, LEAST)
        self._most_lag = settings.overload_lag_ms / 1_000
        self._queued = queued
        self._late, self._queue = Standing(), Standing()
        self._beating: asyncio.TimerHandle | None = None
        self._looked_at = 0.0
        self._in_hand = 0
        self._downloads = 0

    # ---- the heart

    def start(self) -> None:
        """Begin to look at what waits."""
        self._looked_at = self._clock()
        self._beat(self._looked_at)

    def _beat(self, due: float) -> None:
        now = self._clock()
        self.beat(now - due, self._queued())
        self._beating = asyncio.get_running_loop().call_later(TICK, self._beat, now + TICK)

    def beat(self, late: float, queued: int) -> None:
        """Note how many seconds late the heart beats, and how many connections wait to be accepted."""
        now = self._clock()
        self._capacity.look(now - self._looked_at, saturated=self._overloaded(Kind.POLL))
        self._looked_at = now
        self._late.note(max(0.0, late))
        self._queue.note(queued)

    def stop(self) -> None:
        if self._beating is not None:
            self._beating.cancel()

    # ---- the checks

    @contextmanager
    def admitted(self, host: str, kind: Kind) -> Iterator[None]:
        """A request in hand. Before anybody knows whose it is.

        Raises:
            AddressLimitError, OverloadedError, DownloadLimitError: it is not let in.
        """
        now = self._clock()
        self._address(host, kind, now)
        if kind is Kind.DOWNLOAD:
            if self._downloads >= self._settings.max_downloads:
                raise DownloadLimitError(retry_after=self.put_off())
            self._downloads += 1
            try:
                yield
            finally:
                self._downloads -= 1
            return
        if self._overloaded(kind):
            raise OverloadedError(retry_after=self.put_off())
        self._in_hand += 1
        try:
            yield
        finally:
            self._in_hand -= 1
            self._capacity.did(1.0)

    def identified(self, device_no: int, kind: Kind) -> None:
        """Let an authenticated device pass. Raises DeviceLimitError."""
        if kind is Kind.DOWNLOAD:
            return
        wait = self._devices.take(device_no, self._clock(), keep=_keep(kind, self._settings.device_burst))
        if wait:
            raise DeviceLimitError(retry_after=self._after(wait))

    def rejected(self, host: str, kind: Kind) -> None:
        """Note that somebody came without a valid token: a download, which was free so far, is paid for."""
        site = self._sites.key(host)
        if kind is Kind.DOWNLOAD and site is not None:
            self._addresses.take(site, self._clock())

    def _address(self, host: str, kind: Kind, now: float) -> None:
        site = self._sites.key(host)
        if site is None:
            return
        ask = self._addresses.wait if kind is Kind.DOWNLOAD else self._addresses.take
        wait = ask(site, now, keep=_keep(kind, self._settings.address_burst))
        if wait:
            raise AddressLimitError(retry_after=self._after(wait))

    def at_the_door(self) -> int | None:
        """Seconds after which a poll should come back that nobody has looked at yet; None: let it in."""
        return self.put_off() if self._overloaded(Kind.POLL) else None

    def _overloaded(self, kind: Kind) -> bool:
        share = SHARES[kind]
        bound = share * self._settings.overload_requests
        if kind is Kind.REPORT:
            return self._in_hand >= bound
        return self._in_hand + self._queue.least >= bound or self._late.least >= share * self._most_lag

    # ---- what the others are told

    def put_off(self) -> int:
        """Seconds until somebody who cannot be served now should come back."""
        self._capacity.did(REFUSAL)
        return self._appointments.make(
            self._clock(), self._chance(), self._settings.shed_return_share * self._capacity.per_second
        )

    def jitter(self) -> float:
        """Share of the poll interval by which it is to vary.

        A fleet that came back at once would come at once again after the interval. Drawn from half to one and a half of it, the
        very next round is spread like a fleet that never met; the mean stays.
        """
        loaded = self._appointments.busy(self._clock(), LOADED)
        return self._settings.poll_jitter_loaded if loaded else self._settings.poll_jitter

    def _after(self, wait: float) -> int:
        return min(self._settings.retry_after_max, ceil(wait + self._settings.retry_after_min * self._chance()))


def _keep(kind: Kind, burst: int) -> float:
    return burst * RESERVE if kind is Kind.POLL else 0.0
