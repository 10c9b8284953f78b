"""Every error as ``application/problem+json`` (RFC 9457), with a stable ``code``, a ``remedy`` and the trace's id.

The outermost middleware catches what nothing else did, so that even a defect answers with a problem, and logs it once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, MutableMapping
from http import HTTPStatus
from secrets import token_hex
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.errors import InvalidInputError, OtaError, UnavailableError

MEDIA_TYPE: Final = "application/problem+json"

_CODES: Final = {
    404: "route.not_found",
    405: "route.method_not_allowed",
    406: "request.not_acceptable",
    413: "request.too_large",
    415: "request.media_type",
    429: "request.too_many",
}
_REMEDIES: Final = {
    404: "Compare the path with /openapi.json.",
    405: "Compare the method with /openapi.json.",
}
_TITLES: Final = {413: "Content Too Large", 422: "Unprocessable Content"}
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
_POINTER_ESCAPES: Final = str.maketrans({"~": "~0", "/": "~1"})

_log = structlog.get_logger(__name__)


class DatabaseUnavailableError(UnavailableError):
    """The database does not answer; nothing was changed."""

    code = "unavailable.database"
    remedy = "Try again; with the same Idempotency-Key nothing happens twice."


class NulByteError(InvalidInputError):
    """The address holds a NUL character."""

    code = "request.nul"
    status = 400
    remedy = "No name holds one."


def trace_id_of(scope: Mapping[str, Any]) -> str:
    """The id under which this request is found in traces and logs."""
    return scope.get("state", {}).get("trace_id", "")


def respond(
    scope: MutableMapping[str, Any],
    *,
    status: int,
    code: str,
    detail: str,
    remedy: str = "",
    errors: list[Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A problem as a response."""
    body = {
        "type": f"errors/{code}",
        "title": _TITLES.get(status) or HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        "instance": scope.get("path", ""),
        "remedy": remedy,
        "trace_id": trace_id_of(scope),
        "errors": errors or [],
    }
    extra = {"Cache-Control": "no-store", **(headers or {})}
    if status == HTTPStatus.UNAUTHORIZED:
        extra["WWW-Authenticate"] = "Bearer"
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        extra["Retry-After"] = "2"
    return JSONResponse(body, status, extra, MEDIA_TYPE)


def of_error(
    scope: MutableMapping[str, Any], error: OtaError, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An error of ours as a response."""
    retry_after = error.fields.get("retry_after")
    if retry_after is not None:
        headers = {**(headers or {}), "Retry-After": str(retry_after)}
    return respond(
        scope,
        status=error.status,
        code=error.code,
        detail=error.detail,
        remedy=error.remedy,
        errors=error.fields.get("errors"),
        headers=headers,
    )


def install(app: FastAPI) -> None:
    """Answer all errors that reach the router's exception handling with problems."""

    async def on_ota_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, OtaError)
        if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, UnavailableError):
            _log.error("request failed", code=error.code, path=request.url.path, exc_info=error)
        return of_error(request.scope, error)

    async def on_validation(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        found = [_item(item) for item in error.errors()]
        detail = " ".join(item["detail"] for item in found[:3])
        remedy = "Correct what `errors` names and send it again."
        return respond(request.scope, status=422, code="request.invalid", detail=detail, remedy=remedy, errors=found)

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        # FastAPI wraps whatever goes wrong while it reads a body.
        if isinstance(error.__cause__, OtaError):
            return of_error(request.scope, error.__cause__)
        status = error.status_code
        return respond(
            request.scope,
            status=status,
            code=_CODES.get(status, f"http.{status}"),
            detail=f"{request.method} {request.url.path}: {error.detail}.",
            remedy=_REMEDIES.get(status, ""),
            headers=error.headers,
        )

    app.add_exception_handler(OtaError, on_ota_error)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)


def _item(error: Mapping[str, Any]) -> dict[str, Any]:
    where, *path = error["loc"]
    code = {"missing": "field.missing", "extra_forbidden": "field.unknown"}.get(error["type"], "field.value")
    name = str(path[-1]) if path else where
    text = {
        "field.missing": f"The field '{name}' is required.",
        "field.unknown": f"There is no field '{name}' here.",
    }.get(code, f"{name}: {error['msg']}.")
    item = {"code": code, "detail": text}
    if where == "body":
        return {"pointer": "".join(f"/{str(part).translate(_POINTER_ESCAPES)}" for part in path), **item}
    return {"parameter": name, "in": where, **item}


def _trace_id(traceparent: str | None) -> str:
    found = _TRACEPARENT.fullmatch(traceparent or "")
    return found[1] if found else token_hex(16)


def _header(scope: Scope, name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


def _refuse_nul(scope: Scope) -> None:
    # PostgreSQL refuses it in any text, which would look like a defect.
    if "\x00" in scope["path"] or b"%00" in scope.get("query_string", b""):
        raise NulByteError


class ProblemMiddleware:
    """Gives each request its trace id, and answers with a problem what nothing else has caught.

    Args:
        app: the application.
        traceparent: the current span's context, if there is one.
        transient: errors of the database that pass by themselves: 503.
    """

    def __init__(
        self,
        app: ASGIApp,
        traceparent: Callable[[], str | None],
        transient: tuple[type[Exception], ...],
    ) -> None:
        self._app = app
        self._traceparent = traceparent
        self._transient = transient

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trace_id = _trace_id(self._traceparent() or _header(scope, b"traceparent"))
        scope.setdefault("state", {})["trace_id"] = trace_id
        started = False

        async def note(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-trace-id", trace_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        try:
            _refuse_nul(scope)
            await self._app(scope, receive, note)
        except ClientDisconnect:
            return  # nobody is left to answer
        except Exception as error:
            if started:
                raise
            await self._answer(scope, error)(scope, receive, note)

    def _answer(self, scope: Scope, error: Exception) -> JSONResponse:
        if isinstance(error, OtaError):
            return of_error(scope, error)
        if isinstance(error, self._transient):
            _log.warning("database unavailable", path=scope["path"], error=repr(error))
            return of_error(scope, DatabaseUnavailableError())
        _log.error("unexpected error", path=scope["path"], trace_id=trace_id_of(scope), exc_info=error)
        return respond(
            scope,
            status=500,
            code="internal",
            detail="Something went wrong that should not have.",
            remedy="Report the trace_id; the log has the details.",
        )
