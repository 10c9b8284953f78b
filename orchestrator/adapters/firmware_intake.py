"""The intake gate for firmware: ``orchestrator.app.releases.ImageVerifier`` by the package ``firmware``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from firmware.errors import FirmwareError
from firmware.trust import VerifiedImage, load_public_key, verify_image
from orchestrator.app.releases import ImageFacts, ImageRefusedError, KeyFacts

_FILE_FACTS = frozenset({"sha256", "sha1", "md5", "size"})


class McubootVerifier:
    """Verifies MCUboot images. One at a time, because an image is read whole: memory stays bounded by the largest artifact."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def read_key(self, pem: str) -> KeyFacts:
        try:
            key = load_public_key(pem.encode())
        except FirmwareError as why:
            raise _refused(why) from why
        return KeyFacts(key_id=key.key_id, algorithm=str(key.algorithm))

    async def verify(
        self, path: Path, pems: list[str], *, minimum_counter: int | None, counter_required: bool
    ) -> ImageFacts:
        def work() -> VerifiedImage:
            return verify_image(
                path.read_bytes(),
                [load_public_key(pem.encode()) for pem in pems],
                minimum_counter=minimum_counter,
                minimum_version=None,
                counter_required=counter_required,
            )

        async with self._turn:
            try:
                found = await asyncio.to_thread(work)
            except FirmwareError as why:
                raise _refused(why) from why
        image: dict[str, Any] = {name: value for name, value in found.to_dict().items() if name not in _FILE_FACTS}
        return ImageFacts(sha256=found.sha256, sha1=found.sha1, md5=found.md5, size=found.size, image=image)


def _refused(why: FirmwareError) -> ImageRefusedError:
    return ImageRefusedError(why.detail, code=why.code, remedy=why.remedy)
