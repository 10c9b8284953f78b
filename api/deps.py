"""What routes depend on: the caller with a declared scope, the command id, the expected version, a page.

Every route outside ``auth.PUBLIC`` declares its scope with :func:`scoped`; the OpenAPI document shows it, and a test walks it.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from fastapi import Depends, Header, Request, Security
from fastapi.security import HTTPBearer, SecurityScopes
from pydantic import BaseModel, ConfigDict, Field

from api.paging import DEFAULT_LIMIT, MAX_CURSOR, MAX_LIMIT
from orchestrator.app.keys import Principal, Scope
from orchestrator.app.ports import VersionConflictError
from orchestrator.errors import InvalidInputError, OtaError

_ETAG: Final = re.compile(r'"([0-9]{1,9})"', re.ASCII)

_bearer: Final = HTTPBearer(scheme_name="api_key", description="An API key: `ota_…`", auto_error=False)


class PreconditionError(OtaError):
    """Somebody else changed this since it was read."""

    code = "precondition.failed"
    status = 412
    remedy = "Read it again, and repeat the command with the new ETag if it is still right."


class EtagError(InvalidInputError):
    """The header If-Match is not an ETag of this API."""

    code = "precondition.etag"
    status = 400
    remedy = "Send the ETag of the last answer unchanged, quotes included."


def _principal(request: Request, scopes: SecurityScopes, _: Annotated[Any, Depends(_bearer)]) -> Principal:
    principal: Principal = request.scope["state"]["principal"]
    for scope in scopes.scopes:
        principal.require(Scope(scope))
    return principal


def scoped(scope: Scope) -> Any:
    """The principal, who has this scope."""
    return Security(_principal, scopes=[scope.value])


def _command_id(
    request: Request,
    idempotency_key: Annotated[  # noqa: ARG001 (read by the middleware; here for the description)
        str | None, Header(description="Repeating a request with the same key repeats its answer, not its effect.")
    ] = None,
) -> str:
    return request.scope["state"]["command_id"]


CommandId = Annotated[str, Depends(_command_id)]
"""Under which the log keeps what this request causes: exactly once."""


def _expected_version(
    if_match: Annotated[
        str | None, Header(description="ETag that the decision was made on; 412 if it has changed.")
    ] = None,
) -> int | None:
    if if_match is None or if_match.strip() == "*":
        return None
    found = _ETAG.fullmatch(if_match.strip())
    if found is None:
        raise EtagError
    return int(found[1])


ExpectedVersion = Annotated[int | None, Depends(_expected_version)]
"""Version of the campaign that the caller has seen, if they say so."""


def etag(version: int) -> str:
    return f'"{version}"'


class stale_as_precondition:  # noqa: N801 (reads as a statement)
    """A version conflict becomes 412 where the caller named a version."""

    def __init__(self, expected: int | None) -> None:
        self._expected = expected

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, VersionConflictError) and self._expected is not None:
            raise PreconditionError(error.detail) from error


class PageQuery(BaseModel):
    """Query of every list."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT, description="Items of a page, at most.")
    cursor: str | None = Field(None, max_length=MAX_CURSOR, description="`next` of the page before.")
