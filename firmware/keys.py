"""Public keys that images are verified with, and what each demands of an image.

The **trusted key** decides the algorithm, never the image: an image can state anything about itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from firmware.errors import KeyUnreadableError, KeyUnsupportedError, PrivateKeyGivenError, SignatureInvalidError
from firmware.tlv import TlvType

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

KEY_ID_LENGTH: Final = 16
"""Hex digits of the key's digest that name it to people."""

_PSS_SALT_LENGTH: Final = 32


class Algorithm(StrEnum):
    """A type of signing key, named like imgtool names it."""

    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    ECDSA_P256 = "ecdsa-p256"
    ECDSA_P384 = "ecdsa-p384"
    ED25519 = "ed25519"


@dataclass(frozen=True, slots=True)
class Scheme:
    """The records that MCUboot expects of an image signed with one type of key."""

    signature: TlvType
    hashes: frozenset[TlvType]


SCHEMES: Final[Mapping[Algorithm, Scheme]] = {
    Algorithm.RSA_2048: Scheme(TlvType.RSA2048_PSS, frozenset({TlvType.SHA256})),
    Algorithm.RSA_3072: Scheme(TlvType.RSA3072_PSS, frozenset({TlvType.SHA256})),
    Algorithm.ECDSA_P256: Scheme(TlvType.ECDSA, frozenset({TlvType.SHA256})),
    Algorithm.ECDSA_P384: Scheme(TlvType.ECDSA, frozenset({TlvType.SHA384})),
    Algorithm.ED25519: Scheme(TlvType.ED25519, frozenset({TlvType.SHA256, TlvType.SHA512})),
}

_RSA: Final = {2048: Algorithm.RSA_2048, 3072: Algorithm.RSA_3072}
_EC: Final = {"secp256r1": Algorithm.ECDSA_P256, "secp384r1": Algorithm.ECDSA_P384}

_ECDSA_HASH: Final = {Algorithm.ECDSA_P256: hashes.SHA256(), Algorithm.ECDSA_P384: hashes.SHA384()}
_ECDSA_LONGEST: Final = {Algorithm.ECDSA_P256: 72, Algorithm.ECDSA_P384: 104}
"""Bytes of the longest DER signature. imgtool's --pad-sig fills shorter ones up with zeros."""


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key whose signatures count. Equal and hashable by its DER form."""

    key_id: str = field(compare=False)
    """The first hex digits of the sha256 of the DER SubjectPublicKeyInfo."""
    algorithm: Algorithm = field(compare=False)
    spki: bytes = field(repr=False)
    public_key: PublicKey = field(repr=False, compare=False)

    @property
    def scheme(self) -> Scheme:
        return SCHEMES[self.algorithm]

    @property
    def mcuboot_bytes(self) -> bytes:
        """The key as an image names it: PKCS#1 for RSA, SubjectPublicKeyInfo for the others, both DER."""
        if not isinstance(self.public_key, rsa.RSAPublicKey):
            return self.spki
        return self.public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)

    def check_signature(self, signature: bytes, *, digest: bytes, message: bytes | memoryview) -> None:
        """Check a signature by this key.

        ``digest`` is the digest that RSA and ECDSA sign; ``message`` is what Ed25519 signs: the digest again, or the
        whole hashed region if pure.

        Raises:
            SignatureInvalidError: this key did not sign that.
        """
        try:
            if isinstance(self.public_key, rsa.RSAPublicKey):
                pss = padding.PSS(padding.MGF1(hashes.SHA256()), salt_length=_PSS_SALT_LENGTH)
                self.public_key.verify(signature, digest, pss, utils.Prehashed(hashes.SHA256()))
            elif isinstance(self.public_key, ec.EllipticCurvePublicKey):
                scheme = ec.ECDSA(utils.Prehashed(_ECDSA_HASH[self.algorithm]))
                self.public_key.verify(_unpadded(signature, _ECDSA_LONGEST[self.algorithm]), digest, scheme)
            else:
                self.public_key.verify(signature, message)
        except InvalidSignature:
            raise SignatureInvalidError(f"The signature is not that of key {self.key_id} for this image.") from None


def load_public_key(pem: bytes) -> TrustedKey:
    """Read a PEM public key.

    Raises:
        PrivateKeyGivenError: it is a private key.
        KeyUnreadableError: it is not a PEM public key.
        KeyUnsupportedError: MCUboot has no signatures with this type, size or curve.
    """
    if b"PRIVATE KEY-----" in pem:
        raise PrivateKeyGivenError
    try:
        key = serialization.load_pem_public_key(pem)
    except UnsupportedAlgorithm as why:
        raise KeyUnsupportedError from why
    except ValueError as why:
        raise KeyUnreadableError from why
    if not isinstance(key, PublicKey):
        raise KeyUnsupportedError
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return TrustedKey(hashlib.sha256(spki).hexdigest()[:KEY_ID_LENGTH], _algorithm(key), spki, key)


def _algorithm(key: PublicKey) -> Algorithm:
    if isinstance(key, ed25519.Ed25519PublicKey):
        return Algorithm.ED25519
    if isinstance(key, rsa.RSAPublicKey):
        found, kind = _RSA.get(key.key_size), f"RSA with {key.key_size} bits"
    else:
        found, kind = _EC.get(key.curve.name), f"ECDSA on {key.curve.name}"
    if found is None:
        raise KeyUnsupportedError(f"MCUboot has no signatures with {kind}.")
    return found


def _unpadded(signature: bytes, longest: int) -> bytes:
    """The DER signature without the zeros that imgtool's --pad-sig appends. DER lengths here always take one byte."""
    if len(signature) < 2:
        raise InvalidSignature
    length = signature[1] + 2
    if len(signature) > longest or any(signature[length:]):
        raise InvalidSignature
    return signature[:length]
