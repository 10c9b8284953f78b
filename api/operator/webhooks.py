"""Webhooks over HTTP: who is told of what, what became of it, and answers that are signed instead of authenticated."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request, Response

from api.deps import CommandId, PageQuery, scoped
from api.operator import campaign_models as cm
from api.operator import models as m
from api.operator.listing import listed
from api.operator.services import Services
from orchestrator.app.keys import Principal, Scope

MAX_ANSWER_BYTES: Final = 16_384
"""Of a signed answer, which is read before it is known who sends it: a verdict with its reason."""

router = APIRouter(tags=["webhooks"])

Reader = Annotated[Principal, scoped(Scope.WEBHOOK_READ)]
Writer = Annotated[Principal, scoped(Scope.WEBHOOK_WRITE)]


@router.post("/webhooks", status_code=201)
async def add_webhook(
    body: m.WebhookInput, caller: Writer, services: Services, command_id: CommandId, request: Request
) -> m.CreatedWebhook:
    """Tell an endpoint of events from now on. The secret that signs is shown in this answer only."""
    made = await services.webhooks.add(body.url, body.events, actor=caller.name, command_id=command_id)
    answer = m.CreatedWebhook.model_validate(made)
    request.scope["state"]["remember"] = answer.model_copy(update={"secret": None}).model_dump(mode="json")
    return answer


@router.get("/webhooks")
async def list_webhooks(_: Reader, services: Services) -> m.Listed[m.Webhook]:
    """The newest first. There are a hundred at most: there is one page."""
    return m.Listed(items=[m.Webhook.model_validate(each) for each in await services.webhooks.list()], next=None)


@router.delete("/webhooks/{webhook_id}", status_code=204)
async def remove_webhook(webhook_id: str, caller: Writer, services: Services, command_id: CommandId) -> Response:
    """Tell it nothing more, also nothing that was still to be delivered."""
    await services.webhooks.remove(webhook_id, actor=caller.name, command_id=command_id)
    return Response(status_code=204)


@router.post("/webhooks/{webhook_id}/test", status_code=202)
async def test_webhook(webhook_id: str, caller: Writer, services: Services, command_id: CommandId) -> m.Delivery:
    """Send it a `webhook.test`, on the way that every notification takes; its deliveries say what became of it."""
    return m.Delivery.model_validate(await services.webhooks.test(webhook_id, actor=caller.name, command_id=command_id))


@router.get("/webhooks/{webhook_id}/deliveries")
async def list_webhook_deliveries(
    webhook_id: str,
    query: Annotated[PageQuery, Query()],
    _: Reader,
    services: Services,
    request: Request,
    response: Response,
) -> m.Listed[m.Delivery]:
    """What it was told and what became of it, the newest first; kept for 30 days after its end."""

    async def read(limit: int, after: Any) -> Any:
        return await services.webhooks.deliveries(webhook_id, limit, after)

    return await listed(request, response, services, query, m.Delivery.model_validate, read)


async def _signed(
    request: Request,
    services: Services,
    webhook: Annotated[str, Query(max_length=64, description="Whose secret signed; as in `answer_url`.")],
) -> tuple[str, str]:
    command_id = await services.webhooks.check_answer(webhook, request.headers, request.scope["state"]["body"])
    return webhook, command_id


@router.post("/webhook-answers")
async def answer_webhook(
    body: cm.AnswerInput, signed: Annotated[tuple[str, str], Depends(_signed)], services: Services
) -> cm.GivenVerdict:
    """The answer to `phase.awaiting_verdict`, signed by the webhook's secret as the Standard Webhooks specification says.

    No API key is needed. `webhook-id` is an id of the sender's choice: the same one again is the same answer.
    """
    return cm.GivenVerdict.model_validate(await services.webhooks.answer(*signed, body.model_dump()))
