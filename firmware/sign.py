"""Keys and signed images **for the demo and the tests only**.

A deployment signs where its release keys are kept, with its own build; the server never holds a release key. Images are
made by MCUboot's own imgtool, which is a development dependency and is imported when the first image is made.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from firmware.errors import ImgtoolMissingError, SigningFailedError
from firmware.image import Dependency
from firmware.keys import Algorithm

HEADER_SIZE: Final = 0x200
"""Bytes from the start of the image to its payload: Zephyr's default, which keeps the vector table aligned."""

SLOT_SIZE: Final = 0x80000
"""Bytes of a flash slot; imgtool refuses an image that leaves no room for the swap trailer."""

_PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_GENERATORS: Final[dict[Algorithm, Callable[[], _PrivateKey]]] = {
    Algorithm.RSA_2048: lambda: rsa.generate_private_key(65537, 2048),
    Algorithm.RSA_3072: lambda: rsa.generate_private_key(65537, 3072),
    Algorithm.ECDSA_P256: lambda: ec.generate_private_key(ec.SECP256R1()),
    Algorithm.ECDSA_P384: lambda: ec.generate_private_key(ec.SECP384R1()),
    Algorithm.ED25519: ed25519.Ed25519PrivateKey.generate,
}


class KeyPair(NamedTuple):
    """Both halves of a signing key, as PEM."""

    private_pem: bytes
    public_pem: bytes


def generate_key(path: Path, kind: str = "ecdsa-p256") -> KeyPair:
    """Make a signing key of one of the kinds in ``Algorithm``.

    The private key is written to ``path``, readable by its owner only, the public key to ``public_key_path(path)``.
    """
    key = _GENERATORS[Algorithm(kind)]()
    pair = KeyPair(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
    )
    path.touch()
    path.chmod(0o600)
    path.write_bytes(pair.private_pem)
    public_key_path(path).write_bytes(pair.public_pem)
    return pair


def public_key_path(path: Path) -> Path:
    """Where ``generate_key(path)`` puts the public key: ``release.pem`` → ``release.pub.pem``."""
    return path.with_suffix(".pub.pem")


def build_image(
    payload: bytes,
    *,
    version: str,
    security_counter: int | None,
    key: Path | None,
    header_size: int = HEADER_SIZE,
    slot_size: int = SLOT_SIZE,
    dependencies: Iterable[Dependency] = (),
    options: Sequence[str] = (),
) -> bytes:
    """Make a real MCUboot image around ``payload``.

    Not for use in several threads at once: imgtool talks on standard output, which is caught meanwhile.

    Args:
        payload: what would be the firmware.
        version: ``major.minor.revision+build``.
        security_counter: the protected counter against rollback; None leaves it out.
        key: file of the private key; None leaves the image unsigned.
        header_size: bytes of the padded header.
        slot_size: bytes of the flash slot.
        dependencies: versions that other images of the device must have.
        options: further options of ``imgtool sign``.

    Raises:
        ImgtoolMissingError: imgtool is not installed.
        SigningFailedError: imgtool refused; the detail is its message.
    """
    try:
        import click
        from imgtool.main import imgtool
    except ImportError as why:
        raise ImgtoolMissingError from why

    arguments = ["sign", "--version", version, "--header-size", hex(header_size), "--pad-header"]
    arguments += ["--align", "8", "--slot-size", hex(slot_size)]
    if security_counter is not None:
        arguments += ["--security-counter", str(security_counter)]
    if key is not None:
        arguments += ["--key", str(key)]
    if needed := ",".join(f"({index},{minimum})" for index, minimum in dependencies):
        arguments += ["--dependencies", needed]

    with tempfile.TemporaryDirectory(prefix="bellwether-sign-") as folder:
        unsigned, signed = Path(folder, "payload.bin"), Path(folder, "image.bin")
        unsigned.write_bytes(payload)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                imgtool.main([*arguments, *options, str(unsigned), str(signed)], standalone_mode=False)
        except (click.ClickException, OSError, ValueError) as why:
            raise SigningFailedError(f"imgtool: {why}") from why
        return signed.read_bytes()
