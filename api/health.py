"""``/healthz``, ``/readyz``, ``/metrics``: for probes and scrapers, without a key.

``/healthz`` answers while the event loop turns. ``/readyz`` asks every check at once and names the ones that fail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

CHECK_TIMEOUT: Final = 2.0
"""Seconds until a check counts as failed: below the usual probe's patience."""

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Check = Callable[[], Awaitable[object]]
"""Raises if what it looks at does not work."""


async def run_checks(checks: Sequence[tuple[str, Check]]) -> tuple[bool, list[dict[str, Any]]]:
    """Ask all checks at once. Returns whether all passed, and per check name, ok and what is wrong."""

    async def ask(name: str, check: Check) -> dict[str, Any]:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                await check()
        except TimeoutError:
            return {"name": name, "ok": False, "detail": f"no answer within {CHECK_TIMEOUT:g} s"}
        except Exception as error:  # noqa: BLE001 (whatever a check raises is its answer)
            return {"name": name, "ok": False, "detail": str(error) or type(error).__name__}
        return {"name": name, "ok": True}

    results = list(await asyncio.gather(*(ask(name, check) for name, check in checks)))
    return all(result["ok"] for result in results), results


def router(checks: Sequence[tuple[str, Check]], metrics: Callable[[], bytes]) -> APIRouter:
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
        return Response(metrics(), media_type=METRICS_TYPE)

    return routes
