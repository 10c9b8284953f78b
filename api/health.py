"""``/healthz``, ``/readyz``, ``/metrics``: for probes and scrapers, without a key.

``/healthz`` answers while the event loop turns. ``/readyz`` asks every check at once and names the ones that fail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from orchestrator.telemetry.health import Check, run_checks


def router(checks: Sequence[Check], metrics: Callable[[], bytes]) -> APIRouter:
    """The three routes. ``metrics`` gives everything measured so far in Prometheus' text format."""
    routes = APIRouter(tags=["health"])

    @routes.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the process lives."""
        return {"status": "ok"}

    @routes.get("/readyz", responses={503: {"description": "A check fails."}})
    async def readyz() -> JSONResponse:
        """Whether everything that requests need works."""
        ready, results = await run_checks(checks)
        body = {"status": "ok" if ready else "unavailable", "checks": results}
        return JSONResponse(body, 200 if ready else 503, {"Cache-Control": "no-store"})

    @routes.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def scrape() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(metrics(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return routes
