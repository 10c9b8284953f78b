"""The one family of errors that users see.

Every error carries a stable dotted ``code``, the HTTP status it maps to, and a ``remedy``: the sentence that says what to do
next. The class docstring is the default message. Anything else that escapes is a defect and is reported as such.
"""

from __future__ import annotations

from typing import Any


class OtaError(Exception):
    """Something went wrong."""

    code: str = "internal"
    status: int = 500
    remedy: str = ""

    def __init__(self, detail: str | None = None, *, remedy: str | None = None, **fields: Any) -> None:
        self.detail = detail or (type(self).__doc__ or "").strip().splitlines()[0]
        if remedy is not None:
            self.remedy = remedy
        self.fields = fields
        super().__init__(self.detail)


class InvalidInputError(OtaError):
    """The request is not valid."""

    code = "request.invalid"
    status = 422


class NotFoundError(OtaError):
    """There is no such thing."""

    code = "not_found"
    status = 404


class ConflictError(OtaError):
    """The current state does not allow this."""

    code = "conflict"
    status = 409


class ForbiddenError(OtaError):
    """The principal may not do that."""

    code = "forbidden"
    status = 403


class UnauthorizedError(OtaError):
    """No valid credentials were presented."""

    code = "unauthorized"
    status = 401


class UnavailableError(OtaError):
    """A service this needs does not answer."""

    code = "unavailable"
    status = 503
