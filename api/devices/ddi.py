"""hawkBit's device interface: ``/{tenant}/controller/v1/{controllerId}`` and below.

Invariants
- Nothing that reveals an image is sent before ``Offers.start`` has committed the start.
- A report is answered 200 only after the broker's acknowledgement; one that ends an action also only after the projection has
  passed it, or the overlay answers in its place. So the next poll, at whichever gateway, does not show the action any more.
- Late, repeated and superseded reports get 200: a client that is refused repeats them for ever and does nothing else. Only an
  action that was never given to this device is "not found".
- Success is 200 with a length, never 201, 202 or 204, which common clients take for failure.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import msgspec

from api.devices import ddi_bodies, downloads
from api.devices.ddi_bodies import Base
from api.devices.ddi_reports import CONFIG_DATA, SETTLED, conclude, interpret, parse_attributes, parse_feedback
from api.devices.errors import (
    MethodNotAllowedError,
    UnknownActionError,
    UnknownArtifactError,
    UnknownPathError,
)
from api.devices.http import HAL, TEXT, Answer, Request
from api.devices.limits import DeviceLimits
from api.devices.projected import ProjectionWatch
from api.devices.reports import ReportWriter, taken
from api.devices.services import Device, GatewayServices
from orchestrator.app.ports import OfferView
from orchestrator.domain.assignment import State
from orchestrator.domain.visibility import Shown
from schemas import device_events as d

SOURCE: Final = "/gateway/ddi"
"""``source`` of the events that come in here."""

OWNERS: Final = 100_000
"""Actions whose device is remembered, about 100 bytes each; to whom an action was given never changes."""

MAX_ACTION: Final = 2**31 - 1
"""Clients hold action ids in 32 bits."""


class Ddi:
    """The interface, for one tenant."""

    def __init__(self, services: GatewayServices, limits: DeviceLimits, writer: ReportWriter) -> None:
        self._services = services
        self._limits = limits
        self._settings = services.settings
        self._offers = services.offers
        self._projection = ProjectionWatch(services.offers.positions)
        self._owners: OrderedDict[int, int] = OrderedDict()
        self._writer = writer

    async def handle(self, request: Request, base: Base, device: Device, path: Sequence[str]) -> None:
        """Answer an authenticated device; ``path`` is what follows the device's base. Raises OtaError."""
        match path:
            case []:
                _allow(request, "GET")
                await request.answer(await self._poll(base, device))
            case ["configData"]:
                _allow(request, "PUT")
                await request.answer(await self._config_data(request, device))
            case ["deploymentBase", action]:
                _allow(request, "GET")
                await request.answer(await self._deployment(base, device, _action(action)))
            case ["cancelAction", action]:
                _allow(request, "GET")
                await request.answer(await self._cancel(device, _action(action)))
            case ["deploymentBase" | "cancelAction" as kind, action, "feedback"]:
                _allow(request, "POST")
                cancel = kind == "cancelAction"
                await request.answer(await self._feedback(request, device, _action(action), cancel=cancel))
            case ["softwaremodules", module, "artifacts", filename]:
                _allow(request, "GET", "HEAD")
                await self._artifact(request, device, module, filename)
            case _:
                raise UnknownPathError

    # ---- what the device is shown

    async def _poll(self, base: Base, device: Device) -> Answer:
        view = await self._offers.current(device.device_no)
        pause = ddi_bodies.sleep(self._settings.poll_interval, self._limits.jitter(), self._services.chance())
        body = ddi_bodies.poll(base, pause, view, attributes_wanted=device.attributes_wanted)
        return Answer(body=body, content_type=HAL)

    async def _deployment(self, base: Base, device: Device, action_id: int) -> Answer:
        view = await self._offers.start(device.device_no, action_id)
        if view is None or view.shown is not Shown.DEPLOYMENT:
            raise UnknownActionError
        self._remember(action_id, device.device_no)
        return Answer(body=ddi_bodies.deployment(base, view, device.profile), content_type=HAL)

    async def _cancel(self, device: Device, action_id: int) -> Answer:
        view = await self._offers.current(device.device_no)
        if view is None or view.action_id != action_id or view.shown is not Shown.CANCEL:
            raise UnknownActionError
        return Answer(body=ddi_bodies.cancel(action_id), content_type=HAL)

    async def _artifact(self, request: Request, device: Device, module: str, filename: str) -> None:
        view = await self._offers.current(device.device_no)
        if view is None or not _downloadable(view):
            raise UnknownArtifactError
        modules = ddi_bodies.modules(view, device.profile)
        kept = next((each.artifact for each in modules if module == str(each.number)), None)
        if kept is None:
            raise UnknownArtifactError
        if filename == kept.filename:
            await downloads.serve(request, self._services.artifacts, kept.sha256)
        elif filename == f"{kept.filename}.MD5SUM":
            # As md5sum writes it: two spaces; hawkBit ends it without a newline.
            await request.answer(Answer(body=f"{kept.md5}  {kept.filename}".encode(), content_type=TEXT))
        else:
            raise UnknownArtifactError

    # ---- what the device says

    async def _feedback(self, request: Request, device: Device, action_id: int, *, cancel: bool) -> Answer:
        with self._writer.slot():
            feedback = parse_feedback(await request.body(self._settings.max_report_bytes))
            await self._require_owner(action_id, device.device_no)
            meaning = interpret(feedback, device.profile, cancel=cancel)
            if meaning.components is not None:
                meaning = conclude(meaning, await self._offers.components(action_id))
            event = d.DeviceEvent(
                id=feedback.event_id(device.device_id, action_id, cancel=cancel),
                source=SOURCE,
                type=meaning.type,
                subject=device.device_id,
                device_no=device.device_no,
                recorded_at=self._services.clock(),
                time=feedback.time,
                data=msgspec.Raw(d.encode(meaning.report(action_id))),
            )
            partition, offset = await self._writer.write(event)
        if event.type in SETTLED and not await self._passed(partition, offset):
            state = d.UPDATE_STATES[event.type]
            await self._offers.overlay(device.device_no, action_id, state, partition, offset)
        if event.type == d.CONFIRMED:
            # It runs something else now, so its attributes are asked for again.
            self._services.identities.forget(device.device_id)
        return taken(event)

    async def _config_data(self, request: Request, device: Device) -> Answer:
        with self._writer.slot():
            attributes, canonical = parse_attributes(await request.body(self._settings.max_report_bytes))
            event = d.DeviceEvent(
                id=d.statement_id(device.device_id, CONFIG_DATA, canonical),
                source=SOURCE,
                type=d.ATTRIBUTES,
                subject=device.device_id,
                device_no=device.device_no,
                recorded_at=self._services.clock(),
                data=msgspec.Raw(d.encode(attributes)),
            )
            partition, offset = await self._writer.write(event)
        # The other gateways ask until the projection has it; being asked once more does no harm, so nothing answers in its place.
        await self._passed(partition, offset)
        self._services.identities.attributes_reported(device.device_id)
        return taken(event)

    async def _passed(self, partition: int, offset: int) -> bool:
        return await self._projection.passed(partition, offset, self._settings.projection_wait_ms / 1000)

    async def _require_owner(self, action_id: int, device_no: int) -> None:
        owner = self._owners.get(action_id)
        if owner is None:
            given = await self._offers.owner(action_id)
            if given is None:
                raise UnknownActionError
            owner = given[2]
            self._remember(action_id, owner)
        if owner != device_no:
            raise UnknownActionError

    def _remember(self, action_id: int, device_no: int) -> None:
        self._owners[action_id] = device_no
        while len(self._owners) > OWNERS:
            self._owners.popitem(last=False)


def _downloadable(view: OfferView) -> bool:
    return view.shown is Shown.DEPLOYMENT and view.state != State.OFFERED.value


def _action(segment: str) -> int:
    if not (segment.isascii() and segment.isdigit() and len(segment) <= 10 and int(segment) <= MAX_ACTION):
        raise UnknownActionError
    return int(segment)


def _allow(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise MethodNotAllowedError(f"{request.method} is not possible here.", allow=", ".join(methods))
