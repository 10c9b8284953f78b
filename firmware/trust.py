"""Verification of images against trusted public keys: bytes in, facts out, no I/O.

``verify_image`` checks in this order and stops at the first refusal:

1. structure (``image``);
2. not encrypted, signed, pure only where allowed;
3. the key that the image names is a trusted one, and hash and signature are of the kinds that *this key* demands;
4. the hash over header, payload and protected records; 5. the signature;
6. security counter; 7. version.

The image digest says what was signed, not which file this is: unsigned records can differ under one valid signature. So
artifacts are identified by the sha256 of the file, and the image digest is kept beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from firmware.errors import (
    AlgorithmMismatchError,
    CounterMissingError,
    CounterTooLowError,
    EncryptedUnsupportedError,
    HashMismatchError,
    KeyMismatchError,
    NoTrustedKeysError,
    PureNotAllowedError,
    UnsignedImageError,
    VersionTooLowError,
)
from firmware.image import Dependency, Image, parse_image
from firmware.keys import Algorithm, TrustedKey, load_public_key
from firmware.tlv import Tlv, TlvType
from firmware.version import Version

__all__ = ["TrustedKey", "VerifiedImage", "check_counter", "load_public_key", "verify_image"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedImage:
    """What is known about a file after its signature was verified. Digests are lower-case hex, sizes are bytes."""

    version: Version
    size: int
    """Of the whole file."""
    payload_size: int
    sha256: str
    """Of the whole file, as are ``sha1`` and ``md5``, which the hawkBit DDI protocol hands to devices."""
    sha1: str
    md5: str
    image_digest: str
    """Over header, payload and protected records; the same whichever key signed."""
    hash_algorithm: str
    security_counter: int | None
    dependencies: tuple[Dependency, ...]
    vendor_id: UUID | None
    class_id: UUID | None
    key_id: str
    algorithm: Algorithm

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {
            "version": str(self.version),
            "size": self.size,
            "payload_size": self.payload_size,
            "sha256": self.sha256,
            "sha1": self.sha1,
            "md5": self.md5,
            "image_digest": self.image_digest,
            "hash_algorithm": self.hash_algorithm,
            "security_counter": self.security_counter,
            "dependencies": [
                {"image_index": needed.image_index, "minimum_version": str(needed.minimum_version)}
                for needed in self.dependencies
            ],
            "vendor_id": str(self.vendor_id) if self.vendor_id else None,
            "class_id": str(self.class_id) if self.class_id else None,
            "key_id": self.key_id,
            "algorithm": str(self.algorithm),
        }


def verify_image(
    data: bytes,
    keys: Sequence[TrustedKey],
    *,
    minimum_counter: int | None,
    minimum_version: Version | None,
    counter_required: bool,
    allow_pure: bool = False,
) -> VerifiedImage:
    """Verify that ``data`` is exactly one image, signed by one of ``keys`` and not older than allowed.

    Args:
        data: the whole file.
        keys: the trusted keys; one of them must have signed.
        minimum_counter: the lowest security counter allowed, itself included. With one, a counter is required.
        minimum_version: the lowest version allowed, itself included.
        counter_required: refuse an image without a security counter. Wanted as soon as the hardware model has used one:
            an old image without a counter would defeat the rollback protection of a bootloader that accepts it.
        allow_pure: accept Ed25519 signatures over the image itself, for bootloaders built with MCUBOOT_SIGN_PURE.

    Raises:
        ImageError: the image was refused; the subclass and its ``code`` say why.
        NoTrustedKeysError: ``keys`` is empty.
    """
    if not keys:
        raise NoTrustedKeysError
    image = parse_image(data)
    if image.encrypted:
        raise EncryptedUnsupportedError
    key, signature = _signer(image, keys)
    _check_algorithm(image, key, signature, allow_pure=allow_pure)
    digest = _check_hash(image)
    key.check_signature(signature.value, digest=digest, message=image.hashed_region if image.pure else digest)
    check_counter(image.security_counter, minimum=minimum_counter, required=counter_required)
    if minimum_version is not None and image.version < minimum_version:
        raise VersionTooLowError(f"The image is version {image.version}; the lowest one allowed is {minimum_version}.")
    return VerifiedImage(
        version=image.version,
        size=len(data),
        payload_size=image.payload_size,
        sha256=image.file_sha256,
        sha1=hashlib.sha1(data, usedforsecurity=False).hexdigest(),
        md5=hashlib.md5(data, usedforsecurity=False).hexdigest(),
        image_digest=image.image_digest,
        hash_algorithm=image.hash_algorithm,
        security_counter=image.security_counter,
        dependencies=image.dependencies,
        vendor_id=image.vendor_id,
        class_id=image.class_id,
        key_id=key.key_id,
        algorithm=key.algorithm,
    )


def check_counter(counter: int | None, *, minimum: int | None, required: bool) -> None:
    """Apply the rule of hardware rollback protection: at least ``minimum``, and present if there is a minimum.

    Raises:
        CounterMissingError: there is no counter where one is needed.
        CounterTooLowError: it is below ``minimum``.
    """
    if counter is None:
        if required or minimum is not None:
            raise CounterMissingError
    elif minimum is not None and counter < minimum:
        raise CounterTooLowError(
            f"The security counter of the image is {counter}; the lowest one allowed is {minimum}."
        )


def _signer(image: Image, keys: Sequence[TrustedKey]) -> tuple[TrustedKey, Tlv]:
    named, signature = image.key_tlv, image.signature_tlv
    if named is None or signature is None:
        raise UnsignedImageError
    for key in keys:
        name = key.mcuboot_bytes
        if named.type == TlvType.KEYHASH:
            # MCUboot hashes the key with the algorithm that hashes the image.
            name = hashlib.new(image.hash_algorithm, name).digest()
        if named.value == name:
            return key, signature
    trusted = ", ".join(key.key_id for key in keys)
    raise KeyMismatchError(f"The image names a signing key that is not trusted here; trusted are {trusted}.")


def _check_algorithm(image: Image, key: TrustedKey, signature: Tlv, *, allow_pure: bool) -> None:
    scheme = key.scheme
    if image.hash_tlv.type not in scheme.hashes:
        raise AlgorithmMismatchError(
            f"The image is hashed with {image.hash_algorithm}, which a {key.algorithm} key excludes."
        )
    if signature.type != scheme.signature:
        raise AlgorithmMismatchError(f"The signature is {signature.name}, which a {key.algorithm} key excludes.")
    if image.pure:
        if key.algorithm is not Algorithm.ED25519:
            raise AlgorithmMismatchError(f"The signature is pure, which a {key.algorithm} key excludes.")
        if not allow_pure:
            raise PureNotAllowedError


def _check_hash(image: Image) -> bytes:
    digest = hashlib.new(image.hash_algorithm, image.hashed_region).digest()
    if digest != image.hash_tlv.value:
        raise HashMismatchError(f"The content hashes to {digest.hex()}, the image states {image.image_digest}.")
    return digest
