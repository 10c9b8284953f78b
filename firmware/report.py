"""Verification of an image file, for the command line: the one module here that reads files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from firmware.errors import FileTooLargeError, FileUnreadableError
from firmware.trust import load_public_key, verify_image

MAX_IMAGE_BYTES: Final = 256 * 1024 * 1024
"""Largest image file read, in bytes: far above the flash of devices that run MCUboot, far below a machine's memory."""

MAX_KEY_BYTES: Final = 64 * 1024
"""Largest key file read, in bytes: an RSA-3072 public key in PEM takes about 600."""


def verify_file(path: Path, key_paths: Sequence[Path], *, allow_pure: bool = False) -> dict[str, Any]:
    """Verify the image in ``path`` against the PEM public keys in ``key_paths``.

    Returns ``VerifiedImage.to_dict()`` with the name of the file and of the key that verified it.

    Raises:
        FirmwareError: a file cannot be read or the image is refused; ``code`` says why.
    """
    keys = {load_public_key(_read(key_path, MAX_KEY_BYTES)): key_path for key_path in key_paths}
    verified = verify_image(
        _read(path, MAX_IMAGE_BYTES),
        list(keys),
        minimum_counter=None,
        minimum_version=None,
        counter_required=False,
        allow_pure=allow_pure,
    )
    by = next(key_path for key, key_path in keys.items() if key.key_id == verified.key_id)
    return {"file": str(path), **verified.to_dict(), "key_file": str(by)}


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as why:
        raise FileUnreadableError(f"{path}: {why.strerror}.") from why
    if len(data) > limit:
        raise FileTooLargeError(f"{path} is larger than {limit} bytes.")
    return data
