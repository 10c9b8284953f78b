"""Registering devices and giving them tokens.

A token is 256 random bits; only its sha256 is kept, so it is shown once.

An import is checked as a whole before its first device is registered. Then it goes part by part, each a transaction of its own under
a command id of its own: the event log is locked while a part is appended, and a halt must not wait for ten thousand devices. The same
command again completes an import that was interrupted.
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Final

from msgspec import Struct

from orchestrator.app.ports import Meta
from orchestrator.app.registry import (
    AlreadyExistsError,
    HardwareModelNotFoundError,
    Registry,
    Traceparent,
    untraced,
)
from orchestrator.errors import ConflictError, InvalidInputError
from schemas.registry_events import DevicesRegistered, DeviceTokenIssued, RegisteredDevice

TOKEN_BYTES: Final = 32
"""Random bytes of a device token."""

MAX_ATTRIBUTES: Final = 64
"""Attributes of a device; targeting needs a handful."""

MAX_ATTRIBUTE_CHARS: Final = 512
"""Longest value of an attribute."""

NAMED: Final = 10
"""How many wrong devices an error names."""

_DEVICE_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~:@+-]{0,255}", re.ASCII)
_ATTRIBUTE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


class DeviceImportError(InvalidInputError):
    """The devices cannot be imported as given."""

    code = "device.import.invalid"
    remedy = "Correct the devices at the given pointers and send all of them again; none was imported."


class DuplicateDevicesError(ConflictError):
    """Some devices are registered already."""

    code = "device.import.duplicate"
    remedy = "Leave them out and send the others again; none was imported."


class PartlyImportedError(ConflictError):
    """Somebody else registered some of the devices while they were imported."""

    code = "device.import.partly"
    remedy = "Leave out what is registered by now and send the others in another import."


class TooManyDevicesError(DeviceImportError):
    """The import has more devices than allowed at once."""

    code = "device.import.too_many"
    remedy = "Send them in several imports."


class NewDevice(Struct, frozen=True, kw_only=True):
    device_id: str
    hardware_model: str
    attributes: dict[str, str] = {}


class ImportedDevice(Struct, frozen=True, kw_only=True):
    """``token`` is None if none was asked for, and for a repeated command: only its hash was kept."""

    device_no: int
    device_id: str
    token: str | None


class IssuedToken(Struct, frozen=True, kw_only=True):
    """``token`` is None for a repeated command."""

    device_id: str
    token: str | None


class Devices:
    """Import devices, issue tokens.

    Args:
        registry: where devices are kept.
        max_devices: devices per import.
        max_per_event: devices per event of the log, and so per part of an import.
        traceparent: the current span's context.
    """

    def __init__(
        self, registry: Registry, *, max_devices: int, max_per_event: int, traceparent: Traceparent = untraced
    ) -> None:
        self._registry = registry
        self._max_devices = max_devices
        self._max_per_event = max_per_event
        self._traceparent = traceparent

    async def import_devices(
        self, devices: Sequence[NewDevice], *, issue_tokens: bool, actor: str, command_id: str
    ) -> list[ImportedDevice]:
        """Register all devices. Of an import with a defect none is registered; one that was interrupted is completed by repeating it.

        Raises DeviceImportError, TooManyDevicesError, HardwareModelNotFoundError, DuplicateDevicesError, PartlyImportedError.
        """
        while True:
            parts, done = await self._done(command_id)
            known = {device.device_id for device in done}
            left = [device for device in devices if device.device_id not in known]
            made = [_imported(device, {}) for device in done]
            if done and not left:
                return made
            try:
                await self._check(left)
                break
            except DuplicateDevicesError:
                # The same command, sent twice, may be at work beside this one: what it registered meanwhile is this one's too.
                if (await self._done(command_id))[0] == parts:
                    raise
        tokens = {d.device_id: secrets.token_urlsafe(TOKEN_BYTES) for d in left} if issue_tokens else {}
        numbers = await self._registry.device_numbers(len(left))
        registered = [
            RegisteredDevice(
                device_no=number,
                device_id=device.device_id,
                hardware_model=device.hardware_model,
                attributes=device.attributes,
                token_hash=token_hash(tokens[device.device_id]) if issue_tokens else None,
            )
            for number, device in zip(numbers, left, strict=True)
        ]
        size = self._max_per_event
        for part, at in enumerate(range(0, len(registered), size), parts):
            event = DevicesRegistered(devices=registered[at : at + size], actor=actor)
            try:
                recorded = await self._registry.record(
                    f"devices/{numbers[at]}",
                    [event],
                    command_id=_part_id(command_id, part),
                    meta=self._meta(actor),
                    expected_version=0,
                )
            except AlreadyExistsError as why:
                # Somebody registered some of them between the check and the append.
                if made:
                    raise PartlyImportedError(f"{len(made)} of {len(devices)} devices were imported.") from why
                await self._check_unregistered(left)
                raise DuplicateDevicesError from why
            made += [_imported(device, tokens) for item in recorded for device in item.event.devices]
        return made

    async def _done(self, command_id: str) -> tuple[int, list[RegisteredDevice]]:
        """(parts, devices) that the command has registered."""
        found: list[RegisteredDevice] = []
        parts = 0
        while recorded := await self._registry.done(_part_id(command_id, parts)):
            found += [device for item in recorded for device in item.event.devices]
            parts += 1
        return parts, found

    async def issue_token(self, device_id: str, *, actor: str, command_id: str) -> IssuedToken:
        """Give a device a new token; the one before ends. Raises DeviceNotFoundError."""
        number = await self._registry.device_no(device_id)
        token = secrets.token_urlsafe(TOKEN_BYTES)
        event = DeviceTokenIssued(device_no=number, device_id=device_id, token_hash=token_hash(token), actor=actor)
        recorded = await self._registry.record(
            f"device/{number}", [event], command_id=command_id, meta=self._meta(actor)
        )
        made: DeviceTokenIssued = recorded[0].event
        return IssuedToken(device_id=device_id, token=token if made.token_hash == event.token_hash else None)

    async def _check(self, devices: Sequence[NewDevice]) -> None:
        if not devices:
            raise DeviceImportError("There is no device in the import.")
        if len(devices) > self._max_devices:
            raise TooManyDevicesError(f"{len(devices)} devices are more than the {self._max_devices} of one import.")
        times = Counter(device.device_id for device in devices)
        errors: list[Mapping[str, str]] = []
        for index, device in enumerate(devices):
            for pointer, code, detail in _problems(device, times):
                errors.append({"pointer": f"/devices/{index}{pointer}", "code": code, "detail": detail})
                if len(errors) == NAMED:
                    break
        if errors:
            raise DeviceImportError(" ".join(error["detail"] for error in errors[:3]), errors=errors)
        wanted = sorted({device.hardware_model for device in devices})
        known = await self._registry.hardware_models(wanted)
        if missing := [name for name in wanted if name not in known]:
            raise HardwareModelNotFoundError(f"There is no hardware model {', '.join(map(repr, missing[:NAMED]))}.")
        await self._check_unregistered(devices)

    async def _check_unregistered(self, devices: Sequence[NewDevice]) -> None:
        if existing := await self._registry.registered([device.device_id for device in devices]):
            places = {device.device_id: index for index, device in enumerate(devices)}
            detail = f"{len(existing)} devices are registered already: {', '.join(existing[:NAMED])}"
            raise DuplicateDevicesError(
                detail + (", …" if len(existing) > NAMED else "."),
                errors=[
                    {
                        "pointer": f"/devices/{places[name]}/device_id",
                        "code": DuplicateDevicesError.code,
                        "detail": f"'{name}' is registered already.",
                    }
                    for name in existing[:NAMED]
                ],
            )

    def _meta(self, actor: str) -> Meta:
        return Meta(actor=actor, traceparent=self._traceparent())


def token_hash(token: str) -> str:
    """What is kept of a device token: hex sha256."""
    return sha256(token.encode()).hexdigest()


def _part_id(command_id: str, part: int) -> str:
    return f"{command_id}/{part}" if part else command_id


def _imported(device: RegisteredDevice, tokens: Mapping[str, str]) -> ImportedDevice:
    token = tokens.get(device.device_id)
    mine = token is not None and token_hash(token) == device.token_hash
    return ImportedDevice(device_no=device.device_no, device_id=device.device_id, token=token if mine else None)


def _problems(device: NewDevice, times: Mapping[str, int]) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    name = device.device_id[:64]
    if not _DEVICE_ID.fullmatch(device.device_id):
        found.append(
            ("/device_id", "device.id", f"{name!r} is not a device id: 1 to 256 of letters, digits, . _ ~ : @ + -.")
        )
    elif times[device.device_id] > 1:
        found.append(("/device_id", "device.import.duplicate", f"'{name}' is there {times[device.device_id]} times."))
    if len(device.attributes) > MAX_ATTRIBUTES:
        found.append(("/attributes", "device.attributes", f"'{name}' has more than {MAX_ATTRIBUTES} attributes."))
    for key, value in device.attributes.items():
        if not _ATTRIBUTE.fullmatch(key):
            found.append(("/attributes", "device.attributes", f"{key[:64]!r} is not a name of an attribute."))
        elif len(value) > MAX_ATTRIBUTE_CHARS or not value.isprintable():
            detail = f"'{name}': attribute '{key}' takes up to {MAX_ATTRIBUTE_CHARS} printable characters."
            found.append((f"/attributes/{key}", "device.attributes", detail))
    return found
