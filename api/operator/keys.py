"""API keys over HTTP."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Request, Response

from api.deps import CommandId, scoped
from api.operator import models as m
from api.operator.services import Services
from orchestrator.app.keys import Principal, Scope

DAY_MS: Final = 86_400_000

router = APIRouter(prefix="/api-keys", tags=["api keys"])

Admin = Annotated[Principal, scoped(Scope.ADMIN)]


@router.post("", status_code=201)
async def create_api_key(
    body: m.ApiKeyInput, caller: Admin, services: Services, command_id: CommandId, request: Request
) -> m.CreatedApiKey:
    """Create a key. It is shown in this answer only."""
    made = await services.keys.create(
        body.name,
        body.scopes,
        actor=caller.name,
        command_id=command_id,
        lifetime_ms=body.expires_in_days * DAY_MS,
    )
    answer = m.CreatedApiKey.model_validate(made)
    request.scope["state"]["remember"] = answer.model_copy(update={"key": None}).model_dump(mode="json")
    return answer


@router.get("")
async def list_api_keys(_: Admin, services: Services) -> m.Listed[m.ApiKey]:
    """All keys, ended ones included; the newest first. Deployments have tens of them: there is one page."""
    return m.Listed(items=[m.ApiKey.model_validate(key) for key in await services.keys.list()], next=None)


@router.delete("/{key_id}", status_code=204)
async def revoke_api_key(key_id: str, caller: Admin, services: Services, command_id: CommandId) -> Response:
    """End a key now."""
    await services.keys.revoke(key_id, actor=caller.name, command_id=command_id)
    return Response(status_code=204)
