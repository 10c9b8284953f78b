"""The whole fleet over HTTP: stop it, release it, see whether it is stopped."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from api.deps import CommandId, scoped
from api.operator import campaign_models as cm
from api.operator import history_models as hm
from api.operator import models as m
from api.operator.services import Services
from orchestrator.app.keys import Principal, Scope

router = APIRouter(prefix="/fleet", tags=["fleet"])

Reader = Annotated[Principal, scoped(Scope.CAMPAIGN_READ)]
Halter = Annotated[Principal, scoped(Scope.CAMPAIGN_HALT)]
Launcher = Annotated[Principal, scoped(Scope.CAMPAIGN_LAUNCH)]


@router.get("")
async def get_fleet(_: Reader, services: Services) -> cm.Fleet:
    """Whether the fleet is stopped, by whom and why."""
    return cm.Fleet.model_validate(await services.fleet.status())


@router.get("/as-of")
async def get_fleet_as_of(_: Reader, services: Services, at: m.Moment) -> hm.FleetAsOf:
    """What ran where at that time, in counts, and how campaigns stood; from the logs alone."""
    return hm.FleetAsOf.model_validate(await services.as_of.fleet(m.milliseconds(at)))


@router.post("/stop")
async def stop_fleet(body: cm.ReasonInput, caller: Halter, services: Services, command_id: CommandId) -> cm.Fleet:
    """Withhold every offer and start of every campaign, from this commit on. Devices that started go on."""
    return cm.Fleet.model_validate(await services.fleet.stop(body.reason, actor=caller.name, command_id=command_id))


@router.post("/release")
async def release_fleet(body: cm.ReasonInput, caller: Launcher, services: Services, command_id: CommandId) -> cm.Fleet:
    """Let campaigns offer again, each as its own state allows."""
    return cm.Fleet.model_validate(await services.fleet.release(body.reason, actor=caller.name, command_id=command_id))
