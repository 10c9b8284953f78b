"""Devices over HTTP: import, look up, what they said."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from api.deps import CommandId, PageQuery, scoped
from api.operator import history_models as hm
from api.operator import models as m
from api.operator.listing import listed
from api.operator.services import Services
from orchestrator.app.devices import NewDevice
from orchestrator.app.keys import Principal, Scope

IMPORTS: Final = "/v1/devices/import"

IMPORT_BYTES_PER_DEVICE: Final = 1_024
"""Bytes of an import's body per allowed device: an id, a model and a dozen attributes."""

router = APIRouter(prefix="/devices", tags=["devices"])

Reader = Annotated[Principal, scoped(Scope.DEVICE_READ)]
Writer = Annotated[Principal, scoped(Scope.DEVICE_WRITE)]


class DeviceQuery(PageQuery):
    hardware_model: str | None = Field(None, max_length=63)
    attribute: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}:.{0,512}$")]] = Field(
        [], max_length=8, description="`name:value`; all of them must be equal."
    )


@router.post("/import", status_code=201)
async def import_devices(
    body: m.ImportInput, caller: Writer, services: Services, command_id: CommandId, request: Request
) -> m.Imported:
    """Register all of these devices; none of them if one is wrong. Repeating the request completes one that was interrupted."""
    devices = [
        NewDevice(device_id=item.device_id, hardware_model=item.hardware_model, attributes=item.attributes)
        for item in body.devices
    ]
    made = await services.devices.import_devices(
        devices, issue_tokens=body.issue_tokens, actor=caller.name, command_id=command_id
    )
    answer = m.Imported(devices=[m.ImportedDevice.model_validate(item) for item in made])
    if body.issue_tokens:
        hidden = [item.model_copy(update={"token": None}) for item in answer.devices]
        request.scope["state"]["remember"] = m.Imported(devices=hidden).model_dump(mode="json")
    return answer


@router.get("")
async def list_devices(
    query: Annotated[DeviceQuery, Query()], _: Reader, services: Services, request: Request, response: Response
) -> m.Listed[m.Device]:
    """In the order of registration."""

    async def read(limit: int, after: Any) -> Any:
        wanted = dict(item.split(":", 1) for item in query.attribute)
        return await services.queries.devices(limit, after, hardware_model=query.hardware_model, attributes=wanted)

    return await listed(request, response, services, query, m.Device.model_validate, read)


@router.get("/{device_id}")
async def get_device(
    device_id: str, _: Reader, services: Services, as_of: m.Moment | None = None
) -> m.DeviceDetail | hm.DeviceAsOf:
    """The twin, when it was last seen, and what it is assigned to; with `as_of`, what it was and ran at that time."""
    if as_of is not None:
        return hm.DeviceAsOf.model_validate(await services.as_of.device(device_id, m.milliseconds(as_of)))
    return m.DeviceDetail.model_validate(await services.queries.device(device_id))


@router.get("/{device_id}/timeline")
async def list_timeline(
    device_id: str,
    query: Annotated[PageQuery, Query()],
    _: Reader,
    services: Services,
    request: Request,
    response: Response,
) -> m.Listed[m.TimelineEntry]:
    """What the device stated, the newest first."""

    async def read(limit: int, after: Any) -> Any:
        return await services.queries.timeline(device_id, limit, after)

    return await listed(request, response, services, query, m.TimelineEntry.model_validate, read)


@router.post("/{device_id}/token", status_code=201)
async def issue_token(
    device_id: str, caller: Writer, services: Services, command_id: CommandId, request: Request
) -> m.IssuedToken:
    """Give the device a new token; the one before ends. It is shown in this answer only."""
    made = await services.devices.issue_token(device_id, actor=caller.name, command_id=command_id)
    answer = m.IssuedToken.model_validate(made)
    request.scope["state"]["remember"] = answer.model_copy(update={"token": None}).model_dump(mode="json")
    return answer
