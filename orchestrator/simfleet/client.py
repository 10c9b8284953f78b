"""HTTP for all devices of a fleet: one pool of kept-alive connections, and what a device does when a request fails.

A poll that fails is simply made later. A report is kept until the gateway takes it or refuses it for good: that makes the set of
acknowledged reports exact. A download goes on where it broke off.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import aiohttp
from yarl import URL

from firmware.device_sim.flash import FlashImage, flash_image
from orchestrator.simfleet.counts import Counts
from orchestrator.simfleet.ddi import Part
from orchestrator.simfleet.model import Pace
from orchestrator.simfleet.truth import TruthLog

DOWNLOAD_ATTEMPTS: Final = 8
"""Requests for one artifact until a device gives up; a gateway's restart costs one or two."""
CHUNK_BYTES: Final = 1 << 16

_TRANSPORT: Final = (aiohttp.ClientError, asyncio.TimeoutError, OSError)
_RETRY: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS})


class UnreachableError(Exception):
    """The gateway did not answer, or asked to come back later."""


class DownloadError(Exception):
    """The artifact could not be had: ``failure_class`` is ``transport`` or ``integrity``."""

    def __init__(self, failure_class: str, reason: str) -> None:
        self.failure_class = failure_class
        self.reason = reason
        super().__init__(f"{failure_class}: {reason}")


class WithdrawnError(Exception):
    """The gateway no longer gives out the artifact."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks."""

    device_id: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    sent_at: int
    """When the request was handed to the network, nanoseconds since the epoch."""


class DeviceClient:
    """What all devices of a fleet share: the connections, the images they have seen, the truth and the counters."""

    def __init__(
        self, session: aiohttp.ClientSession, truth: TruthLog, counts: Counts, pace: Pace, rng: random.Random
    ) -> None:
        self._session = session
        self._truth = truth
        self._counts = counts
        self._pace = pace
        self._rng = rng
        self._timeout = aiohttp.ClientTimeout(total=pace.request_timeout)
        self._images: dict[str, FlashImage] = {}

    async def get(self, identity: Identity, href: str) -> Answer:
        """Ask once. Raises UnreachableError."""
        return await self._request("GET", href, identity.headers, None)

    async def get_until_answered(self, identity: Identity, href: str) -> Answer:
        """Ask until there is an answer: for what must not be given up half-way."""
        failures = 0
        while True:
            try:
                return await self.get(identity, href)
            except UnreachableError:
                failures += 1
                self._counts.retries += 1
                await self.back_off(failures)

    def saw(self, identity: Identity, action: str, sent_at: int) -> None:
        """Note that the answer to a request sent at ``sent_at`` showed a deployment for the first time."""
        self._truth.revealed(identity.device_id, action, sent_at)

    async def report(
        self,
        identity: Identity,
        method: str,
        href: str,
        body: bytes,
        *,
        action: str,
        state: str,
        event_id: str,
    ) -> bool:
        """Say something until it is taken. False: it never will be, and the device drops it."""
        headers = {**identity.headers, "Content-Type": "application/json"}
        self._truth.sent(identity.device_id, action, state, event_id)
        failures = 0
        while True:
            try:
                answer = await self._request(method, href, headers, body)
            except UnreachableError:
                failures += 1
                self._counts.retries += 1
                await self.back_off(failures)
                continue
            if answer.status == HTTPStatus.OK:
                self._truth.acknowledged(identity.device_id, action, state, event_id)
                self._counts.reports += 1
                return True
            self._counts.refused[f"{answer.status} {state}"] += 1
            return False

    async def back_off(self, failures: int) -> None:
        """Wait before a request is repeated: half to all of a pause that doubles."""
        pause = min(self._pace.longest_retry, self._pace.first_retry * 2 ** min(failures - 1, 16))
        await asyncio.sleep(self._rng.uniform(pause / 2, pause))

    async def download(self, identity: Identity, wanted: Part) -> FlashImage:
        """Fetch an artifact, resuming after transport errors, and check its size and digest.

        Bytes that the process already holds are hashed as they come in and not kept a second time.

        Raises:
            DownloadError: it cannot be had, or it is not what was announced.
            WithdrawnError: the gateway answers "not found".
        """
        known = self._images.get(wanted.sha256)
        transfer = _Transfer(wanted.size, None if known else bytearray())
        failures = 0
        while transfer.received < wanted.size:
            try:
                await self._fetch(identity, wanted.href, transfer)
            except _TRANSPORT as error:
                failures += 1
                if failures == DOWNLOAD_ATTEMPTS:
                    raise DownloadError("transport", type(error).__name__) from error
                self._counts.retries += 1
                await self.back_off(failures)
        if transfer.received != wanted.size or transfer.digest.hexdigest() != wanted.sha256:
            raise DownloadError("integrity", "digest_mismatch")
        self._counts.downloads += 1
        self._counts.download_bytes += wanted.size
        if transfer.data is None:
            assert known is not None, "bytes are only dropped where the image is known"
            return known
        return self._images.setdefault(wanted.sha256, flash_image(bytes(transfer.data)))

    async def _request(self, method: str, href: str, headers: dict[str, str], body: bytes | None) -> Answer:
        sent_at = time.time_ns()
        try:
            async with self._session.request(
                method,
                URL(href, encoded=True),
                headers=headers,
                data=body,
                timeout=self._timeout,
                allow_redirects=False,
            ) as response:
                answer = Answer(response.status, await response.read(), sent_at)
        except _TRANSPORT as error:
            raise UnreachableError from error
        if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR or answer.status in _RETRY:
            raise UnreachableError
        return answer

    async def _fetch(self, identity: Identity, href: str, transfer: _Transfer) -> None:
        headers = identity.headers
        if transfer.received:
            headers = {**headers, "Range": f"bytes={transfer.received}-"}
            self._counts.resumed_downloads += 1
        async with self._session.get(URL(href, encoded=True), headers=headers, timeout=self._timeout) as response:
            if response.status in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE, HTTPStatus.FORBIDDEN}:
                raise WithdrawnError
            if response.status == HTTPStatus.OK:
                transfer.restart()
            elif response.status != HTTPStatus.PARTIAL_CONTENT:
                raise aiohttp.ClientPayloadError(f"status {response.status}")
            async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                transfer.take(chunk)
        if transfer.received < transfer.size:
            raise aiohttp.ClientPayloadError("the answer ended early")


class _Transfer:
    """Bytes of an artifact that have arrived; ``data`` is None where only their digest is wanted."""

    __slots__ = ("data", "digest", "received", "size")

    def __init__(self, size: int, data: bytearray | None) -> None:
        self.size = size
        self.data = data
        self.restart()

    def restart(self) -> None:
        """A complete answer begins: forget what came before."""
        self.digest = hashlib.sha256()
        self.received = 0
        if self.data is not None:
            self.data.clear()

    def take(self, chunk: bytes) -> None:
        """Raises DownloadError for more bytes than were announced: a flash slot has an end."""
        self.received += len(chunk)
        if self.received > self.size:
            raise DownloadError("integrity", "larger_than_announced")
        self.digest.update(chunk)
        if self.data is not None:
            self.data += chunk
