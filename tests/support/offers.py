"""Stand-ins for what the gateway is made of: the ports in memory, with what a test wants to see of them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

from msgspec.structs import replace as changed

from orchestrator.app.ports import OfferedComponent, OfferView
from orchestrator.domain.assignment import RANK, State
from orchestrator.domain.campaign import CampaignState
from orchestrator.domain.profile import Profile
from orchestrator.domain.visibility import Shown, shown
from schemas.device_events import DeviceEvent

FAR = 2**62
"""A position beyond every record."""

IMAGE = bytes(range(256)) * 40
"""The artifact of every offer."""

IMAGE_SHA256 = sha256(IMAGE).hexdigest()


class MemoryOffers:
    """``orchestrator.app.ports.Offers``, holding one campaign whose control state a test sets."""

    def __init__(self) -> None:
        self.control = CampaignState.RUNNING
        self.starts: list[tuple[int, int]] = []
        """Device and action of every start that was committed."""
        self.overlays: list[tuple[int, int, str, int, int]] = []
        self.projected = FAR
        """Next offset of the projection, the same in all partitions."""
        self.error: Exception | None = None
        """Raised by every call, as by a database that is away."""
        self._views: dict[int, OfferView] = {}
        self._cancels: set[int] = set()
        self._owners: dict[int, int] = {}

    def offer(
        self,
        device_no: int,
        action_id: int,
        state: State = State.OFFERED,
        components: Sequence[tuple[str, str, bytes]] = (),
    ) -> None:
        """Assign an action to a device; ``components`` are names, kinds and contents."""
        self._owners[action_id] = device_no
        self._views[device_no] = OfferView(
            campaign_no=1,
            campaign_id="cmp_1",
            device_no=device_no,
            action_id=action_id,
            attempt=1,
            phase=0,
            offered_at=0,
            state=state.value,
            shown=Shown.NOTHING,
            release_id="rel_1",
            release_name="sensor",
            release_version="2.0.1",
            sha256=IMAGE_SHA256,
            sha1=hashlib.sha1(IMAGE, usedforsecurity=False).hexdigest(),
            md5=hashlib.md5(IMAGE, usedforsecurity=False).hexdigest(),
            size=len(IMAGE),
            filename="sensor 2.0.1.bin",
            components=[
                OfferedComponent(
                    name=name,
                    kind=kind,
                    sha256=sha256(content).hexdigest(),
                    sha1=hashlib.sha1(content, usedforsecurity=False).hexdigest(),
                    md5=hashlib.md5(content, usedforsecurity=False).hexdigest(),
                    size=len(content),
                    filename="fw.bin",
                )
                for name, kind, content in components
            ],
        )

    def cancel(self, action_id: int) -> None:
        """Ask the device to stop."""
        self._cancels.add(action_id)

    def project(self, device_no: int, state: State) -> None:
        """What the projection does with a report: states only rise, and an ended assignment frees the slot."""
        view = self._views[device_no]
        if RANK[state] > RANK[State(view.state)]:
            self._views[device_no] = changed(view, state=state.value)

    async def current(self, device_no: int) -> OfferView | None:
        self._fail()
        view = self._views.get(device_no)
        if view is None:
            return None
        states = [State(view.state)]
        states += [
            State(state)
            for device, action, state, *_ in self.overlays
            if (device, action) == (device_no, view.action_id)
        ]
        state = max(states, key=RANK.__getitem__)
        what = shown(state, self.control, cancel_requested=view.action_id in self._cancels)
        return changed(view, state=state.value, shown=what)

    async def start(self, device_no: int, action_id: int) -> OfferView | None:
        view = await self.current(device_no)
        if view is None or view.action_id != action_id or view.shown is not Shown.DEPLOYMENT:
            return None
        if view.state == State.OFFERED:
            self.starts.append((device_no, action_id))
            self.project(device_no, State.ACCEPTED)
        return await self.current(device_no)

    async def owner(self, action_id: int) -> tuple[int, int, int] | None:
        self._fail()
        device_no = self._owners.get(action_id)
        return None if device_no is None else (1, 1, device_no)

    async def components(self, action_id: int) -> dict[str, str]:
        self._fail()
        view = self._views.get(self._owners[action_id])
        return {} if view is None else {each.name: each.kind for each in view.components}

    async def overlay(self, device_no: int, action_id: int, state: str, partition: int, offset: int) -> None:
        self._fail()
        self.overlays.append((device_no, action_id, state, partition, offset))

    async def positions(self) -> dict[int, int]:
        self._fail()
        return dict.fromkeys(range(64), self.projected)

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


@dataclass(frozen=True, slots=True)
class MemoryIdentity:
    device_no: int
    device_id: str
    token: str
    profile: Profile = field(default_factory=Profile)
    attributes_wanted: bool = False


class MemoryIdentities:
    """Devices that a test registered."""

    def __init__(self) -> None:
        self.devices: dict[str, MemoryIdentity] = {}
        self.forgotten: list[str] = []
        self.error: Exception | None = None

    def register(self, identity: MemoryIdentity) -> None:
        self.devices[identity.device_id] = identity

    async def authenticate(self, device_id: str, token: str, *, attributes: bool = False) -> MemoryIdentity | None:
        if self.error is not None:
            raise self.error
        identity = self.devices.get(device_id)
        return identity if identity is not None and identity.token == token else None

    def attributes_reported(self, device_id: str) -> None:
        self.devices[device_id] = replace(self.devices[device_id], attributes_wanted=False)

    def forget(self, device_id: str) -> None:
        self.forgotten.append(device_id)


class MemoryFacts:
    """A log of one partition that a test can stop."""

    def __init__(self) -> None:
        self.events: list[DeviceEvent] = []
        self.traces: list[str | None] = []
        self.error: Exception | None = None
        self.hold: asyncio.Event | None = None
        """Every event waits for it."""
        self.waiting = 0

    async def send(self, event: DeviceEvent, traceparent: str | None = None) -> tuple[int, int]:
        if self.hold is not None:
            self.waiting += 1
            await self.hold.wait()
        if self.error is not None:
            raise self.error
        self.events.append(event)
        self.traces.append(traceparent)
        return 0, len(self.events) - 1


class MemoryPresence:
    def __init__(self) -> None:
        self.times: dict[int, int] = {}

    def seen(self, device_no: int, at: int) -> None:
        self.times[device_no] = at


class MemoryArtifacts:
    """One artifact, and what a test adds, in pieces of 1,000 bytes."""

    def __init__(self) -> None:
        self.content = IMAGE
        self.more: dict[str, bytes] = {}
        """By sha256."""
        self.read = 0
        """Bytes that were read."""
        self.lost = 0
        """Bytes missing at the end of every read."""

    async def size(self, sha256: str) -> int:
        return len(self._content(sha256))

    def _content(self, sha256: str) -> bytes:
        assert sha256 == IMAGE_SHA256 or sha256 in self.more
        return self.more.get(sha256, self.content)

    async def open_range(self, sha256: str, start: int, end: int) -> AsyncIterator[bytes]:
        content = self._content(sha256)
        for at in range(start, end - self.lost, 1_000):
            piece = content[at : min(end - self.lost, at + 1_000)]
            self.read += len(piece)
            yield piece
