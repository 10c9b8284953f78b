from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa

from firmware.errors import KeyUnreadableError, KeyUnsupportedError, PrivateKeyGivenError
from firmware.keys import Algorithm, load_public_key


def pem_of(private_key) -> bytes:
    return private_key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@pytest.mark.parametrize("kind", list(Algorithm))
def test_the_algorithm_is_read_from_the_key(signers, kind):
    assert signers[kind].trusted.algorithm is kind


def test_the_key_id_is_the_start_of_the_digest_of_the_der_key(p256):
    der = serialization.load_pem_public_key(p256.public_pem).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert p256.trusted.key_id == hashlib.sha256(der).hexdigest()[:16]


def test_the_same_key_read_twice_is_equal_and_another_is_not(signers, p256):
    assert {load_public_key(p256.public_pem), p256.trusted} == {p256.trusted}
    assert p256.trusted != signers["other"].trusted


def test_a_private_key_is_refused_without_being_echoed(p256):
    with pytest.raises(PrivateKeyGivenError) as refusal:
        load_public_key(p256.path.read_bytes())
    assert "BEGIN" not in refusal.value.detail


@pytest.mark.parametrize(
    "pem", [b"", b"hello", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", b"\xff\xfe\x00"]
)
def test_what_is_no_pem_public_key_is_unreadable(pem):
    with pytest.raises(KeyUnreadableError):
        load_public_key(pem)


@pytest.mark.parametrize(
    "private_key",
    [
        pytest.param(rsa.generate_private_key(65537, 1024), id="rsa-1024"),
        pytest.param(ec.generate_private_key(ec.SECP256K1()), id="secp256k1"),
        pytest.param(ec.generate_private_key(ec.SECP521R1()), id="p-521"),
        pytest.param(ed448.Ed448PrivateKey.generate(), id="ed448"),
    ],
)
def test_keys_that_mcuboot_cannot_use_are_unsupported(private_key):
    with pytest.raises(KeyUnsupportedError) as refusal:
        load_public_key(pem_of(private_key))
    assert refusal.value.code == "firmware.key.unsupported"
