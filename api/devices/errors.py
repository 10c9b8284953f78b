"""What the gateway refuses, each with its stable code.

Clients of hawkBit's interface act on the status alone, so statuses follow what real clients make of them: overload is 429, because
SWUpdate takes 503 for a failed login.
"""

from __future__ import annotations

from orchestrator.errors import InvalidInputError, NotFoundError, OtaError, UnauthorizedError, UnavailableError


class UnauthorizedDeviceError(UnauthorizedError):
    """There is no such device, or this is not its token."""

    code = "device.unauthorized"
    remedy = "Register the device, or give it its current token (Authorization: TargetToken …)."


class UnknownPathError(NotFoundError):
    """There is nothing at this path."""

    code = "path.not_found"
    remedy = "The base of a device is /{tenant}/controller/v1/{controllerId}."


class UnknownActionError(NotFoundError):
    """The action was never given to this device, or it is not offered any more."""

    code = "action.not_found"
    remedy = "Poll again and follow the links of the answer."


class UnknownArtifactError(NotFoundError):
    """The device has no started deployment with this artifact."""

    code = "artifact.not_found"
    remedy = "Get the deploymentBase again and follow its download link."


class MethodNotAllowedError(OtaError):
    """The path does not take this method."""

    code = "method.not_allowed"
    status = 405


class MalformedReportError(InvalidInputError):
    """The body is not JSON."""

    code = "report.malformed"
    status = 400


class InvalidReportError(InvalidInputError):
    """The body is JSON, but not a report."""

    code = "report.invalid"
    status = 400


class BodyTooLargeError(InvalidInputError):
    """The body is too large."""

    code = "body.too_large"
    status = 413
    remedy = "Send fewer or shorter details."


class BodyTimeoutError(InvalidInputError):
    """The body did not arrive in time."""

    code = "body.timeout"
    status = 408


class PreconditionFailedError(OtaError):
    """The artifact is not the one that If-Match names."""

    code = "artifact.precondition_failed"
    status = 412


class RangeNotSatisfiableError(OtaError):
    """No byte of the artifact lies in this range."""

    code = "artifact.range_not_satisfiable"
    status = 416


class OverloadedError(UnavailableError):
    """The gateway has more reports in hand than it can answer in time."""

    code = "gateway.overloaded"
    status = 429
