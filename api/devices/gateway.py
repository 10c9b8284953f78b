"""The gateway as an ASGI application: who is there, what went wrong, and how it is doing.

Polls are most of its work, so there is no framework between the server and the handlers. Everything it is made of is started and
stopped by whoever makes it; it holds nothing of its own but what can be forgotten.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import structlog
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.types import Receive, Scope, Send

from api.devices.ddi import Ddi
from api.devices.ddi_bodies import Base
from api.devices.errors import OverloadedError, UnauthorizedDeviceError, UnknownPathError
from api.devices.http import PROBLEM, Answer, ClientGoneError, Headers, Request, json_answer, problem, segments
from api.devices.limits import DeviceLimits, Kind, kind_of
from api.devices.native import HealthReports
from api.devices.reports import ReportWriter
from api.devices.services import MAX_DEVICE_ID, Device, GatewayServices
from orchestrator.errors import OtaError, UnavailableError
from orchestrator.telemetry.health import run_checks

METRICS: Final = CONTENT_TYPE_PLAIN_0_0_4.encode()

REPORTS: Final = {"POST": "feedback", "PUT": "configData"}
"""Kind of hawkBit's reports by method."""

SCHEME: Final = "targettoken"
"""Authorization scheme of hawkBit for a device's own token, in lower case."""

_OVERLOADED: Final = problem(OverloadedError(), 429)

REFUSED_AT_THE_DOOR: Final = (
    b"HTTP/1.1 429 Too Many Requests\r\nretry-after: %%d\r\nconnection: close\r\n"
    b"content-length: %d\r\ncontent-type: %s\r\n\r\n%s" % (len(_OVERLOADED.body), PROBLEM, _OVERLOADED.body)
)
"""As the server would write it."""

_log = structlog.get_logger(__name__)


class _DefectError(OtaError):
    """The gateway failed; this is a defect."""


class Gateway:
    """See ``create_gateway``."""

    def __init__(self, services: GatewayServices) -> None:
        self._services = services
        self._tenant = services.settings.tenant.casefold()
        self._public = services.settings.public_gateway.rstrip("/")
        self._limits = DeviceLimits(services.settings, services.monotonic, services.chance, services.queued)
        writer = ReportWriter(services)
        self._ddi = Ddi(services, self._limits, writer)
        self._health = HealthReports(services, writer)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(Request(scope, receive, send), scope)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _http(self, request: Request, scope: Scope) -> None:
        try:
            await self._route(request, scope)
        except ClientGoneError:
            return
        except Exception as error:
            if request.started:
                # A download that broke off: the server cuts the connection, and the client resumes.
                raise
            await self._refuse(request, self._refusal(error, scope), _report(request.method, scope))

    def at_the_door(self) -> bytes | None:
        """The answer to a poll on a new connection if it cannot be served now; None: let it in."""
        later = self._limits.at_the_door()
        if later is None:
            return None
        self._services.put_off("request", OverloadedError.code)
        return REFUSED_AT_THE_DOOR % later

    def _refusal(self, error: Exception, scope: Scope) -> OtaError:
        if isinstance(error, OtaError):
            return error
        if isinstance(error, self._services.transient):
            return UnavailableError(f"Something this needs does not answer: {error!r}.")
        _log.error("gateway.defect", path=scope["path"], method=scope["method"], exc_info=error)
        return _DefectError()

    async def _refuse(self, request: Request, error: OtaError, report: str | None) -> None:
        if report:
            self._services.refused(report, error.code)
        headers: Headers = ()
        status = error.status
        later = error.fields.get("retry_after")
        if isinstance(error, UnavailableError) and later is None:
            _log.warning("gateway.unavailable", code=error.code, detail=error.detail)
            status, later = 429, self._limits.put_off()
        if later is not None:
            headers = self._come_back(request, error, later, report)
        elif isinstance(error, UnauthorizedDeviceError):
            headers = [(b"www-authenticate", b"TargetToken")]
        elif allow := error.fields.get("allow"):
            headers = [(b"allow", str(allow).encode())]
        elif content_range := error.fields.get("content_range"):
            headers = [(b"content-range", str(content_range).encode())]
        await request.answer(problem(error, status, headers))

    def _come_back(self, request: Request, error: OtaError, seconds: int, report: str | None) -> Headers:
        self._services.put_off(report or "request", error.code)
        later = (b"retry-after", str(seconds).encode())
        # A client without a body to send is gone for a while; its connection would only hold a descriptor.
        return [later, (b"connection", b"close")] if request.method == "GET" else [later]

    async def _route(self, request: Request, scope: Scope) -> None:
        match segments(scope):
            case [tenant, "controller", "v1", device_id, *path] if tenant.casefold() == self._tenant:
                base = Base(self._public, tenant, device_id)
                serve = partial(self._ddi.handle, request, base, path=path)
                await self._device(request, scope, device_id, kind_of(path), serve, attributes=not path)
            case ["device", "v1", device_id, *path]:
                serve = partial(self._health.handle, request, path=path)
                await self._device(request, scope, device_id, Kind.HEALTH, serve)
            case ["healthz"]:
                await request.answer(json_answer(200, {"status": "ok"}))
            case ["readyz"]:
                await request.answer(await self._ready())
            case ["metrics"]:
                await request.answer(Answer(body=self._services.metrics(), content_type=METRICS))
            case _:
                raise UnknownPathError

    async def _device(
        self,
        request: Request,
        scope: Scope,
        device_id: str,
        kind: Kind,
        serve: Callable[[Device], Awaitable[None]],
        *,
        attributes: bool = False,
    ) -> None:
        """Serve a device, once it is known to be one, within all limits."""
        client = scope.get("client")
        host = client[0] if client else ""
        with self._limits.admitted(host, kind):
            device = await self._authenticated(request, device_id, attributes=attributes)
            if device is None:
                self._limits.rejected(host, kind)
                raise UnauthorizedDeviceError
            self._limits.identified(device.device_no, kind)
            self._services.presence.seen(device.device_no, self._services.clock())
            await serve(device)

    async def _authenticated(self, request: Request, device_id: str, *, attributes: bool) -> Device | None:
        scheme, _, token = (request.header(b"authorization") or "").partition(" ")
        if scheme.lower() != SCHEME or not 0 < len(device_id) <= MAX_DEVICE_ID:
            return None
        return await self._services.identities.authenticate(device_id, token.strip(), attributes=attributes)

    async def _ready(self) -> Answer:
        ready, checks = await run_checks(self._services.readiness)
        return json_answer(200 if ready else 503, {"status": "ok" if ready else "unavailable", "checks": checks})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._limits.start()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                self._limits.stop()
                return


def _report(method: str, scope: Scope) -> str | None:
    """What kind of report this was meant to be, None if none."""
    return "health" if method == "POST" and segments(scope)[:2] == ["device", "v1"] else REPORTS.get(method)


def create_gateway(services: GatewayServices) -> Gateway:
    """The gateway as an ASGI 3 application: hawkBit's device interface, our own, ``/healthz``, ``/readyz`` and ``/metrics``."""
    return Gateway(services)
