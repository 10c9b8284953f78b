"""Owners' wills over HTTP: what the owner of a device wants, as a person or a portal passes it on."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Response

from api.deps import CommandId, ExpectedVersion, etag, scoped, stale_as_precondition
from api.operator import models as m
from api.operator.services import Services
from orchestrator.app.keys import Principal, Scope
from schemas.owner_events import Consent

router = APIRouter(prefix="/devices", tags=["devices"])

Owner = Annotated[Principal, scoped(Scope.DEVICE_WILL)]


@router.get("/{device_id}/will")
async def get_will(device_id: str, _: Owner, services: Services, response: Response) -> m.Will:
    """What holds now; version 0 if nothing was ever said."""
    will = await services.owners.read(device_id)
    response.headers["ETag"] = etag(will.version)
    return m.Will.model_validate(will)


@router.put("/{device_id}/will")
async def state_will(
    device_id: str,
    body: m.WillInput,
    caller: Owner,
    services: Services,
    command_id: CommandId,
    expected: ExpectedVersion,
    response: Response,
) -> m.Will:
    """State the whole will; what is left out is withdrawn. From this commit on the device starts nothing against it."""
    with stale_as_precondition(expected):
        will = await services.owners.state(
            device_id,
            opted_out=body.opted_out,
            postponed_until=m.to_ms(body.postponed_until),
            consents=[
                Consent(release_id=item.release_id, campaign_id=item.campaign_id, until=m.to_ms(item.until))
                for item in body.consents
            ],
            reason=body.reason,
            on_behalf_of=body.on_behalf_of,
            actor=caller.name,
            command_id=command_id,
            expected_version=expected,
        )
    response.headers["ETag"] = etag(will.version)
    return m.Will.model_validate(will)
