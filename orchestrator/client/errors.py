"""What the API refuses, as exceptions that say the same."""

from __future__ import annotations

from typing import Any

import msgspec

from orchestrator.errors import InvalidInputError, OtaError, UnavailableError


class _Problem(msgspec.Struct):
    """RFC 9457 problem details with our members."""

    status: int = 500
    code: str = "unexpected"
    title: str = ""
    detail: str = ""
    remedy: str = ""
    trace_id: str | None = None
    errors: list[dict[str, Any]] = []


class ApiError(OtaError):
    """The API refused the request."""

    def __init__(
        self,
        detail: str,
        *,
        status: int,
        code: str,
        remedy: str = "",
        trace_id: str | None = None,
        errors: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(detail, remedy=remedy)
        self.status = status
        self.code = code
        self.trace_id = trace_id
        self.errors = errors or []
        """Single problems of the request: pointer, code, detail."""


class ApiUnreachableError(UnavailableError):
    """The API does not answer."""

    code = "api.unreachable"
    remedy = "Look whether it runs (`ota dev status`, `ota doctor`) and whether OTA_API_URL is its address."


class ApiAddressError(InvalidInputError):
    """The API's address is not valid."""

    code = "client.url"
    remedy = "Set OTA_API_URL to the API's address, such as http://127.0.0.1:8080."


class NoApiKeyError(OtaError):
    """There is no API key to say who you are."""

    code = "client.key.missing"
    status = 401
    remedy = "Set OTA_API_KEY; `ota key create` on the server's machine makes the first key."


def error_of(status: int, body: bytes, trace_id: str) -> ApiError:
    """The error that an answer with a status of 400 or above stands for, also when something else than the API gave it."""
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except msgspec.DecodeError:
        return ApiError(
            f"Answered {status} without a problem description; this may not be the API.",
            status=status,
            code="api.unexpected_answer",
            remedy="Look whether OTA_API_URL points at the API and what stands before it.",
            trace_id=trace_id,
        )
    return ApiError(
        problem.detail or problem.title or f"Answered {status}.",
        status=status,
        code=problem.code,
        remedy=problem.remedy,
        trace_id=problem.trace_id or trace_id,
        errors=problem.errors,
    )
