"""The whole fleet in one event loop: a task per device, one pool of connections."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import aiohttp

from firmware.device_sim.behaviour import ReleaseTraits
from firmware.device_sim.components import ComponentBay
from firmware.device_sim.flash import flash_image
from firmware.device_sim.slots import SlotPair
from firmware.trust import load_public_key
from orchestrator.simfleet import ddi
from orchestrator.simfleet.client import DeviceClient
from orchestrator.simfleet.counts import Counts
from orchestrator.simfleet.device import SimDevice
from orchestrator.simfleet.model import DeviceSpec, HardwareSpec, Pace
from orchestrator.simfleet.truth import TruthLog

CONNECTIONS: Final = 128
"""Connections kept open to the gateway: devices take turns, as behind a site's proxy, so a process needs few descriptors."""
KEEP_ALIVE: Final = 4.0
"""Seconds an idle connection is kept: below uvicorn's 5, so that a request seldom meets a connection that is being closed."""
TICK: Final = 1.0
"""Seconds between two writes of the counters and flushes of the truth."""

_log = logging.getLogger(__name__)


class Fleet:
    """Devices at one gateway.

    Args:
        gateway_url: ``http://host:port``.
        devices: who they are.
        hardware: what each hardware model leaves the factory with.
        traits: flaws of releases by version; a version that is not named is sound.
        truth: file that receives what the fleet knows for certain.
        pace: how long devices take.
        tenant: the DDI tenant.
        counts_file: receives the counters about once a second.
        seed: of the devices' dice.

    Raises:
        ImageError, KeyUnreadableError: a factory image does not boot with its model's key, or the key is none.
    """

    def __init__(
        self,
        gateway_url: str,
        devices: Sequence[DeviceSpec],
        hardware: Mapping[str, HardwareSpec],
        traits: Mapping[str, ReleaseTraits],
        truth: Path,
        *,
        pace: Pace | None = None,
        tenant: str = "default",
        counts_file: Path | None = None,
        seed: int = 1,
    ) -> None:
        self.counts = Counts(devices=len(devices))
        self._gateway = gateway_url.rstrip("/")
        self._specs = devices
        self._traits = traits
        self._truth = truth
        self._pace = pace or Pace()
        self._tenant = tenant
        self._counts_file = counts_file
        self._rng = random.Random(seed)  # noqa: S311 - dice of a simulation
        self._factory = {
            name: (
                flash_image(Path(spec.factory_image).read_bytes()),
                load_public_key(Path(spec.public_key).read_bytes()),
            )
            for name, spec in hardware.items()
        }
        self._slots = {spec.device_id: self._leave_factory(spec) for spec in devices}
        self._bays = {spec.device_id: ComponentBay() for spec in devices}

    @property
    def slots(self) -> Mapping[str, SlotPair]:
        """The flash of every device, by device id."""
        return self._slots

    async def run(self, stop: asyncio.Event) -> None:
        """Let all devices live until ``stop`` is set; what was acknowledged by then is in the truth file."""
        connector = aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=KEEP_ALIVE, use_dns_cache=True)
        with TruthLog(self._truth) as truth:
            async with aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                headers={"Accept": "application/hal+json", "User-Agent": "bellwether-simfleet"},
                skip_auto_headers=("Accept-Encoding",),
            ) as session:
                client = DeviceClient(session, truth, self.counts, self._pace, self._rng)
                lives = [asyncio.create_task(self._live(self._device(spec, client))) for spec in self._specs]
                try:
                    await self._watch(stop, truth)
                finally:
                    for life in lives:
                        life.cancel()
                    await asyncio.gather(*lives, return_exceptions=True)
                    self._tell(truth)

    @property
    def bays(self) -> Mapping[str, ComponentBay]:
        """The applications of every device, by device id."""
        return self._bays

    def _leave_factory(self, spec: DeviceSpec) -> SlotPair:
        image, key = self._factory[spec.hardware_model]
        return SlotPair(image, key=key)

    def _device(self, spec: DeviceSpec, client: DeviceClient) -> SimDevice:
        return SimDevice(
            spec,
            self._slots[spec.device_id],
            self._bays[spec.device_id],
            base_url=ddi.base_url(self._gateway, self._tenant, spec.device_id),
            health_url=ddi.health_url(self._gateway, spec.device_id),
            client=client,
            counts=self.counts,
            traits=self._traits,
            pace=self._pace,
            rng=self._rng,
        )

    async def _live(self, device: SimDevice) -> None:
        try:
            await device.run()
        except Exception:  # noqa: BLE001 - the others must live on, and the counter tells
            self.counts.defects += 1
            _log.exception("a device's simulation ended with an error")

    async def _watch(self, stop: asyncio.Event, truth: TruthLog) -> None:
        while not stop.is_set():
            self._tell(truth)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), TICK)

    def _tell(self, truth: TruthLog) -> None:
        truth.flush()
        if self._counts_file:
            self.counts.write(self._counts_file)
