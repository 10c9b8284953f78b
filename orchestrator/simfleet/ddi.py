"""The hawkBit Direct Device Integration API as a careful client speaks it: bodies built, answers read. No I/O.

Beside it, the one body of the gateway's own interface: a report on health.

Format: https://www.eclipse.org/hawkbit/apis/ddi_api/. A client that looks at 200 only, needs sha256, and follows absolute links.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit

import msgspec

SUCCESS: Final = "success"
FAILURE: Final = "failure"
NONE: Final = "none"

APPLICATION: Final = "bApp"
"""Type of a chunk that is an application; one that comes alone is an image for the slots, whatever its type."""


class UnreadableError(Exception):
    """The answer is not what DDI promises."""


class _Link(msgspec.Struct):
    href: str


class _Polling(msgspec.Struct):
    sleep: str = ""


class _Config(msgspec.Struct):
    polling: _Polling = msgspec.field(default_factory=_Polling)


class _Links(msgspec.Struct, rename="camel"):
    deployment_base: _Link | None = None
    cancel_action: _Link | None = None
    config_data: _Link | None = None


class _Poll(msgspec.Struct):
    config: _Config = msgspec.field(default_factory=_Config)
    links: _Links = msgspec.field(default_factory=_Links, name="_links")


class _Hashes(msgspec.Struct):
    sha256: str


class _ArtifactLinks(msgspec.Struct):
    http: _Link | None = msgspec.field(default=None, name="download-http")
    https: _Link | None = msgspec.field(default=None, name="download")


class _Artifact(msgspec.Struct):
    filename: str
    size: int
    hashes: _Hashes
    links: _ArtifactLinks = msgspec.field(default_factory=_ArtifactLinks, name="_links")


class _Chunk(msgspec.Struct):
    artifacts: list[_Artifact]
    version: str = ""
    name: str = ""
    part: str = ""


class _Body(msgspec.Struct):
    chunks: list[_Chunk]


class _Deployment(msgspec.Struct):
    id: str
    deployment: _Body


class _Stop(msgspec.Struct, rename="camel"):
    stop_id: str


class _Cancel(msgspec.Struct, rename="camel"):
    id: str
    cancel_action: _Stop


_decode_poll = msgspec.json.Decoder(_Poll).decode
_decode_deployment = msgspec.json.Decoder(_Deployment).decode
_decode_cancel = msgspec.json.Decoder(_Cancel).decode


@dataclass(frozen=True, slots=True)
class Link:
    """A link to an action."""

    href: str
    action: str


@dataclass(frozen=True, slots=True)
class Poll:
    """What the poll root showed."""

    sleep: float | None
    """Seconds; None when unreadable."""
    deployment: Link | None
    cancel: Link | None
    wants_attributes: bool


@dataclass(frozen=True, slots=True)
class Part:
    """A component with its artifact."""

    name: str
    application: bool
    """Installed beside the running system; else it is the system's image."""
    href: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Deployment:
    """What to install, in order: an image for the slots, or several components of which it is the last."""

    action: str
    version: str
    parts: tuple[Part, ...]


def base_url(gateway: str, tenant: str, device_id: str) -> str:
    return f"{gateway}/{tenant}/controller/v1/{quote(device_id, safe='')}"


def read_poll(body: bytes) -> Poll:
    """What the poll root says.

    Raises:
        UnreadableError: it is not DDI.
    """
    try:
        poll = _decode_poll(body)
    except msgspec.DecodeError as error:
        raise UnreadableError(str(error)) from error
    links = poll.links
    return Poll(
        sleep=_seconds(poll.config.polling.sleep),
        deployment=_link(links.deployment_base),
        cancel=_link(links.cancel_action),
        wants_attributes=links.config_data is not None,
    )


def read_deployment(body: bytes) -> Deployment:
    """What to install, in order.

    Raises:
        UnreadableError: also where a chunk has several artifacts, or an image for the slots is not the last.
    """
    try:
        answer = _decode_deployment(body)
        chunks = answer.deployment.chunks
        parts = tuple(_part(chunk, alone=len(chunks) == 1) for chunk in chunks)
    except (msgspec.DecodeError, ValueError) as error:
        raise UnreadableError(str(error)) from error
    if not parts or not all(part.application for part in parts[:-1]):
        raise UnreadableError("there is nothing to install, or an OS image is not the last")
    return Deployment(answer.id, chunks[0].version, parts)


def _part(chunk: _Chunk, *, alone: bool) -> Part:
    (artifact,) = chunk.artifacts
    link = artifact.links.http or artifact.links.https
    if link is None:
        raise ValueError("the artifact has no download link")
    application = chunk.part == APPLICATION and not alone
    return Part(chunk.name, application, link.href, artifact.size, artifact.hashes.sha256)


def read_cancel(body: bytes) -> str:
    """The action to stop.

    Raises:
        UnreadableError: it is not DDI.
    """
    try:
        return _decode_cancel(body).cancel_action.stop_id
    except msgspec.DecodeError as error:
        raise UnreadableError(str(error)) from error


def feedback(action: str, execution: str, finished: str, details: Sequence[str] = ()) -> bytes:
    """The body of a report about an action."""
    status: dict[str, Any] = {"execution": execution, "result": {"finished": finished}}
    if details:
        status["details"] = list(details)
    return msgspec.json.encode({"id": action, "status": status})


def config_data(attributes: dict[str, str]) -> bytes:
    """The body of configData."""
    return msgspec.json.encode({"mode": "merge", "data": attributes})


def health_url(gateway: str, device_id: str) -> str:
    return f"{gateway}/device/v1/{quote(device_id, safe='')}/health"


def health(period: int, crashes: int, exposure_ms: int) -> bytes:
    """The body of a report on one period's crashes."""
    return msgspec.json.encode({"signal": "crash", "period": period, "events": crashes, "exposure_ms": exposure_ms})


def _link(link: _Link | None) -> Link | None:
    if link is None:
        return None
    return Link(link.href, urlsplit(link.href).path.rstrip("/").rpartition("/")[2])


def _seconds(text: str) -> float | None:
    hours, _, rest = text.partition(":")
    minutes, _, seconds = rest.partition(":")
    try:
        return int(hours) * 3600.0 + int(minutes) * 60.0 + int(seconds)
    except ValueError:
        return None
