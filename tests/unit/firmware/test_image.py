from __future__ import annotations

import hashlib
import struct
import uuid

import pytest

from firmware.errors import (
    BadHeaderError,
    BadMagicError,
    BadTlvError,
    HashMissingError,
    ImageError,
    RepeatedTlvError,
    SlotTrailerError,
    TlvNotAllowedError,
    TrailingBytesError,
    TruncatedImageError,
    UnknownFlagsError,
)
from firmware.image import Dependency, Flag, parse_image
from firmware.tlv import TlvType
from firmware.version import Version

HEADER_SIZE_AT, PROTECTED_SIZE_AT, PAYLOAD_SIZE_AT, FLAGS_AT = 8, 10, 12, 16


def patched(data: bytes, at: int, form: str, value: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(form, changed, at, value)
    return bytes(changed)


def record(type_: int, value: bytes) -> bytes:
    return struct.pack("<HH", type_, len(value)) + value


def area(magic: int, records: bytes) -> bytes:
    return struct.pack("<HH", magic, len(records) + 4) + records


HASH = record(TlvType.SHA256, bytes(32))


def assemble(unprotected: bytes = HASH, protected: bytes = b"", *, flags: int = 0) -> bytes:
    """A well-formed image around the given records, without any valid hash."""
    protected_area = area(0x6908, protected) if protected else b""
    header = struct.pack("<IIHHIIBBHII", 0x96F3B83D, 0, 32, len(protected_area), 4, flags, 1, 0, 0, 0, 0)
    return header + b"code" + protected_area + area(0x6907, unprotected)


# ---- what is read


def test_everything_that_imgtool_wrote_is_read(build):
    data = build(
        *("--vid", "example.com", "--cid", "sensor-a", "--boot-record", "SPE", "--custom-tlv", "0xa0a0", "0x01020304"),
        dependencies=[Dependency(1, Version(1, 2, 3, 4)), Dependency(2, Version(0, 9))],
        payload=b"p" * 1000,
    )
    image = parse_image(data)
    vendor = uuid.uuid5(uuid.NAMESPACE_DNS, "example.com")
    assert image.version == Version(1, 2, 3, 4)
    assert image.payload_size == 1000
    assert image.security_counter == 7
    assert image.dependencies == ((1, Version(1, 2, 3, 4)), (2, Version(0, 9)))
    assert (image.vendor_id, image.class_id) == (vendor, uuid.uuid5(vendor, "sensor-a"))
    assert image.hash_algorithm == "sha256"
    assert image.image_digest == hashlib.sha256(image.hashed_region).hexdigest()
    assert image.file_sha256 == hashlib.sha256(data).hexdigest()
    assert image.signature_tlv is not None
    assert image.signature_tlv.name == "ECDSA"
    assert "0xa0a0" in [tlv.name for tlv in image.tlvs]


def test_an_image_without_protected_records_has_no_counter_and_no_dependencies(build):
    image = parse_image(build(security_counter=None))
    assert (image.security_counter, image.dependencies, image.vendor_id, image.class_id) == (None, (), None, None)


def test_an_unsigned_image_is_read_and_has_no_signature(build):
    image = parse_image(build(key=None))
    assert (image.key_tlv, image.signature_tlv) == (None, None)


def test_a_compressed_image_is_read(build):
    assert Flag.LZMA2 in parse_image(build("--compression", "lzma2")).flags


def test_an_encrypted_image_is_recognised(build, signers, tmp_path):
    recipient = tmp_path / "recipient.pem"
    recipient.write_bytes(signers["other"].public_pem)
    assert parse_image(build("--encrypt", str(recipient))).encrypted


def test_erased_flash_behind_the_image_changes_only_the_digest_of_the_file(signed):
    image, longer = parse_image(signed), parse_image(signed + b"\xff" * 100)
    assert longer.image_digest == image.image_digest
    assert longer.file_sha256 != image.file_sha256


# ---- what is refused


def test_every_truncation_is_refused_as_such(build):
    data = build("--vid", "example.com", header_size=0x20, payload=b"p" * 64)
    for length in range(len(data)):
        with pytest.raises(TruncatedImageError):
            parse_image(data[:length])


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ("3cb8f396", "first format"),
        ("96f3b83d", "big-endian"),
        ("ffffffff", "erased"),
        ("7f454c46", "ELF"),
        ("3a303230", "HEX"),
        ("00000020", "starts with 00000020"),
    ],
)
def test_other_files_are_told_apart_by_their_first_bytes(signed, start, said):
    with pytest.raises(BadMagicError, match=said) as refusal:
        parse_image(bytes.fromhex(start) + signed[4:])
    assert refusal.value.code == "firmware.image.bad_magic"


def test_a_real_big_endian_image_is_refused(build):
    with pytest.raises(BadMagicError, match="big-endian"):
        parse_image(build("--endian", "big"))


@pytest.mark.parametrize("flag", [0x1, 0x2, 0x40, 0x1000, 0x80000000])
def test_unknown_flags_are_refused(signed, flag):
    with pytest.raises(UnknownFlagsError):
        parse_image(patched(signed, FLAGS_AT, "<I", flag))


def test_a_header_shorter_than_itself_is_refused(signed):
    with pytest.raises(BadHeaderError):
        parse_image(patched(signed, HEADER_SIZE_AT, "<H", 31))


def test_an_image_without_payload_is_refused(signed):
    with pytest.raises(BadHeaderError):
        parse_image(patched(signed, PAYLOAD_SIZE_AT, "<I", 0))


def test_a_payload_larger_than_the_file_is_a_truncation(signed):
    with pytest.raises(TruncatedImageError):
        parse_image(patched(signed, PAYLOAD_SIZE_AT, "<I", 0xFFFFFFFF))


@pytest.mark.parametrize("wrong", [4, 13, 0xFFFF])
def test_header_and_records_must_agree_on_the_size_of_the_protected_area(signed, wrong):
    with pytest.raises(BadTlvError, match="header says"):
        parse_image(patched(signed, PROTECTED_SIZE_AT, "<H", wrong))


def test_a_protected_area_that_the_header_hides_is_refused(signed):
    with pytest.raises(BadTlvError):
        parse_image(patched(signed, PROTECTED_SIZE_AT, "<H", 0))


@pytest.mark.parametrize("tail", [b"\x00", b"junk", b"\xff" * 40 + b"\x00", b"\x00" + b"\xff" * 40])
def test_bytes_behind_the_image_are_refused(signed, tail):
    with pytest.raises(TrailingBytesError):
        parse_image(signed + tail)


@pytest.mark.parametrize("options", [["--pad"], ["--test"], ["--confirm"], ["--confirm", "--max-align", "32"]])
def test_a_whole_slot_with_a_trailer_is_refused_because_it_can_skip_the_trial(build, options):
    with pytest.raises(SlotTrailerError):
        parse_image(build(*options))


def test_a_counter_that_no_signature_covers_is_refused(build, inject):
    with pytest.raises(TlvNotAllowedError, match="SEC_CNT"):
        parse_image(inject(build(security_counter=None), TlvType.SEC_CNT, struct.pack("<I", 99)))


@pytest.mark.parametrize("type_", [TlvType.DEPENDENCY, TlvType.BOOT_RECORD, TlvType.UUID_CID, 0xA0A0, 0x00FF])
def test_records_that_need_protection_are_refused_outside_it(type_):
    with pytest.raises(TlvNotAllowedError, match="no signature covers"):
        parse_image(assemble(HASH + record(type_, bytes(16))))


@pytest.mark.parametrize("type_", [TlvType.KEYHASH, TlvType.SHA256, TlvType.ECDSA, TlvType.ENC_EC256, 0x3F])
def test_records_of_the_unprotected_area_are_refused_in_the_protected_one(type_):
    with pytest.raises(TlvNotAllowedError, match="must not stand"):
        parse_image(assemble(protected=record(type_, bytes(32))))


@pytest.mark.parametrize("type_", [0x00, 0x03, 0x21, 0x3F])
def test_unknown_records_are_refused_where_no_signature_covers_them(type_):
    with pytest.raises(TlvNotAllowedError, match="unknown"):
        parse_image(assemble(HASH + record(type_, b"")))


def test_a_record_of_encryption_needs_an_encrypted_image():
    wrapped_key = record(TlvType.ENC_EC256, bytes(113))
    assert parse_image(assemble(HASH + wrapped_key, flags=Flag.ENC_AES128)).encrypted
    with pytest.raises(TlvNotAllowedError, match="not encrypted"):
        parse_image(assemble(HASH + wrapped_key))


@pytest.mark.parametrize(
    "first_and_second",
    [
        (TlvType.KEYHASH, TlvType.KEYHASH),
        (TlvType.KEYHASH, TlvType.PUBKEY),
        (TlvType.SHA256, TlvType.SHA256),
        (TlvType.SHA256, TlvType.SHA512),
        (TlvType.ECDSA, TlvType.ECDSA),
        (TlvType.ECDSA, TlvType.ED25519),
        (TlvType.SIG_PURE, TlvType.SIG_PURE),
    ],
)
def test_a_second_key_hash_or_signature_is_refused(first_and_second):
    length = {TlvType.SHA256: 32, TlvType.SHA512: 64, TlvType.SIG_PURE: 1}
    with pytest.raises(RepeatedTlvError):
        parse_image(assemble(b"".join(record(type_, bytes(length.get(type_, 32))) for type_ in first_and_second)))


@pytest.mark.parametrize("type_", [TlvType.SEC_CNT, TlvType.UUID_VID, TlvType.UUID_CID])
def test_a_second_counter_or_uuid_is_refused_although_signed(type_):
    value = bytes(4 if type_ == TlvType.SEC_CNT else 16)
    assert parse_image(assemble(protected=record(type_, value)))
    with pytest.raises(RepeatedTlvError):
        parse_image(assemble(protected=record(type_, value) * 2))


@pytest.mark.parametrize(
    ("type_", "length"),
    [
        (TlvType.SEC_CNT, 3),
        (TlvType.SEC_CNT, 8),
        (TlvType.DEPENDENCY, 11),
        (TlvType.UUID_VID, 15),
        (TlvType.UUID_CID, 0),
    ],
)
def test_records_of_a_wrong_length_are_refused(type_, length):
    with pytest.raises(BadTlvError, match="bytes instead of"):
        parse_image(assemble(protected=record(type_, bytes(length))))


def test_a_hash_of_a_wrong_length_is_refused():
    with pytest.raises(BadTlvError, match="SHA256"):
        parse_image(assemble(record(TlvType.SHA256, bytes(31))))


def test_an_image_without_hash_is_refused():
    with pytest.raises(HashMissingError):
        parse_image(assemble(record(TlvType.KEYHASH, bytes(32))))


def test_a_signature_before_its_key_is_refused():
    with pytest.raises(BadTlvError, match="follow"):
        parse_image(assemble(HASH + record(TlvType.ECDSA, bytes(70)) + record(TlvType.KEYHASH, bytes(32))))


@pytest.mark.parametrize(
    ("records", "said"),
    [
        (HASH + b"\x01", "too few"),
        (HASH + b"\x01\x00\x05\x00abcd", "overruns"),
        (struct.pack("<HH", TlvType.SHA256, 0xFFFF) + bytes(32), "overruns"),
    ],
)
def test_records_that_overrun_their_area_are_refused(records, said):
    with pytest.raises(BadTlvError, match=said):
        parse_image(assemble(records))


def test_an_area_smaller_than_its_own_head_is_refused():
    with pytest.raises(BadTlvError, match="size of 3 bytes"):
        parse_image(assemble(b"")[:-2] + b"\x03\x00")


def test_a_vendors_own_records_are_read_where_they_are_protected():
    image = parse_image(assemble(protected=record(0xA0A0, b"vendor") + record(TlvType.DEPENDENCY, bytes(12)) * 2))
    assert [tlv.value for tlv in image.tlvs if tlv.type == 0xA0A0] == [b"vendor"]


def test_every_refusal_has_a_code_of_its_own_and_says_what_to_do():
    refusals = ImageError.__subclasses__()
    assert len({refusal.code for refusal in refusals}) == len(refusals)
    for refusal in refusals:
        assert refusal.code.startswith("firmware.image.")
        assert refusal().detail.endswith(".")
        assert refusal().remedy
