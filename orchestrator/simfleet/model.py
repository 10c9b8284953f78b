"""What a simulated fleet consists of, and the two files that describe it.

The fleet file names the hardware (factory image, public key in the bootloader) and the devices with their tokens. The traits file
names the flaws of releases by version: devices learn of them only by running the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from firmware.device_sim.behaviour import Mode, ReleaseTraits
from firmware.device_sim.components import Fault
from firmware.version import Version


class HardwareSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What all devices of one hardware model leave the factory with. Paths are relative to the fleet file."""

    factory_image: str
    public_key: str


class DeviceSpec(msgspec.Struct, frozen=True, kw_only=True):
    device_id: str
    token: str
    hardware_model: str
    hw_revision: str


class FleetFile(msgspec.Struct, frozen=True, kw_only=True):
    hardware: dict[str, HardwareSpec]
    devices: list[DeviceSpec]


class TraitsSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A release's flaw: ``mode`` strikes on these hardware revisions, and so do the faults of its ``components``."""

    mode: Mode = Mode.GOOD
    bad_revisions: list[str] = []
    components: dict[str, Fault] = {}


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a device takes for what is not the network, in seconds; a range is drawn from evenly."""

    start_spread: float = 5.0
    """First polls are spread over this long: a fleet is never switched on at once."""
    reboot: tuple[float, float] = (0.4, 1.0)
    """From the reset to the first request of the new image."""
    self_test: tuple[float, float] = (0.4, 1.0)
    first_retry: float = 0.5
    """Pause after the first failed request; doubled up to ``longest_retry``, with jitter."""
    longest_retry: float = 4.0
    """Short enough to be back soon after a gateway's restart, long enough not to keep it down."""
    request_timeout: float = 15.0
    """Until a request counts as lost: above the gateway's longest wait for a projection."""
    health_every: float | None = None
    """Between two reports on health, which begin and end with a poll; None: the device makes none."""
    crash_every: float = 10.0
    """Between two crashes of an image in a crash loop."""
    default_sleep: float = 5.0
    """Between polls while the gateway has not said how long, or said something unreadable."""


def load_fleet(path: Path) -> FleetFile:
    """Read a fleet file; its paths come back absolute."""
    fleet = msgspec.json.decode(path.read_bytes(), type=FleetFile)
    folder = path.absolute().parent
    hardware = {
        name: HardwareSpec(factory_image=str(folder / spec.factory_image), public_key=str(folder / spec.public_key))
        for name, spec in fleet.hardware.items()
    }
    return FleetFile(hardware=hardware, devices=fleet.devices)


def load_traits(path: Path) -> dict[str, ReleaseTraits]:
    """Read a traits file: version to flaw."""
    return release_traits(msgspec.json.decode(path.read_bytes(), type=dict[str, TraitsSpec]))


def release_traits(specs: Mapping[str, TraitsSpec]) -> dict[str, ReleaseTraits]:
    """The flaws by version as the device simulation wants them."""
    return {
        version: ReleaseTraits(spec.mode, frozenset(spec.bad_revisions), Version.parse(version), spec.components)
        for version, spec in specs.items()
    }
