"""The records (TLVs) after the payload of an MCUboot image.

An area is a 4-byte info (u16 magic, u16 size of the area with its info) and records of u16 type, u16 length and
value, all little endian. The protected area is covered by hash and signature, the unprotected area is not: whoever
holds the file can change the latter. Hence the rule that this module enforces: **below 0x40 only unprotected, from
0x40 on only protected**. Type numbers are those of MCUboot's ``bootutil/image.h``.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from firmware.errors import BadTlvError, RepeatedTlvError, TlvNotAllowedError, TruncatedImageError

INFO_UNPROTECTED: Final = 0x6907
INFO_PROTECTED: Final = 0x6908
FIRST_PROTECTED_TYPE: Final = 0x40

_PAIR: Final = struct.Struct("<HH")


class TlvType(IntEnum):
    """Record types that this package reads or must know the place of."""

    KEYHASH = 0x01
    PUBKEY = 0x02
    SHA256 = 0x10
    SHA384 = 0x11
    SHA512 = 0x12
    RSA2048_PSS = 0x20
    ECDSA = 0x22
    RSA3072_PSS = 0x23
    ED25519 = 0x24
    SIG_PURE = 0x25
    ENC_RSA2048 = 0x30
    ENC_KW = 0x31
    ENC_EC256 = 0x32
    ENC_X25519 = 0x33
    ENC_X25519_SHA512 = 0x34
    DEPENDENCY = 0x40
    SEC_CNT = 0x50
    BOOT_RECORD = 0x60
    DECOMP_SIZE = 0x70
    DECOMP_SHA = 0x71
    DECOMP_SIGNATURE = 0x72
    COMP_DEC_SIZE = 0x73
    UUID_VID = 0x74
    UUID_CID = 0x75


KEY_TYPES: Final = frozenset({TlvType.KEYHASH, TlvType.PUBKEY})
HASH_TYPES: Final = frozenset({TlvType.SHA256, TlvType.SHA384, TlvType.SHA512})
SIGNATURE_TYPES: Final = frozenset({TlvType.RSA2048_PSS, TlvType.ECDSA, TlvType.RSA3072_PSS, TlvType.ED25519})
ENCRYPTION_TYPES: Final = frozenset(
    {TlvType.ENC_RSA2048, TlvType.ENC_KW, TlvType.ENC_EC256, TlvType.ENC_X25519, TlvType.ENC_X25519_SHA512}
)
_KNOWN_TYPES: Final = frozenset(TlvType)

# One of each group at most. MCUboot takes a second key, signature or counter in its stride, and so two files that
# differ would both verify; imgtool never writes one.
_UNIQUE_GROUPS: Final = (
    KEY_TYPES,
    HASH_TYPES,
    SIGNATURE_TYPES,
    ENCRYPTION_TYPES,
    *(frozenset({t}) for t in (TlvType.SIG_PURE, TlvType.SEC_CNT, TlvType.UUID_VID, TlvType.UUID_CID)),
)

_FIXED_LENGTH: Final[dict[int, int]] = {
    TlvType.SHA256: 32,
    TlvType.SHA384: 48,
    TlvType.SHA512: 64,
    TlvType.SIG_PURE: 1,
    TlvType.DEPENDENCY: 12,
    TlvType.SEC_CNT: 4,
    TlvType.UUID_VID: 16,
    TlvType.UUID_CID: 16,
}


@dataclass(frozen=True, slots=True)
class Tlv:
    """One record. ``type`` may be a number that ``TlvType`` lacks: a vendor's own (0x??A0 to 0x??FF) or a later one."""

    type: int
    value: bytes
    protected: bool

    @property
    def name(self) -> str:
        return TlvType(self.type).name if self.type in _KNOWN_TYPES else f"{self.type:#06x}"


def read_area(data: bytes, offset: int, *, protected: bool) -> tuple[tuple[Tlv, ...], int]:
    """Read the area that starts at ``offset``; return its records and the offset behind it.

    Raises:
        TruncatedImageError: the file ends within the area.
        BadTlvError: another area stands here, or a record overruns the area.
    """
    if offset + _PAIR.size > len(data):
        raise TruncatedImageError(f"The file ends at byte {len(data)}, before the records at byte {offset}.")
    magic, size = _PAIR.unpack_from(data, offset)
    expected = INFO_PROTECTED if protected else INFO_UNPROTECTED
    if magic != expected:
        raise BadTlvError(f"Records at byte {offset} start with {magic:#06x} instead of {expected:#06x}.")
    if size < _PAIR.size:
        raise BadTlvError(f"Records at byte {offset} claim a size of {size} bytes.")
    end = offset + size
    if end > len(data):
        raise TruncatedImageError(f"The file ends at byte {len(data)}, within the records that end at byte {end}.")
    found: list[Tlv] = []
    position = offset + _PAIR.size
    while position < end:
        if end - position < _PAIR.size:
            raise BadTlvError(f"{end - position} bytes at byte {position} are too few for a record.")
        type_, length = _PAIR.unpack_from(data, position)
        position += _PAIR.size
        if length > end - position:
            raise BadTlvError(f"Record {type_:#06x} at byte {position - _PAIR.size} overruns its area.")
        found.append(Tlv(type_, bytes(data[position : position + length]), protected))
        position += length
    return tuple(found), end


def check_records(tlvs: Iterable[Tlv], *, encrypted: bool) -> None:
    """Check place, length and number of every record.

    Raises:
        TlvNotAllowedError: a record stands in the wrong area, is unknown where only known ones may stand, or belongs to
            encryption although the image is not encrypted.
        BadTlvError: a record has not the length of its type.
        RepeatedTlvError: more than one record of a group that allows one.
    """
    seen: Counter[frozenset[TlvType]] = Counter()
    for tlv in tlvs:
        _check_place(tlv, encrypted=encrypted)
        length = _FIXED_LENGTH.get(tlv.type)
        if length is not None and len(tlv.value) != length:
            raise BadTlvError(f"Record {tlv.name} has {len(tlv.value)} bytes instead of {length}.")
        seen.update(group for group in _UNIQUE_GROUPS if tlv.type in group)
    for group, number in seen.items():
        if number > 1:
            names = " or ".join(sorted(t.name for t in group))
            raise RepeatedTlvError(f"Found {number} records of {names} where one may stand.")


def _check_place(tlv: Tlv, *, encrypted: bool) -> None:
    if tlv.protected:
        if tlv.type < FIRST_PROTECTED_TYPE:
            raise TlvNotAllowedError(f"Record {tlv.name} must not stand in the protected area.")
    elif tlv.type >= FIRST_PROTECTED_TYPE:
        raise TlvNotAllowedError(f"Record {tlv.name} stands outside the protected area, where no signature covers it.")
    elif tlv.type not in _KNOWN_TYPES:
        raise TlvNotAllowedError(f"Record {tlv.name} is unknown.")
    elif tlv.type in ENCRYPTION_TYPES and not encrypted:
        raise TlvNotAllowedError(f"Record {tlv.name} stands in an image that is not encrypted.")
