"""Hardware models, the keys they trust, artifacts, and the releases made of them.

An artifact enters in this order, and a refusal leaves nothing behind: received into a temporary file, hashed, verified against the
model's trusted keys, put into the content-addressed store, recorded. A file in the store that no event names is harmless: it is
named by its digest, and the next upload of it finds it there.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final, Protocol

from msgspec import Struct, to_builtins

from orchestrator.app.ports import Meta, VersionConflictError
from orchestrator.app.registry import (
    AlreadyExistsError,
    Artifact,
    HardwareModel,
    HardwareModelNotFoundError,
    NewId,
    Registry,
    Release,
    Traceparent,
    TrustedKey,
    untraced,
)
from orchestrator.app.release_content import check_content
from orchestrator.domain import components as parts
from orchestrator.domain.digest import digest_of
from orchestrator.domain.profile import parse_profile
from orchestrator.errors import ConflictError, InvalidInputError, OtaError
from schemas.registry_events import (
    ArtifactStored,
    HardwareModelCreated,
    ReleaseComponent,
    ReleaseRegistered,
    TrustedKeyAdded,
)

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,62}", re.ASCII)
_FILENAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+@()-]{0,126}", re.ASCII)
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


# --------------------------------------------------------------------------- ports


class Staged(Struct, frozen=True, kw_only=True):
    """A file that was received and is not yet kept. Digests are lower-case hex, ``size`` is bytes."""

    path: Path
    sha256: str
    size: int


class Files(Protocol):
    """Files by their sha256."""

    def stage(self, chunks: AsyncIterable[bytes], limit: int) -> AbstractAsyncContextManager[Staged]:
        """Receive into a temporary file that is gone afterwards. Raises ArtifactTooLargeError beyond ``limit`` bytes."""
        ...

    async def put(self, staged: Staged) -> None:
        """Keep it for ever; nothing to do if it is there."""
        ...


class KeyFacts(Struct, frozen=True, kw_only=True):
    """A public key that the verifier can use."""

    key_id: str
    algorithm: str


class ImageFacts(Struct, frozen=True, kw_only=True):
    """What the verifier found in an image. Digests are of the whole file, lower-case hex."""

    sha256: str
    sha1: str
    md5: str
    size: int
    image: dict[str, Any]


class ImageVerifier(Protocol):
    """The intake gate for firmware. Both raise ImageRefusedError with the code of the refusal."""

    async def read_key(self, pem: str) -> KeyFacts: ...

    async def verify(
        self, path: Path, pems: list[str], *, minimum_counter: int | None, counter_required: bool
    ) -> ImageFacts: ...


# --------------------------------------------------------------------------- errors


class ImageRefusedError(OtaError):
    """The image or key was refused."""

    code = "firmware.invalid"
    status = 422

    def __init__(self, detail: str, *, code: str, remedy: str) -> None:
        super().__init__(detail, remedy=remedy)
        self.code = code


class ArtifactTooLargeError(OtaError):
    """The artifact is larger than allowed."""

    code = "artifact.too_large"
    status = 413
    remedy = "Check that this is a firmware image; OTA_MAX_ARTIFACT_BYTES is the limit."


class ArtifactEmptyError(InvalidInputError):
    """There is no content."""

    code = "artifact.empty"
    remedy = "Send the file as the body of the request."


class DigestMismatchError(InvalidInputError):
    """The content does not have the stated sha256."""

    code = "artifact.digest_mismatch"
    remedy = "Upload the file again; it was damaged on the way, or the digest is of another file."


class RegistryNameError(InvalidInputError):
    """The name cannot be used."""

    code = "registry.name"


class HardwareModelExistsError(ConflictError):
    """There is a hardware model of that name already."""

    code = "hardware_model.exists"


class KeyTrustedError(ConflictError):
    """The hardware model trusts this key already."""

    code = "hardware_model.key_exists"


class ReleaseExistsError(ConflictError):
    """There is a release of that name and version already."""

    code = "release.exists"
    remedy = "Give it another version: what a version means never changes."


# --------------------------------------------------------------------------- use cases


class Releases:
    """Hardware models, trusted keys, artifacts, releases.

    Args:
        registry: where they are kept.
        files: where artifacts are kept.
        verifier: the intake gate.
        new_id: makes release ids.
        max_artifact_bytes: largest artifact.
        traceparent: the current span's context.
    """

    def __init__(
        self,
        registry: Registry,
        files: Files,
        verifier: ImageVerifier,
        *,
        new_id: NewId,
        max_artifact_bytes: int,
        traceparent: Traceparent = untraced,
    ) -> None:
        self._registry = registry
        self._files = files
        self._verifier = verifier
        self._new_id = new_id
        self._max_bytes = max_artifact_bytes
        self._traceparent = traceparent

    async def create_hardware_model(
        self, name: str, profile: Mapping[str, Any], *, actor: str, command_id: str
    ) -> HardwareModel:
        """Create a hardware model. ``profile`` says how its clients speak (``orchestrator.domain.profile``).

        Raises ProfileError, HardwareModelExistsError.
        """
        _require_name(name, "hardware model")
        parse_profile(profile)
        event = HardwareModelCreated(name=name, profile=dict(profile), actor=actor)
        try:
            recorded = await self._registry.record(
                f"hardware-model/{name}", [event], command_id=command_id, meta=self._meta(actor), expected_version=0
            )
        except VersionConflictError as why:
            raise HardwareModelExistsError(f"There is a hardware model '{name}' already.") from why
        made: HardwareModelCreated = recorded[0].event
        return HardwareModel(name=made.name, profile=made.profile, created_at=recorded[0].recorded_at)

    async def add_trusted_key(self, hardware_model: str, pem: str, *, actor: str, command_id: str) -> TrustedKey:
        """Trust a public key for the images of a hardware model.

        Raises HardwareModelNotFoundError, ImageRefusedError (no usable public key), KeyTrustedError.
        """
        await self._require_model(hardware_model)
        facts = await self._verifier.read_key(pem)
        event = TrustedKeyAdded(
            key_id=facts.key_id, hardware_model=hardware_model, algorithm=facts.algorithm, pem=pem, actor=actor
        )
        try:
            recorded = await self._registry.record(
                f"hardware-model/{hardware_model}", [event], command_id=command_id, meta=self._meta(actor)
            )
        except AlreadyExistsError as why:
            raise KeyTrustedError(f"'{hardware_model}' trusts key {facts.key_id} already.") from why
        made: TrustedKeyAdded = recorded[0].event
        return TrustedKey(
            key_id=made.key_id,
            hardware_model=made.hardware_model,
            algorithm=made.algorithm,
            pem=made.pem,
            added_at=recorded[0].recorded_at,
        )

    async def store_artifact(
        self,
        chunks: AsyncIterable[bytes],
        *,
        filename: str,
        hardware_model: str,
        declared_sha256: str | None,
        actor: str,
        command_id: str,
    ) -> Artifact:
        """Receive, verify and keep an image; one that is kept for the model already is returned as it is.

        Once an image of the model had a security counter, each further one needs a counter at least as high.

        Raises HardwareModelNotFoundError, ArtifactTooLargeError, ArtifactEmptyError, DigestMismatchError, ImageRefusedError.
        """
        if not _FILENAME.fullmatch(filename):
            raise RegistryNameError(
                f"{filename[:64]!r} is not a file name: 1 to 127 of letters, digits, blanks, . _ + @ ( ) -."
            )
        if declared_sha256 is not None and not _SHA256.fullmatch(declared_sha256):
            raise RegistryNameError("A sha256 is 64 lower-case hexadecimal digits.")
        await self._require_model(hardware_model)
        async with self._files.stage(chunks, self._max_bytes) as staged:
            if not staged.size:
                raise ArtifactEmptyError
            if declared_sha256 is not None and declared_sha256 != staged.sha256:
                raise DigestMismatchError(f"The content has sha256 {staged.sha256}, not {declared_sha256}.")
            if known := await self._registry.artifact(staged.sha256, hardware_model):
                return known
            facts = await self._verify(staged, hardware_model)
            await self._files.put(staged)
        event = ArtifactStored(
            sha256=facts.sha256,
            sha1=facts.sha1,
            md5=facts.md5,
            size=facts.size,
            filename=filename,
            hardware_model=hardware_model,
            image=facts.image,
            actor=actor,
        )
        try:
            recorded = await self._registry.record(
                f"artifact/{hardware_model}/{facts.sha256}",
                [event],
                command_id=command_id,
                meta=self._meta(actor),
                expected_version=0,
            )
        except VersionConflictError:
            # The same file came twice at the same time.
            if known := await self._registry.artifact(facts.sha256, hardware_model):
                return known
            raise
        return artifact_of(recorded[0].event, recorded[0].recorded_at)

    async def register_release(
        self,
        name: str,
        version: str,
        artifacts: Mapping[str, str],
        components: Mapping[str, Sequence[ReleaseComponent]] | None = None,
        *,
        actor: str,
        command_id: str,
    ) -> Release:
        """Make a release of artifacts: one per hardware model (model to sha256), or several components.

        Raises ReleaseError, ReleaseExistsError.
        """
        _require_name(name, "release")
        if not _VERSION.fullmatch(version):
            raise RegistryNameError(f"{version[:64]!r} is not a version: 1 to 63 of letters, digits and . _ + ~ -.")
        given = components or {}
        await check_content(self._registry, artifacts, given)
        in_order = {model: parts.ordered(given[model]) for model in sorted(given)}
        every = {**artifacts, **{model: found[-1].sha256 for model, found in in_order.items()}}
        plain: dict[str, Any] = {"name": name, "version": version, "artifacts": every}
        if in_order:  # releases of single artifacts keep the digests that they always had
            plain["components"] = to_builtins(in_order)
        event = ReleaseRegistered(
            release_id=self._new_id("rel"),
            name=name,
            version=version,
            artifacts=every,
            components=in_order,
            digest=digest_of(plain),
            actor=actor,
        )
        try:
            recorded = await self._registry.record(
                f"release/{name}/{version}", [event], command_id=command_id, meta=self._meta(actor), expected_version=0
            )
        except VersionConflictError as why:
            raise ReleaseExistsError(f"There is a release {name} {version} already.") from why
        made: ReleaseRegistered = recorded[0].event
        return Release(
            release_id=made.release_id,
            name=made.name,
            version=made.version,
            artifacts=made.artifacts,
            components=made.components,
            digest=made.digest,
            created_at=recorded[0].recorded_at,
        )

    async def _verify(self, staged: Staged, hardware_model: str) -> ImageFacts:
        keys = await self._registry.trusted_keys(hardware_model)
        highest = await self._registry.highest_counter(hardware_model)
        return await self._verifier.verify(
            staged.path, [key.pem for key in keys], minimum_counter=highest, counter_required=highest is not None
        )

    async def _require_model(self, name: str) -> None:
        if name not in await self._registry.hardware_models([name]):
            raise HardwareModelNotFoundError(f"There is no hardware model {name[:64]!r}.")

    def _meta(self, actor: str) -> Meta:
        return Meta(actor=actor, traceparent=self._traceparent())


def artifact_of(event: ArtifactStored, stored_at: int) -> Artifact:
    """The row that follows from the event."""
    return Artifact(
        sha256=event.sha256,
        hardware_model=event.hardware_model,
        sha1=event.sha1,
        md5=event.md5,
        size=event.size,
        filename=event.filename,
        image=event.image,
        stored_at=stored_at,
    )


def _require_name(name: str, what: str) -> None:
    if not _NAME.fullmatch(name):
        raise RegistryNameError(f"{name[:64]!r} is not a name of a {what}: 1 to 63 of letters, digits and . _ -.")
