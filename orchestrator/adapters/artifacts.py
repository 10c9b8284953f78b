"""Files by their sha256, in a local folder or an object store (``obstore``: file, S3, GCS, Azure with one API).

A name is the digest of its content, so nothing is ever changed or overwritten, and two uploads of one file are one file. A file
appears under its name only when it is complete.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final

import obstore
from obstore.store import LocalStore, ObjectStore, from_url

from orchestrator.app.releases import ArtifactTooLargeError, Staged
from orchestrator.config import Settings
from orchestrator.errors import NotFoundError

READ_BYTES: Final = 64 * 1024
"""Bytes of one piece of a download: a gateway holds one per running download."""

WRITE_BYTES: Final = 1024 * 1024
"""Bytes gathered before they are written, each time in a thread."""

_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


def open_store(settings: Settings) -> ArtifactStore:
    """The store that the settings name."""
    return ArtifactStore(settings.artifact_store, settings.state_dir / "artifacts")


class ArtifactMissingError(NotFoundError):
    """There is no such artifact."""

    code = "artifact.not_found"


class ArtifactStore:
    """``orchestrator.app.releases.Files``, and reading.

    Args:
        url: ``file:///…``, ``s3://…``, ``gs://…``, ``az://…``; empty for ``folder``.
        folder: the local store's folder, created if missing.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self._folder: Path | None = None
        if not url or url.startswith("file://"):
            self._folder = Path(url.removeprefix("file://")) if url else folder.absolute()
            self._folder.mkdir(parents=True, exist_ok=True)
            self._store: ObjectStore = LocalStore(self._folder)
        else:
            self._store = from_url(url)

    @asynccontextmanager
    async def stage(self, chunks: AsyncIterable[bytes], limit: int) -> AsyncIterator[Staged]:
        """Receive into a temporary file, hashing on the way. Raises ArtifactTooLargeError."""
        digest, size = sha256(), 0
        with tempfile.NamedTemporaryFile(prefix="ota-artifact-") as file:

            def keep(data: bytes) -> None:
                digest.update(data)
                file.write(data)

            pending = bytearray()
            async for chunk in chunks:
                size += len(chunk)
                if size > limit:
                    raise ArtifactTooLargeError(f"The artifact has more than {limit} bytes.")
                pending += chunk
                if len(pending) >= WRITE_BYTES:
                    await asyncio.to_thread(keep, bytes(pending))
                    pending.clear()
            await asyncio.to_thread(keep, bytes(pending))
            await asyncio.to_thread(file.flush)
            yield Staged(path=Path(file.name), sha256=digest.hexdigest(), size=size)

    async def put(self, staged: Staged) -> None:
        """Keep it; nothing to do if it is there."""
        if not await self.exists(staged.sha256):
            await obstore.put_async(self._store, _key(staged.sha256), staged.path)

    async def exists(self, sha256: str) -> bool:
        try:
            await self.size(sha256)
        except ArtifactMissingError:
            return False
        return True

    async def size(self, sha256: str) -> int:
        """Bytes of the file. Raises ArtifactMissingError."""
        try:
            return (await obstore.head_async(self._store, _key(sha256)))["size"]
        except FileNotFoundError as why:
            raise _missing(sha256) from why

    async def open_range(self, sha256: str, start: int, end: int) -> AsyncIterator[bytes]:
        """Bytes ``start`` to ``end``, ``end`` not included, in pieces of about READ_BYTES. Raises ArtifactMissingError."""
        if end <= start:
            return
        try:
            found = await obstore.get_async(self._store, _key(sha256), options={"range": (start, end)})
        except FileNotFoundError as why:
            raise _missing(sha256) from why
        async for piece in found.stream(min_chunk_size=READ_BYTES):
            yield bytes(piece)

    def local_path(self, sha256: str) -> Path | None:
        """Where the file is, if it is on this machine."""
        path = None if self._folder is None else self._folder / _key(sha256)
        return path if path is not None and path.is_file() else None


def _missing(sha256: str) -> ArtifactMissingError:
    return ArtifactMissingError(f"There is no artifact {sha256}.")


def _key(sha256: str) -> str:
    if not _SHA256.fullmatch(sha256):
        raise _missing(sha256[:64])
    return f"sha256/{sha256[:2]}/{sha256}"
