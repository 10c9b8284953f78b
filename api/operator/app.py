"""The operator API, v1: FastAPI inside, pure ASGI middlewares around it.

From the outside in: problems (catches everything), who is asking, how often,
what the body may be, whether this was asked before, routes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import structlog
from fastapi import FastAPI

from api import health, problems
from api.auth import ANSWERS, AuthMiddleware
from api.bodies import BodyMiddleware
from api.idempotency import IdempotencyMiddleware
from api.operator import campaigns, devices, fleet, keys, owners, pace, releases, webhooks, why
from api.operator.limits import KeyLimitMiddleware
from api.operator.openapi import describe
from api.operator.services import OperatorServices

PREFIX: Final = "/v1"

PURGE_INTERVAL: Final = 3_600.0
"""Seconds between two looks for answers that are old enough to be forgotten."""

_log = structlog.get_logger(__name__)


def create_app(services: OperatorServices) -> FastAPI:
    """The application; ``/v1``, ``/healthz``, ``/readyz``, ``/metrics``, ``/openapi.json``."""
    app = FastAPI(
        title="Bellwether operator API",
        version="1",
        description="Firmware campaigns in phases that stop by themselves. Every error is a problem with a stable `code`.",
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.services = services
    app.openapi = lambda: describe(app)
    problems.install(app)
    for part in (campaigns, pace, releases, devices, owners, fleet, keys, webhooks, why):
        app.include_router(part.router, prefix=PREFIX)
    app.include_router(health.router(services.readiness, services.metrics))
    settings = services.settings
    # The last one added is the outermost.
    app.add_middleware(IdempotencyMiddleware, answers=services.answers, now=services.clock)
    app.add_middleware(
        BodyMiddleware,
        limit=settings.max_body_bytes,
        limits={
            devices.IMPORTS: settings.max_import_devices * devices.IMPORT_BYTES_PER_DEVICE,
            ANSWERS: webhooks.MAX_ANSWER_BYTES,
        },
        streamed=frozenset({releases.UPLOADS}),
    )
    app.add_middleware(KeyLimitMiddleware, settings=settings, clock=time.monotonic)
    app.add_middleware(AuthMiddleware, keys=services.keys)
    app.add_middleware(problems.ProblemMiddleware, traceparent=services.traceparent, transient=services.transient)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    forgetting = asyncio.create_task(_forget(app.state.services))
    try:
        yield
    finally:
        forgetting.cancel()
        await asyncio.gather(forgetting, return_exceptions=True)


async def _forget(services: OperatorServices) -> None:
    """Keep the table of answers small."""
    while True:
        try:
            await services.answers.purge(services.clock())
        except Exception as error:  # noqa: BLE001 (the next look will do it)
            _log.warning("old answers not forgotten", error=repr(error))
        await asyncio.sleep(PURGE_INTERVAL)
