"""The pace of a campaign that runs, over HTTP: the brake and revisions."""

from __future__ import annotations

from fastapi import APIRouter, Response

from api.deps import CommandId, ExpectedVersion, stale_as_precondition
from api.operator import campaign_models as cm
from api.operator.campaigns import Halter, Launcher, Writer, shown
from api.operator.services import Services
from orchestrator.domain.brake import Brake

router = APIRouter(prefix="/campaigns", tags=["campaigns"])


@router.post("/{campaign_id}/brake")
async def brake_campaign(
    campaign_id: str,
    body: cm.BrakeInput,
    caller: Halter,
    services: Services,
    command_id: CommandId,
    response: Response,
) -> cm.Campaign:
    """Lower the pace now, in force at the commit. Never refused for being stale; it cannot raise what is in force."""
    limits = Brake(per_minute=body.per_minute, max_in_flight=body.max_in_flight)
    await services.pace.brake(campaign_id, limits, body.reason, actor=caller.name, command_id=command_id)
    return await shown(services, campaign_id, response)


@router.post("/{campaign_id}/brake/release")
async def release_brake(
    campaign_id: str,
    body: cm.BrakeReleaseInput,
    caller: Launcher,
    services: Services,
    command_id: CommandId,
    expected: ExpectedVersion,
    response: Response,
) -> cm.Campaign:
    """Loosen the brake to the limits given, or take it off; more than the approved plan allows needs a revision."""
    left = Brake(per_minute=body.per_minute, max_in_flight=body.max_in_flight)
    with stale_as_precondition(expected):
        await services.pace.release_brake(
            campaign_id, left, body.reason, actor=caller.name, command_id=command_id, expected_version=expected
        )
    return await shown(services, campaign_id, response)


@router.post("/{campaign_id}/revise")
async def revise_campaign(
    campaign_id: str,
    body: cm.RevisionInput,
    caller: Writer,
    services: Services,
    command_id: CommandId,
    expected: ExpectedVersion,
    response: Response,
) -> cm.Campaign:
    """Propose another pace. The campaign runs on as it was approved until somebody else approves `revision.digest`."""
    with stale_as_precondition(expected):
        await services.pace.revise(
            campaign_id, body.changes, body.reason, actor=caller.name, command_id=command_id, expected_version=expected
        )
    return await shown(services, campaign_id, response)
