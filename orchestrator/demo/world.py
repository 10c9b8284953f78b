"""Everything the demonstration brings along: keys, signed images, devices, and the files that describe them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec.structs import replace

from firmware.sign import build_image, generate_key, public_key_path
from orchestrator.demo.scenario import BAD_REVISION, FACTORY, PAYLOAD_BYTES, RELEASES, SIGNING, Firmware, revisions_of
from orchestrator.simfleet.model import DeviceSpec, FleetFile, HardwareSpec, TraitsSpec


@dataclass(frozen=True, slots=True)
class World:
    """Files of the demonstration."""

    folder: Path
    devices: list[DeviceSpec]
    """Without tokens: those are issued when the devices are registered."""

    @property
    def fleet_file(self) -> Path:
        return self.folder / "fleet.json"

    @property
    def traits_file(self) -> Path:
        return self.folder / "traits.json"

    def image(self, hardware_model: str, version: str) -> Path:
        return self.folder / f"{hardware_model}-{version}.bin"

    def forged(self, hardware_model: str) -> Path:
        """An image signed with a key that nobody trusts."""
        return self.folder / f"{hardware_model}-forged.bin"

    def public_key(self, hardware_model: str) -> Path:
        return public_key_path(self.folder / f"{hardware_model}.pem")

    def write_fleet(self, tokens: Mapping[str, str]) -> None:
        """Write the fleet file, with the token of each device id."""
        hardware = {
            model: HardwareSpec(
                factory_image=self.image(model, FACTORY.version).name, public_key=self.public_key(model).name
            )
            for model in SIGNING
        }
        devices = [replace(device, token=tokens[device.device_id]) for device in self.devices]
        self.fleet_file.write_bytes(msgspec.json.encode(FleetFile(hardware=hardware, devices=devices)))


def make_world(folder: Path, devices: int) -> World:
    """Make keys, images and devices in ``folder``, and all files but the fleet's."""
    folder.mkdir(parents=True, exist_ok=True)
    world = World(folder, list(_devices(devices)))
    stranger = folder / "stranger.pem"
    generate_key(stranger)
    for model, kind in SIGNING.items():
        key = folder / f"{model}.pem"
        generate_key(key, kind)
        for firmware in (FACTORY, *RELEASES.values()):
            world.image(model, firmware.version).write_bytes(_image(model, firmware, key))
    first = next(iter(SIGNING))
    world.forged(first).write_bytes(_image(first, next(iter(RELEASES.values())), stranger))
    traits = {
        firmware.version: TraitsSpec(mode=firmware.mode, bad_revisions=[BAD_REVISION]) for firmware in RELEASES.values()
    }
    world.traits_file.write_bytes(msgspec.json.encode(traits))
    return world


def _devices(count: int) -> Iterator[DeviceSpec]:
    for number, revision in enumerate(revisions_of(count), 1):
        yield DeviceSpec(
            device_id=f"{revision.hardware_model}-{number:05d}",
            token="",
            hardware_model=revision.hardware_model,
            hw_revision=revision.name,
        )


def _image(model: str, firmware: Firmware, key: Path) -> bytes:
    # The payload only has to differ between images; a seed makes two runs comparable.
    payload = random.Random(f"{model} {firmware.version}").randbytes(PAYLOAD_BYTES)  # noqa: S311
    return build_image(payload, version=firmware.version, security_counter=firmware.security_counter, key=key)
