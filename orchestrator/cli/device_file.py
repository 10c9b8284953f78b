"""Files that name devices: a JSON list, JSON lines, or CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any, Final

import msgspec

from orchestrator.client.models import NewDevice
from orchestrator.errors import InvalidInputError

REQUIRED: Final = ("device_id", "hardware_model")


class DeviceFileError(InvalidInputError):
    """The file of devices cannot be read."""

    code = "device.file"
    remedy = "Give a JSON list, JSON lines or CSV with device_id and hardware_model; nothing was imported."


class _Device(msgspec.Struct, forbid_unknown_fields=True):
    device_id: str
    hardware_model: str
    attributes: dict[str, str] = {}


class _Wrapped(msgspec.Struct):
    devices: list[_Device]


def read_devices(path: Path) -> list[NewDevice]:
    """All devices of a file. Raises DeviceFileError with the place of the first mistake."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DeviceFileError(f"{path} is not text in UTF-8.") from error
    begin = text.lstrip()[:1]
    try:
        match begin:
            case "":
                devices: list[_Device] = []
            case "[":
                devices = msgspec.json.decode(text, type=list[_Device])
            case "{":
                devices = _objects(text)
            case _:
                devices = list(_rows(text))
    except msgspec.MsgspecError as error:
        raise DeviceFileError(f"{path}: {error}.") from error
    if not devices:
        raise DeviceFileError(f"{path} names no device.")
    return [{"device_id": d.device_id, "hardware_model": d.hardware_model, "attributes": d.attributes} for d in devices]


def _objects(text: str) -> list[_Device]:
    lines = [line for line in text.splitlines() if line.strip()]
    try:
        first: Any = msgspec.json.decode(lines[0])
    except msgspec.DecodeError:
        first = None
    if isinstance(first, dict) and "device_id" in first:
        return [_line(number, line) for number, line in enumerate(lines, 1)]
    return msgspec.json.decode(text, type=_Wrapped).devices


def _line(number: int, line: str) -> _Device:
    try:
        return msgspec.json.decode(line, type=_Device)
    except msgspec.MsgspecError as error:
        raise DeviceFileError(f"Device {number}: {error}.") from error


def _rows(text: str) -> Iterator[_Device]:
    reader = csv.DictReader(StringIO(text), strict=True)
    columns = [column.strip() for column in reader.fieldnames or ()]
    if missing := [name for name in REQUIRED if name not in columns]:
        raise DeviceFileError(f"The first line names no column {' and no column '.join(missing)}.")
    reader.fieldnames = columns
    try:
        for row in reader:
            if None in row or None in row.values():
                raise DeviceFileError(f"Line {reader.line_num} has another number of values than there are columns.")
            attributes = {key: value for key, value in row.items() if key not in REQUIRED and value}
            yield _Device(row["device_id"], row["hardware_model"], attributes)
    except csv.Error as error:
        raise DeviceFileError(f"Line {reader.line_num}: {error}.") from error
