"""Hardware models, trusted keys, artifacts and releases over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.deps import CommandId, PageQuery, scoped
from api.operator import models as m
from api.operator.listing import listed
from api.operator.services import Services
from orchestrator.app.keys import Principal, Scope
from schemas.registry_events import ReleaseComponent

UPLOADS = "/v1/artifacts"
"""Where bodies are files: streamed, with a limit of their own."""

router = APIRouter(tags=["releases"])

Reader = Annotated[Principal, scoped(Scope.RELEASE_READ)]
Publisher = Annotated[Principal, scoped(Scope.RELEASE_PUBLISH)]
Admin = Annotated[Principal, scoped(Scope.ADMIN)]


@router.post("/hardware-models", status_code=201)
async def create_hardware_model(
    body: m.HardwareModelInput, caller: Publisher, services: Services, command_id: CommandId
) -> m.HardwareModel:
    """Create a hardware model."""
    made = await services.releases.create_hardware_model(
        body.name, body.profile, actor=caller.name, command_id=command_id
    )
    return m.HardwareModel.model_validate(made)


@router.get("/hardware-models")
async def list_hardware_models(
    query: Annotated[PageQuery, Query()], _: Reader, services: Services, request: Request, response: Response
) -> m.Listed[m.HardwareModel]:
    """By name."""
    return await listed(
        request, response, services, query, m.HardwareModel.model_validate, services.queries.hardware_models
    )


@router.post("/hardware-models/{name}/keys", status_code=201)
async def add_trusted_key(
    name: str, body: m.TrustedKeyInput, caller: Admin, services: Services, command_id: CommandId
) -> m.TrustedKey:
    """Trust a public key for the images of a hardware model: from then on its holder can make releases for it."""
    made = await services.releases.add_trusted_key(name, body.pem, actor=caller.name, command_id=command_id)
    return m.TrustedKey.model_validate(made)


@router.post(
    "/artifacts",
    status_code=201,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def upload_artifact(
    request: Request,
    filename: Annotated[str, Query(max_length=127)],
    hardware_model: Annotated[str, Query(max_length=63)],
    caller: Publisher,
    services: Services,
    command_id: CommandId,
    sha256: Annotated[str | None, Query(pattern="^[0-9a-f]{64}$", description="What the content must hash to.")] = None,
) -> m.Artifact:
    """Upload an image as the raw body. It is verified against the model's trusted keys, and kept only if it passes."""
    made = await services.releases.store_artifact(
        request.stream(),
        filename=filename,
        hardware_model=hardware_model,
        declared_sha256=sha256,
        actor=caller.name,
        command_id=command_id,
    )
    return m.Artifact.model_validate(made)


@router.get("/artifacts")
async def list_artifacts(
    query: Annotated[PageQuery, Query()], _: Reader, services: Services, request: Request, response: Response
) -> m.Listed[m.Artifact]:
    """By digest."""
    return await listed(request, response, services, query, m.Artifact.model_validate, services.queries.artifacts)


@router.post("/releases", status_code=201)
async def register_release(
    body: m.ReleaseInput, caller: Publisher, services: Services, command_id: CommandId, response: Response
) -> m.Release:
    """Make a release of uploaded artifacts: one per hardware model, or several components."""
    made = await services.releases.register_release(
        body.name,
        body.version,
        body.artifacts,
        {model: [ReleaseComponent(**each.model_dump()) for each in found] for model, found in body.components.items()},
        actor=caller.name,
        command_id=command_id,
    )
    response.headers["Location"] = f"/v1/releases/{made.release_id}"
    return m.Release.model_validate(made)


@router.get("/releases")
async def list_releases(
    query: Annotated[PageQuery, Query()], _: Reader, services: Services, request: Request, response: Response
) -> m.Listed[m.Release]:
    """The newest first."""
    return await listed(request, response, services, query, m.Release.model_validate, services.queries.releases)


@router.get("/releases/{release_id}")
async def get_release(release_id: str, _: Reader, services: Services) -> m.Release:
    """One release."""
    return m.Release.model_validate(await services.queries.release(release_id))
