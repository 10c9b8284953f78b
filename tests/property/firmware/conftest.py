"""Small real images, so that thousands of mutations of them are cheap."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from firmware.keys import TrustedKey, load_public_key
from firmware.sign import build_image, generate_key


@dataclass(frozen=True)
class Workshop:
    """Two keys of one kind, of which devices trust the first."""

    folder: object
    key: TrustedKey

    def build(self, *, major: int = 1, counter: int | None = 1, signer: str = "ours", options: tuple[str, ...] = ()):
        return build_image(
            b"payload." * 16,
            version=f"{major}.2.3+4",
            security_counter=counter,
            key=self.folder / f"{signer}.pem",
            header_size=0x20,
            options=options,
        )


@pytest.fixture(scope="session")
def workshops(tmp_path_factory) -> dict[str, Workshop]:
    made = {}
    for kind in ("ecdsa-p256", "ed25519"):
        folder = tmp_path_factory.mktemp(kind)
        ours = generate_key(folder / "ours.pem", kind)
        generate_key(folder / "theirs.pem", kind)
        made[kind] = Workshop(folder, load_public_key(ours.public_pem))
    return made
