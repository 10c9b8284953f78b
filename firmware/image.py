"""A strict reader of MCUboot images: structure only, no keys.

An image is ``header | payload | [protected records] | unprotected records``, little endian. The header is 32 bytes,
padded to its stated size: u32 magic, u32 load address, u16 header size, u16 size of the protected area, u32 payload
size, u32 flags, version (u8, u8, u16, u32), u32 padding (MCUboot ``docs/design.md``, ``bootutil/image.h``).

It refuses more than the bootloader does, on purpose: a bootloader accepts several files under one signature (bytes
after the image, a second key record), an intake must not. What it accepts is one image, followed by nothing but
erased flash.

Not done here: signatures and hashes (``trust``), decryption, big-endian images, whole slots with a trailer.
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from dataclasses import dataclass, field
from enum import IntFlag
from typing import Final, NamedTuple

from firmware.errors import (
    BadHeaderError,
    BadMagicError,
    BadTlvError,
    HashMissingError,
    SlotTrailerError,
    TrailingBytesError,
    TruncatedImageError,
    UnknownFlagsError,
)
from firmware.tlv import HASH_TYPES, KEY_TYPES, SIGNATURE_TYPES, Tlv, TlvType, check_records, read_area
from firmware.version import Version

__all__ = ["Dependency", "Flag", "Image", "Version", "parse_image"]

_MAGIC: Final = bytes.fromhex("3db8f396")
_HEADER: Final = struct.Struct("<4sIHHIIBBHII")
_DEPENDENCY: Final = struct.Struct("<B3xBBHI")
_ERASED: Final = b"\xff"

_TRAILER_MAGIC_LENGTH: Final = 16
_TRAILER_MAGIC: Final = bytes.fromhex("77c295f360d2ef7f3552500f2cb67980")
_TRAILER_MAGIC_WIDE: Final = bytes.fromhex("2de15d29410b8d77679c110f1f8a")
"""Behind a u16 with the flash alignment, where that is more than 8 bytes."""

_OTHER_MAGICS: Final = {
    bytes.fromhex("3cb8f396"): "This is an image of MCUboot's first format, which no current bootloader reads.",
    bytes.fromhex("96f3b83d"): "This is a big-endian image.",
    b"\xff\xff\xff\xff": "The file starts with erased flash.",
    b"\x7fELF": "This is an ELF file.",
    b":020": "This is an Intel HEX file.",
}


class Flag(IntFlag):
    """Header flags that MCUboot acts on. Its 0x1 (position independent) was never supported."""

    ENC_AES128 = 0x4
    ENC_AES256 = 0x8
    NON_BOOTABLE = 0x10
    RAM_LOAD = 0x20
    ROM_FIXED = 0x100
    LZMA1 = 0x200
    LZMA2 = 0x400
    ARM_THUMB = 0x800


_ALL_FLAGS: Final = sum(Flag)


class Dependency(NamedTuple):
    """The image needs ``minimum_version`` or later in the slot pair ``image_index`` of the same device."""

    image_index: int
    minimum_version: Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A well-formed image, of which nothing has been verified yet. Two images are equal when their files are."""

    version: Version
    flags: Flag
    header_size: int = field(repr=False)
    payload_size: int
    protected_size: int = field(repr=False)
    tlvs: tuple[Tlv, ...] = field(repr=False)
    file_sha256: str
    """Hex digest of the whole file: the identity of the artifact."""
    data: bytes = field(repr=False)

    @property
    def hashed_region(self) -> memoryview:
        """What the hash covers: header with its padding, payload, protected records."""
        return memoryview(self.data)[: self.header_size + self.payload_size + self.protected_size]

    @property
    def hash_tlv(self) -> Tlv:
        return next(tlv for tlv in self.tlvs if tlv.type in HASH_TYPES)

    @property
    def hash_algorithm(self) -> str:
        """``sha256``, ``sha384`` or ``sha512``."""
        return self.hash_tlv.name.lower()

    @property
    def image_digest(self) -> str:
        """Hex digest that the image *states* for its hashed region; the same whoever signed it."""
        return self.hash_tlv.value.hex()

    @property
    def key_tlv(self) -> Tlv | None:
        """The record that names the signing key: its hash, or the whole key."""
        return next((tlv for tlv in self.tlvs if tlv.type in KEY_TYPES), None)

    @property
    def signature_tlv(self) -> Tlv | None:
        """The signature; None when the image is unsigned."""
        return next((tlv for tlv in self.tlvs if tlv.type in SIGNATURE_TYPES), None)

    @property
    def pure(self) -> bool:
        """The signature covers the hashed region itself instead of its hash."""
        return bool(self._values(TlvType.SIG_PURE))

    @property
    def encrypted(self) -> bool:
        return bool(self.flags & (Flag.ENC_AES128 | Flag.ENC_AES256))

    @property
    def security_counter(self) -> int | None:
        """The protected counter against rollback; an unprotected one is refused by the parser."""
        values = self._values(TlvType.SEC_CNT)
        return int.from_bytes(values[0], "little") if values else None

    @property
    def dependencies(self) -> tuple[Dependency, ...]:
        return tuple(
            Dependency(index, Version(*version))
            for index, *version in map(_DEPENDENCY.unpack, self._values(TlvType.DEPENDENCY))
        )

    @property
    def vendor_id(self) -> uuid.UUID | None:
        return self._uuid(TlvType.UUID_VID)

    @property
    def class_id(self) -> uuid.UUID | None:
        """Which class of hardware the image is for."""
        return self._uuid(TlvType.UUID_CID)

    def _values(self, type_: TlvType) -> list[bytes]:
        return [tlv.value for tlv in self.tlvs if tlv.type == type_]

    def _uuid(self, type_: TlvType) -> uuid.UUID | None:
        values = self._values(type_)
        return uuid.UUID(bytes=values[0]) if values else None


def parse_image(data: bytes) -> Image:
    """Read one image that fills the file, but for erased bytes at its end.

    Raises:
        ImageError: the file is not exactly one well-formed image; the subclass and its ``code`` say why.
    """
    _check_magic(data)
    if len(data) < _HEADER.size:
        raise TruncatedImageError(f"The file has {len(data)} bytes, a header {_HEADER.size}.")
    _, _load, header_size, protected_size, payload_size, flags, *version, _pad = _HEADER.unpack_from(data)
    if header_size < _HEADER.size:
        raise BadHeaderError(f"The header claims a size of {header_size} bytes, which is less than {_HEADER.size}.")
    if payload_size == 0:
        raise BadHeaderError("The image has no payload.")
    if unknown := flags & ~_ALL_FLAGS:
        raise UnknownFlagsError(f"The image header has unknown flags {unknown:#x}.")

    offset = header_size + payload_size
    protected: tuple[Tlv, ...] = ()
    if protected_size:
        protected, end = read_area(data, offset, protected=True)
        if end - offset != protected_size:
            raise BadTlvError(f"The protected records take {end - offset} bytes; the header says {protected_size}.")
        offset = end
    unprotected, end = read_area(data, offset, protected=False)
    image = Image(
        version=Version(*version),
        flags=Flag(flags),
        header_size=header_size,
        payload_size=payload_size,
        protected_size=protected_size,
        tlvs=protected + unprotected,
        file_sha256=hashlib.sha256(data).hexdigest(),
        data=data,
    )
    check_records(image.tlvs, encrypted=image.encrypted)
    _check_signer(image)
    _check_tail(data[end:])
    return image


def _check_magic(data: bytes) -> None:
    start = data[: len(_MAGIC)]
    if not start:
        raise TruncatedImageError("The file is empty.")
    if not _MAGIC.startswith(start):
        raise BadMagicError(_OTHER_MAGICS.get(start, f"The file starts with {start.hex()} instead of {_MAGIC.hex()}."))


def _check_signer(image: Image) -> None:
    order = [tlv.type for tlv in image.tlvs if tlv.type in KEY_TYPES | SIGNATURE_TYPES]
    if order and order[0] in SIGNATURE_TYPES:
        raise BadTlvError("The signature does not follow the record of its key.")
    if not any(tlv.type in HASH_TYPES for tlv in image.tlvs):
        raise HashMissingError


def _check_tail(tail: bytes) -> None:
    if not tail.strip(_ERASED):
        return
    magic = tail[-_TRAILER_MAGIC_LENGTH:]
    if magic == _TRAILER_MAGIC or magic[2:] == _TRAILER_MAGIC_WIDE:
        raise SlotTrailerError
    raise TrailingBytesError(f"{len(tail)} bytes that no signature covers follow the image.")
