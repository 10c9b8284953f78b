from __future__ import annotations

import hashlib
import json
import struct

import pytest

from firmware.errors import (
    AlgorithmMismatchError,
    CounterMissingError,
    CounterTooLowError,
    EncryptedUnsupportedError,
    HashMismatchError,
    ImageError,
    KeyMismatchError,
    NoTrustedKeysError,
    PureNotAllowedError,
    RepeatedTlvError,
    SignatureInvalidError,
    TlvNotAllowedError,
    UnsignedImageError,
    VersionTooLowError,
)
from firmware.image import Dependency, parse_image
from firmware.keys import Algorithm
from firmware.tlv import TlvType
from firmware.trust import verify_image
from firmware.version import Version

VERSION_AT = 20


def verify(data, *signers, minimum_counter=None, minimum_version=None, counter_required=False, allow_pure=False):
    return verify_image(
        data,
        [signer.trusted for signer in signers],
        minimum_counter=minimum_counter,
        minimum_version=minimum_version,
        counter_required=counter_required,
        allow_pure=allow_pure,
    )


def flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def with_record(data: bytes, type_: TlvType, value: bytes, *, new_type: int | None = None) -> bytes:
    """Overwrite the value, and the type if given, of an unprotected record in place."""
    found = next(tlv for tlv in parse_image(data).tlvs if tlv.type == type_)
    assert len(found.value) == len(value)
    old = struct.pack("<HH", type_, len(value)) + found.value
    assert data.count(old) == 1
    return data.replace(old, struct.pack("<HH", new_type or type_, len(value)) + value)


def with_signature(data: bytes, signature: bytes) -> bytes:
    """Replace the ECDSA signature, which imgtool writes as the last record."""
    image = parse_image(data)
    old, info_at = image.signature_tlv.value, len(image.hashed_region)
    (size,) = struct.unpack_from("<H", data, info_at + 2)
    changed = bytearray(data[: -len(old) - 4] + struct.pack("<HH", TlvType.ECDSA, len(signature)) + signature)
    struct.pack_into("<H", changed, info_at + 2, size - len(old) + len(signature))
    return bytes(changed)


# ---- what is accepted


@pytest.mark.parametrize(
    ("kind", "options", "hashed_with"),
    [
        (Algorithm.RSA_2048, [], "sha256"),
        (Algorithm.RSA_3072, [], "sha256"),
        (Algorithm.ECDSA_P256, [], "sha256"),
        (Algorithm.ECDSA_P384, [], "sha384"),
        (Algorithm.ED25519, [], "sha256"),
        (Algorithm.ED25519, ["--sha", "512"], "sha512"),
        (Algorithm.RSA_2048, ["--public-key-format", "full"], "sha256"),
        (Algorithm.ECDSA_P384, ["--public-key-format", "full"], "sha384"),
        (Algorithm.ED25519, ["--public-key-format", "full"], "sha256"),
        (Algorithm.ECDSA_P256, ["--pad-sig"], "sha256"),
        (Algorithm.ECDSA_P384, ["--pad-sig"], "sha384"),
        (Algorithm.ECDSA_P256, ["--compression", "lzma2"], "sha256"),
        (Algorithm.ECDSA_P256, ["--load-addr", "0x20000000"], "sha256"),
    ],
)
def test_images_signed_by_imgtool_verify(build, signers, kind, options, hashed_with):
    verified = verify(build(*options, key=signers[kind].path), signers[kind])
    assert (verified.algorithm, verified.key_id) == (kind, signers[kind].trusted.key_id)
    assert verified.hash_algorithm == hashed_with


def test_a_verified_image_says_everything_about_the_file(build, p256):
    data = build("--cid", "7d1b3c1e-6f0a-4b43-9a3d-0d8c7a5e1f20", dependencies=[Dependency(1, Version(1, 2, 3, 4))])
    verified = verify(data, p256)
    assert json.loads(json.dumps(verified.to_dict())) == {
        "version": "1.2.3+4",
        "size": len(data),
        "payload_size": 256 * 20,
        "sha256": hashlib.sha256(data).hexdigest(),
        "sha1": hashlib.sha1(data).hexdigest(),
        "md5": hashlib.md5(data).hexdigest(),
        "image_digest": parse_image(data).image_digest,
        "hash_algorithm": "sha256",
        "security_counter": 7,
        "dependencies": [{"image_index": 1, "minimum_version": "1.2.3+4"}],
        "vendor_id": None,
        "class_id": "7d1b3c1e-6f0a-4b43-9a3d-0d8c7a5e1f20",
        "key_id": p256.trusted.key_id,
        "algorithm": "ecdsa-p256",
    }


def test_the_signer_is_found_among_several_trusted_keys(signed, signers, p256):
    assert verify(signed, *signers.values()).key_id == p256.trusted.key_id


def test_the_image_digest_does_not_depend_on_the_signer_but_the_file_does(build, signers, p256):
    ours, others = build(), build(key=signers["other"].path)
    first, second = verify(ours, p256), verify(others, signers["other"])
    assert first.image_digest == second.image_digest
    assert first.sha256 != second.sha256


def test_a_pure_signature_verifies_only_where_it_is_allowed(build, signers):
    ed25519 = signers["ed25519"]
    data = build("--pure", key=ed25519.path)
    assert verify(data, ed25519, allow_pure=True).hash_algorithm == "sha512"
    with pytest.raises(PureNotAllowedError):
        verify(data, ed25519)


# ---- who signed


def test_without_trusted_keys_nothing_verifies(signed):
    with pytest.raises(NoTrustedKeysError):
        verify(signed)


def test_an_unsigned_image_is_refused(build, p256):
    with pytest.raises(UnsignedImageError):
        verify(build(key=None), p256)


def test_an_image_of_another_key_of_the_same_type_is_refused(build, signers, p256):
    with pytest.raises(KeyMismatchError, match=p256.trusted.key_id):
        verify(build(key=signers["other"].path), p256)


@pytest.mark.parametrize("trusted", list(Algorithm))
@pytest.mark.parametrize("signer", list(Algorithm))
def test_an_image_never_verifies_with_a_key_of_another_type(build, signers, trusted, signer):
    data = build(key=signers[signer].path)
    if trusted is signer:
        assert verify(data, signers[trusted])
        return
    with pytest.raises(KeyMismatchError):
        verify(data, signers[trusted])


def test_a_foreign_signature_under_the_name_of_the_trusted_key_is_refused(build, signers, p256):
    forged = build(key=signers["other"].path)
    name = hashlib.sha256(p256.trusted.mcuboot_bytes).digest()
    with pytest.raises(SignatureInvalidError):
        verify(with_record(forged, TlvType.KEYHASH, name), p256)


def test_a_foreign_algorithm_under_the_name_of_the_trusted_key_is_refused(build, signers, p256):
    forged = build(key=signers["ed25519"].path)
    name = hashlib.sha256(p256.trusted.mcuboot_bytes).digest()
    with pytest.raises(AlgorithmMismatchError, match="ED25519"):
        verify(with_record(forged, TlvType.KEYHASH, name), p256)


def test_a_hash_that_the_trusted_key_excludes_is_refused(build, signers, p256):
    forged = build("--sha", "512", key=signers["ed25519"].path)
    name = hashlib.sha512(p256.trusted.mcuboot_bytes).digest()
    with pytest.raises(AlgorithmMismatchError, match="sha512"):
        verify(with_record(forged, TlvType.KEYHASH, name), p256)


def test_a_signature_relabelled_as_another_type_is_refused(signed, p256):
    signature = parse_image(signed).signature_tlv.value
    with pytest.raises(AlgorithmMismatchError):
        verify(with_record(signed, TlvType.ECDSA, signature, new_type=TlvType.RSA2048_PSS), p256)


@pytest.mark.parametrize("kind", [Algorithm.ED25519, Algorithm.ECDSA_P256])
def test_a_signature_of_the_hash_does_not_pass_as_pure(build, signers, inject, kind):
    data = inject(build(key=signers[kind].path), TlvType.SIG_PURE, b"\x01")
    with pytest.raises((SignatureInvalidError, AlgorithmMismatchError)):
        verify(data, signers[kind], allow_pure=True)


def test_an_encrypted_image_is_refused_by_name(build, signers, p256, tmp_path):
    recipient = tmp_path / "recipient.pem"
    recipient.write_bytes(signers["other"].public_pem)
    with pytest.raises(EncryptedUnsupportedError) as refusal:
        verify(build("--encrypt", str(recipient)), p256)
    assert refusal.value.code == "firmware.image.encrypted_unsupported"


# ---- what was signed


def test_a_changed_payload_is_refused(signed, p256):
    with pytest.raises(HashMismatchError):
        verify(flipped(signed, 0x300), p256)


@pytest.mark.parametrize("at", range(VERSION_AT, VERSION_AT + 8))
def test_a_changed_version_is_refused(signed, p256, at):
    with pytest.raises(HashMismatchError):
        verify(flipped(signed, at), p256)


def test_a_changed_counter_is_refused(signed, p256):
    at = signed.index(struct.pack("<HHI", TlvType.SEC_CNT, 4, 7)) + 4
    with pytest.raises(HashMismatchError):
        verify(flipped(signed, at), p256)


def test_a_changed_payload_with_its_hash_made_to_fit_is_refused(signed, p256):
    changed = flipped(signed, 0x300)
    digest = hashlib.sha256(parse_image(changed).hashed_region).digest()
    with pytest.raises(SignatureInvalidError):
        verify(with_record(changed, TlvType.SHA256, digest), p256)


@pytest.mark.parametrize("kind", list(Algorithm))
def test_any_changed_byte_of_the_unprotected_records_is_refused(build, signers, kind):
    data = build(key=signers[kind].path)
    start = len(parse_image(data).hashed_region)
    for at in range(start, len(data)):
        with pytest.raises(ImageError):
            verify(flipped(data, at), signers[kind])


@pytest.mark.parametrize(
    "replaced", [b"", b"\x30", b"\x30\x00", b"\x30\x7f", b"\x31" + bytes(70), b"\x30\x06" + bytes(200)]
)
def test_malformed_ecdsa_signatures_are_invalid_and_nothing_worse(signed, p256, replaced):
    with pytest.raises(SignatureInvalidError):
        verify(with_signature(signed, replaced), p256)


def test_an_ecdsa_signature_is_not_padded_beyond_the_longest(signed, p256):
    signature = parse_image(signed).signature_tlv.value
    assert verify(with_signature(signed, signature.ljust(72, b"\0")), p256)
    with pytest.raises(SignatureInvalidError):
        verify(with_signature(signed, signature.ljust(73, b"\0")), p256)


def test_padding_of_an_ecdsa_signature_must_be_zeros(build, p256):
    for counter in range(50):  # about every other signature is shorter than the longest, and so has padding
        data = build("--pad-sig", security_counter=counter)
        signature = parse_image(data).signature_tlv.value
        if signature[1] + 2 < len(signature):
            break
    assert verify(data, p256)
    with pytest.raises(SignatureInvalidError):
        verify(flipped(data, len(data) - 1), p256)


def test_an_extra_key_record_is_refused_although_the_signature_stays_valid(signed, p256, inject):
    name = hashlib.sha256(p256.trusted.mcuboot_bytes).digest()
    with pytest.raises(RepeatedTlvError):
        verify(inject(signed, TlvType.KEYHASH, name), p256)


def test_an_injected_counter_does_not_lift_an_old_image_over_the_minimum(build, p256, inject):
    old = build(security_counter=None)
    with pytest.raises(TlvNotAllowedError):
        verify(inject(old, TlvType.SEC_CNT, struct.pack("<I", 99)), p256, minimum_counter=5)


# ---- rollback


@pytest.mark.parametrize("minimum", [0, 6, 7])
def test_a_counter_at_or_above_the_minimum_passes(signed, p256, minimum):
    assert verify(signed, p256, minimum_counter=minimum, counter_required=True).security_counter == 7


def test_a_lowered_counter_is_refused(signed, p256):
    with pytest.raises(CounterTooLowError, match=r"is 7; the lowest one allowed is 8"):
        verify(signed, p256, minimum_counter=8)


@pytest.mark.parametrize("policy", [{"counter_required": True}, {"minimum_counter": 0}])
def test_a_missing_counter_is_refused_where_one_is_needed(build, p256, policy):
    data = build(security_counter=None)
    assert verify(data, p256).security_counter is None
    with pytest.raises(CounterMissingError):
        verify(data, p256, **policy)


def test_a_version_below_the_minimum_is_refused_and_the_minimum_itself_passes(signed, p256):
    assert verify(signed, p256, minimum_version=Version(1, 2, 3, 4))
    with pytest.raises(VersionTooLowError, match=r"1\.2\.3\+5"):
        verify(signed, p256, minimum_version=Version(1, 2, 3, 5))
