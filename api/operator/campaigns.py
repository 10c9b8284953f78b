"""Campaigns over HTTP: drafts, decisions of people, and how things stand."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Request, Response

from api.deps import CommandId, ExpectedVersion, PageQuery, etag, scoped, stale_as_precondition
from api.operator import campaign_models as cm
from api.operator import history_models as hm
from api.operator import models as m
from api.operator import preview_models as pm
from api.operator.listing import listed
from api.operator.services import OperatorServices, Services
from orchestrator.app.keys import Principal, Scope
from orchestrator.app.ports import Recorded

router = APIRouter(prefix="/campaigns", tags=["campaigns"])

Reader = Annotated[Principal, scoped(Scope.CAMPAIGN_READ)]
Writer = Annotated[Principal, scoped(Scope.CAMPAIGN_WRITE)]
Launcher = Annotated[Principal, scoped(Scope.CAMPAIGN_LAUNCH)]
Approver = Annotated[Principal, scoped(Scope.CAMPAIGN_APPROVE)]
Gate = Annotated[Principal, scoped(Scope.CAMPAIGN_GATE)]
Halter = Annotated[Principal, scoped(Scope.CAMPAIGN_HALT)]


class CampaignQuery(PageQuery):
    state: Literal["draft", "submitted", "approved", "running", "paused", "halted", "completed", "aborted"] | None = (
        None
    )


async def shown(services: OperatorServices, campaign_id: str, response: Response) -> cm.Campaign:
    """The campaign as it is now, with its version as the ETag."""
    status = await services.queries.campaign(campaign_id)
    response.headers["ETag"] = etag(status.version)
    return cm.Campaign.model_validate(status)


@router.post("", status_code=201)
async def create_campaign(
    body: cm.CampaignInput, caller: Writer, services: Services, command_id: CommandId, response: Response
) -> cm.Campaign:
    """Create a draft. The plan is checked as far as it goes without a fleet; every problem is named at once."""
    done = await services.campaigns.create(body.name, body.plan, actor=caller.name, command_id=command_id)
    campaign_id = done.campaign.campaign_id
    response.headers["Location"] = f"/v1/campaigns/{campaign_id}"
    return await shown(services, campaign_id, response)


@router.get("")
async def list_campaigns(
    query: Annotated[CampaignQuery, Query()], _: Reader, services: Services, request: Request, response: Response
) -> m.Listed[cm.CampaignSummary]:
    """The newest first."""

    async def read(limit: int, after: Any) -> Any:
        return await services.queries.campaigns(limit, after, state=query.state)

    return await listed(request, response, services, query, cm.CampaignSummary.model_validate, read)


@router.get("/{campaign_id}")
async def get_campaign(campaign_id: str, _: Reader, services: Services, response: Response) -> cm.Campaign:
    """State, phases with counts, gate, and the halt with every number it was decided on; of one snapshot."""
    return await shown(services, campaign_id, response)


@router.get("/{campaign_id}/events")
async def list_campaign_events(
    campaign_id: str,
    query: Annotated[PageQuery, Query()],
    _: Reader,
    services: Services,
    request: Request,
    response: Response,
) -> m.Listed[cm.CampaignEvent]:
    """Every decision about the campaign, the oldest first."""

    async def read(limit: int, after: Any) -> Any:
        return await services.queries.campaign_events(campaign_id, limit, after)

    return await listed(request, response, services, query, _event, read)


@router.get("/{campaign_id}/preview")
async def preview_campaign(campaign_id: str, _: Reader, services: Services) -> pm.Preview:
    """What the plan means in devices and in failures; of a draft, for the fleet as it is now."""
    return pm.Preview.model_validate(await services.campaigns.preview(campaign_id))


@router.post("/{campaign_id}/backtest")
async def backtest_campaign(campaign_id: str, body: hm.BacktestInput, _: Reader, services: Services) -> hm.Backtest:
    """What another halt policy would have done with what happened; changes nothing. Without a policy: the plan's own rules."""
    return hm.Backtest.model_validate(await services.backtests.run(campaign_id, body.policy))


@router.post("/{campaign_id}/submit")
async def submit_campaign(
    campaign_id: str,
    caller: Writer,
    services: Services,
    command_id: CommandId,
    expected: ExpectedVersion,
    response: Response,
) -> cm.Campaign:
    """Freeze every number into the dossier and ask for approval."""
    with stale_as_precondition(expected):
        await services.campaigns.submit(
            campaign_id, actor=caller.name, command_id=command_id, expected_version=expected
        )
    return await shown(services, campaign_id, response)


@router.post("/{campaign_id}/approve")
async def approve_campaign(
    campaign_id: str,
    body: cm.DigestInput,
    caller: Approver,
    services: Services,
    command_id: CommandId,
    expected: ExpectedVersion,
    response: Response,
) -> cm.Campaign:
    """Approve the plan of a submitted campaign, the revision of a running one, or the resume of a halted one."""
    with stale_as_precondition(expected):
        await services.campaigns.approve(
            campaign_id, body.digest, actor=caller.name, command_id=command_id, expected_version=expected
        )
    return await shown(services, campaign_id, response)


@router.post("/{campaign_id}/phases/{phase}/approve")
async def approve_phase(
    campaign_id: str,
    phase: int,
    body: cm.DigestInput,
    caller: Approver,
    services: Services,
    command_id: CommandId,
    expected: ExpectedVersion,
    response: Response,
) -> cm.Campaign:
    """Let a phase promote that waits for people; phases count from 0."""
    with stale_as_precondition(expected):
        await services.campaigns.approve_phase(
            campaign_id, phase, body.digest, actor=caller.name, command_id=command_id, expected_version=expected
        )
    return await shown(services, campaign_id, response)


@router.post("/{campaign_id}/phases/{phase}/gates/{gate}")
async def give_verdict(
    campaign_id: str,
    phase: int,
    gate: str,
    body: cm.VerdictInput,
    caller: Gate,
    services: Services,
    command_id: CommandId,
) -> cm.GivenVerdict:
    """What an external gate says of a phase; its last verdict counts. `halt` halts the campaign, in the gate's name."""
    given = await services.verdicts.give(
        campaign_id,
        phase,
        gate,
        body.verdict,
        body.reason,
        actor=caller.name,
        command_id=command_id,
        evidence=body.evidence_url,
        gate_epoch=body.gate_epoch,
    )
    return cm.GivenVerdict.model_validate(given)


@router.post("/{campaign_id}/launch")
async def launch_campaign(
    campaign_id: str,
    caller: Launcher,
    services: Services,
    command_id: CommandId,
    expected: ExpectedVersion,
    response: Response,
) -> cm.Campaign:
    """Start an approved campaign."""
    with stale_as_precondition(expected):
        await services.campaigns.launch(
            campaign_id, actor=caller.name, command_id=command_id, expected_version=expected
        )
    return await shown(services, campaign_id, response)


@router.post("/{campaign_id}/pause")
async def pause_campaign(
    campaign_id: str,
    body: cm.ReasonInput,
    caller: Halter,
    services: Services,
    command_id: CommandId,
    expected: ExpectedVersion,
    response: Response,
) -> cm.Campaign:
    """Hold offers; devices that started go on."""
    with stale_as_precondition(expected):
        await services.campaigns.pause(
            campaign_id, body.reason, actor=caller.name, command_id=command_id, expected_version=expected
        )
    return await shown(services, campaign_id, response)


@router.post("/{campaign_id}/resume")
async def resume_campaign(
    campaign_id: str,
    body: cm.ReasonInput,
    caller: Launcher,
    services: Services,
    command_id: CommandId,
    expected: ExpectedVersion,
    response: Response,
) -> cm.Campaign:
    """Go on after a pause, or after a halt whose end somebody else has approved."""
    with stale_as_precondition(expected):
        await services.campaigns.resume(
            campaign_id, body.reason, actor=caller.name, command_id=command_id, expected_version=expected
        )
    return await shown(services, campaign_id, response)


@router.post("/{campaign_id}/halt")
async def halt_campaign(
    campaign_id: str,
    body: cm.ReasonInput,
    caller: Halter,
    services: Services,
    command_id: CommandId,
    response: Response,
) -> cm.Campaign:
    """Stop now. Never refused for being stale; `halt.position` says beyond where nothing is offered or started."""
    await services.campaigns.halt(campaign_id, body.reason, actor=caller.name, command_id=command_id)
    return await shown(services, campaign_id, response)


@router.post("/{campaign_id}/abort")
async def abort_campaign(
    campaign_id: str,
    body: cm.ReasonInput,
    caller: Launcher,
    services: Services,
    command_id: CommandId,
    expected: ExpectedVersion,
    response: Response,
) -> cm.Campaign:
    """End the campaign for good."""
    with stale_as_precondition(expected):
        await services.campaigns.abort(
            campaign_id, body.reason, actor=caller.name, command_id=command_id, expected_version=expected
        )
    return await shown(services, campaign_id, response)


@router.post("/{campaign_id}/remediate", status_code=201)
async def remediate_campaign(
    campaign_id: str, body: cm.RemediationInput, caller: Writer, services: Services, command_id: CommandId
) -> cm.Remediation:
    """Draft campaigns that take the updated devices of a stopped one back. Each is submitted, approved and launched on its own."""
    drafted = await services.remediations.draft(
        campaign_id,
        actor=caller.name,
        command_id=command_id,
        kind=body.kind,
        release_id=body.release,
        plan=body.plan,
        name=body.name,
    )
    return cm.Remediation(campaign_id=campaign_id, **msgspec.to_builtins(drafted, str_keys=True))


def _event(item: Recorded) -> cm.CampaignEvent:
    return cm.CampaignEvent(
        position=item.position,
        stream=item.stream,
        version=item.version,
        event_id=item.event_id,
        type=item.type,
        data=msgspec.to_builtins(item.event),
        meta=msgspec.to_builtins(item.meta),
        recorded_at=item.recorded_at,  # pyright: ignore[reportArgumentType]  # the model takes milliseconds
    )
