"""Signing keys of every type and images that the real imgtool makes with them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from firmware.image import parse_image
from firmware.keys import Algorithm, TrustedKey, load_public_key
from firmware.sign import build_image, generate_key

PAYLOAD = bytes(range(256)) * 20


@dataclass(frozen=True)
class Signer:
    path: Path
    public_pem: bytes
    trusted: TrustedKey

    @classmethod
    def make(cls, path: Path, kind: str) -> Signer:
        public_pem = generate_key(path, kind).public_pem
        return cls(path, public_pem, load_public_key(public_pem))


@pytest.fixture(scope="session")
def signers(tmp_path_factory) -> dict[str, Signer]:
    """One signer per algorithm, and ``other``: a second P-256 key that nobody trusts."""
    folder = tmp_path_factory.mktemp("keys")
    made = {str(kind): Signer.make(folder / f"{kind}.pem", kind) for kind in Algorithm}
    return made | {"other": Signer.make(folder / "other.pem", Algorithm.ECDSA_P256)}


@pytest.fixture(scope="session")
def p256(signers) -> Signer:
    return signers["ecdsa-p256"]


@pytest.fixture(scope="session")
def build(p256) -> Callable[..., bytes]:
    """An image with sensible defaults; ``options`` are further options of ``imgtool sign``."""

    def make(*options: str, key: Path | None = p256.path, payload: bytes = PAYLOAD, **changed) -> bytes:
        given = {"version": "1.2.3+4", "security_counter": 7} | changed
        return build_image(payload, key=key, options=options, **given)

    return make


@pytest.fixture(scope="session")
def signed(build) -> bytes:
    return build()


def _inject(data: bytes, type_: int, value: bytes) -> bytes:
    image = parse_image(data)
    info_at = len(image.hashed_region)
    (size,) = struct.unpack_from("<H", data, info_at + 2)
    record = struct.pack("<HH", type_, len(value)) + value
    changed = bytearray(data[: info_at + size] + record + data[info_at + size :])
    struct.pack_into("<H", changed, info_at + 2, size + len(record))
    return bytes(changed)


@pytest.fixture(scope="session")
def inject() -> Callable[[bytes, int, bytes], bytes]:
    """Append a record to the unprotected area of an image: its signature stays valid."""
    return _inject
