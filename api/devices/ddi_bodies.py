"""What the gateway answers, in the words of hawkBit's device interface (https://www.eclipse.org/hawkbit/apis/ddi_api/). Pure.

Bodies are kept small (Zephyr's client reads 1,100 bytes at a time) and their links absolute. Never said: ``update: skip``, which
SWUpdate answers with success although nothing is installed, and ``confirmationBase``, which no client understands.
"""

from __future__ import annotations

from binascii import crc32
from typing import Any, Final
from urllib.parse import quote

import msgspec

from orchestrator.app.ports import OfferedComponent, OfferView
from orchestrator.domain.components import Kind, module_id
from orchestrator.domain.profile import Profile
from orchestrator.domain.visibility import Shown

LONGEST_SLEEP: Final = 86_399
"""Seconds; the field has two digits for hours and clients take 24 h for an error."""

APP_PART: Final = "bApp"
"""Module type of an application among several components, in hawkBit's word."""

_encode: Final = msgspec.json.Encoder().encode


class Base(msgspec.Struct, frozen=True):
    """Where a device is: its links start with ``{gateway}/{tenant}/controller/v1/{device}``.

    The tenant is written as the client writes it: Zephyr's compares, and there are clients with ``default`` and with ``DEFAULT``.
    """

    gateway: str
    tenant: str
    device_id: str

    @property
    def url(self) -> str:
        return f"{self.gateway}/{quote(self.tenant, safe='')}/controller/v1/{quote(self.device_id, safe='')}"

    def download(self, module: Module) -> str:
        return f"{self.url}/softwaremodules/{module.number}/artifacts/{quote(module.artifact.filename, safe='')}"


class Module(msgspec.Struct, frozen=True):
    """What one chunk of a deployment is about."""

    number: int
    """Stands in links; belongs to one action, whose release never changes."""
    part: str
    name: str
    artifact: OfferView | OfferedComponent


def modules(view: OfferView, profile: Profile) -> list[Module]:
    """The modules of a deployment, in the order in which they are to be installed."""
    if not view.components:
        return [Module(view.action_id, profile.part, view.release_name, view)]
    if len(view.components) == 1:
        # As a release of one artifact is shown: clients that take one chunk know no other kind.
        return [Module(view.action_id, profile.part, view.components[0].name, view.components[0])]
    return [
        Module(
            module_id(view.action_id, index),
            profile.part if each.kind == Kind.OS else APP_PART,
            each.name,
            each,
        )
        for index, each in enumerate(view.components)
    ]


def sleep(interval: int, jitter: float, chance: float) -> str:
    """``HH:MM:SS``, never zero, which SWUpdate takes for 45 s.

    Args:
        interval: seconds, the mean.
        jitter: share of the interval by which the answer may differ from it.
        chance: uniform in 0 to 1.
    """
    seconds = round(interval * (1 - jitter + 2 * jitter * chance))
    seconds = max(1, min(LONGEST_SLEEP, seconds))
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def poll(base: Base, pause: str, view: OfferView | None, *, attributes_wanted: bool) -> bytes:
    """The poll's body: one action at most, a request to cancel before anything else."""
    links: dict[str, Any] = {}
    if view is not None and view.shown is Shown.CANCEL:
        # No query: SWUpdate appends "/feedback" to this link.
        links["cancelAction"] = {"href": f"{base.url}/cancelAction/{view.action_id}"}
    elif view is not None and view.shown is Shown.DEPLOYMENT:
        # The query changes with what is behind the link, for clients that remember links.
        version = crc32(f"{view.action_id}:{view.sha256}".encode())
        links["deploymentBase"] = {"href": f"{base.url}/deploymentBase/{view.action_id}?c={version}"}
    if attributes_wanted:
        links["configData"] = {"href": f"{base.url}/configData"}
    body: dict[str, Any] = {"config": {"polling": {"sleep": pause}}}
    if links:
        body["_links"] = links
    return _encode(body)


def deployment(base: Base, view: OfferView, profile: Profile) -> bytes:
    """The deploymentBase: a chunk with one artifact for each module."""
    chunks = [_chunk(base, module, view.release_version) for module in modules(view, profile)]
    # "id" is a text that holds an integer.
    return _encode(
        {
            "id": str(view.action_id),
            "deployment": {"download": "forced", "update": "forced", "chunks": chunks},
        }
    )


def _chunk(base: Base, module: Module, version: str) -> dict[str, Any]:
    href = base.download(module)
    kept = module.artifact
    links = {"download-http": {"href": href}, "md5sum-http": {"href": f"{href}.MD5SUM"}}
    if href.startswith("https:"):
        # "download-http" stays: for Zephyr's client it is the only link, whatever its scheme.
        links = {"download": {"href": href}, "md5sum": {"href": f"{href}.MD5SUM"}, **links}
    artifact = {
        "filename": kept.filename,
        "hashes": {"sha1": kept.sha1, "md5": kept.md5, "sha256": kept.sha256},
        "size": kept.size,
        "_links": links,
    }
    return {"part": module.part, "version": version, "name": module.name, "artifacts": [artifact]}


def cancel(action_id: int) -> bytes:
    """The cancelAction."""
    return _encode({"id": str(action_id), "cancelAction": {"stopId": str(action_id)}})
