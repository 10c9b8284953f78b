"""Why a campaign or a device does not move, and when a campaign will be done, over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.operator import why_models as m
from api.operator.campaigns import Reader
from api.operator.devices import Reader as DeviceReader
from api.operator.services import Services

router = APIRouter()


@router.get("/campaigns/{campaign_id}/why", tags=["campaigns"])
async def why_campaign(campaign_id: str, _: Reader, services: Services) -> m.CampaignWhy:
    """The first condition that holds the campaign, what would hold next, and the ETA; of one snapshot."""
    return m.CampaignWhy.model_validate(await services.explanations.campaign(campaign_id))


@router.get("/campaigns/{campaign_id}/eta", tags=["campaigns"])
async def eta_of_campaign(campaign_id: str, _: Reader, services: Services) -> m.CampaignEta:
    """When each phase and the campaign will be done: at best, likely, at worst, and what that rests on."""
    return m.CampaignEta.model_validate(await services.explanations.eta(campaign_id))


@router.get("/devices/{device_id}/why", tags=["devices"])
async def why_device(
    device_id: str,
    _: DeviceReader,
    services: Services,
    campaign: Annotated[str | None, Query(max_length=64, description="Only this one, which may also be over.")] = None,
) -> m.DeviceWhy:
    """What holds the device in each campaign that is not over, or why it is no member."""
    return m.DeviceWhy.model_validate(await services.explanations.device(device_id, campaign))
