"""The people of the demonstration: an author and an approver, each with an API key, at the same API as everybody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final, Self

from orchestrator.client.client import OtaClient
from orchestrator.client.errors import ApiError
from orchestrator.client.models import CampaignDetail, NewDevice
from orchestrator.demo.scenario import RELEASES, SIGNING, Play
from orchestrator.demo.system import System
from orchestrator.demo.world import World

AUTHOR: Final = "ann"
APPROVER: Final = "bob"

SCOPES: Final = {
    AUTHOR: ("campaign:read", "campaign:write", "campaign:launch", "release:publish", "device:write", "admin"),
    APPROVER: ("campaign:read", "campaign:approve"),
}
"""Hardware models and trusted keys are an administrator's; nobody both writes a plan and approves it."""

IMPORT: Final = 5_000
"""Devices per import request: half of what the API takes."""


class Desk:
    """Makes the two API keys on the machine itself, then does everything through the API.

    Raises ComponentError where a key cannot be made, ApiError and ApiUnreachableError where the API refuses or is away.
    """

    def __init__(self, system: System, say: Callable[[str], None]) -> None:
        self._system = system
        self._say = say
        self._clients: dict[str, OtaClient] = {}

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._sign_in)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients.values():
            client.close()

    async def prepare(self, world: World) -> dict[Play, str]:
        """Hardware models, trusted keys, devices with tokens, images, releases; returns the release ids."""
        return await asyncio.to_thread(self._prepare, world)

    async def forged_image_is_refused(self, world: World) -> bool:
        """Try to upload an image that a stranger has signed."""
        return await asyncio.to_thread(self._try_forged, world)

    async def launch(self, name: str, plan: dict[str, Any]) -> str:
        """Create, submit, approve by the other person, launch; returns the campaign's id."""
        return await asyncio.to_thread(self._launch, name, plan)

    async def campaign(self, campaign_id: str) -> CampaignDetail:
        """The campaign as the API shows it."""
        return await asyncio.to_thread(self._clients[AUTHOR].campaign, campaign_id)

    def _sign_in(self) -> None:
        def key(name: str) -> str:
            scopes = [word for scope in SCOPES[name] for word in ("--scope", scope)]
            return self._system.ota("key", "create", name, *scopes).strip()

        with ThreadPoolExecutor(max_workers=len(SCOPES)) as pool:
            keys = dict(zip(SCOPES, pool.map(key, SCOPES), strict=True))
        self._clients = {name: OtaClient(self._system.url("api"), key) for name, key in keys.items()}
        self._say(f"API keys for {AUTHOR}, who writes and launches, and {APPROVER}, who approves")

    def _prepare(self, world: World) -> dict[Play, str]:
        author = self._clients[AUTHOR]
        for model in SIGNING:
            author.create_hardware_model(model, {"client": "generic"})
            author.add_trusted_key(model, world.public_key(model).read_text(encoding="ascii"))
        self._import(world)
        self._say(f"{len(world.devices)} devices registered, each with a token of its own")
        releases: dict[Play, str] = {}
        for play, firmware in RELEASES.items():
            artifacts = {
                model: author.upload_artifact(world.image(model, firmware.version), model)["sha256"]
                for model in SIGNING
            }
            releases[play] = author.register_release("demo", firmware.version, artifacts)["release_id"]
        self._say(
            f"{len(releases)} releases uploaded and their signatures verified, for {len(SIGNING)} hardware models"
        )
        return releases

    def _import(self, world: World) -> None:
        tokens: dict[str, str] = {}
        for start in range(0, len(world.devices), IMPORT):
            page: list[NewDevice] = [
                {
                    "device_id": device.device_id,
                    "hardware_model": device.hardware_model,
                    "attributes": {"hw_revision": device.hw_revision},
                }
                for device in world.devices[start : start + IMPORT]
            ]
            imported = self._clients[AUTHOR].import_devices(page, issue_tokens=True)
            tokens |= {device["device_id"]: device["token"] or "" for device in imported}
        world.write_fleet(tokens)

    def _try_forged(self, world: World) -> bool:
        model = next(iter(SIGNING))
        try:
            self._clients[AUTHOR].upload_artifact(world.forged(model), model)
        except ApiError as refusal:
            self._say(f"an image signed by a stranger is refused: {refusal.detail} ({refusal.code})")
            return refusal.code.startswith("firmware.image.")
        self._say("an image signed by a stranger was accepted")
        return False

    def _launch(self, name: str, plan: dict[str, Any]) -> str:
        author, approver = self._clients[AUTHOR], self._clients[APPROVER]
        draft = author.create_campaign(name, plan)
        campaign_id = draft["campaign_id"]
        submitted = author.act(campaign_id, "submit", version=draft["version"])
        approved = approver.act(campaign_id, "approve", {"digest": submitted["digest"]}, version=submitted["version"])
        author.act(campaign_id, "launch", version=approved["version"])
        self._say(f"{campaign_id} written by {AUTHOR}, approved by {APPROVER} under {approved['digest']}, launched")
        return campaign_id
