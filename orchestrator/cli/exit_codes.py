"""How ``ota`` ends. Stable: scripts branch on these."""

from __future__ import annotations

from enum import IntEnum

from orchestrator.errors import OtaError


class ExitCode(IntEnum):
    """The statuses of every command; a role passes on its own (``ota run``)."""

    DONE = 0
    UNEXPECTED = 1
    """A defect, or a check that found something (`release verify`, `projection verify`, `doctor`)."""
    USAGE = 2
    """What was given is not valid, on the command line or in a file."""
    DENIED = 3
    """No credentials, or not enough of them."""
    NOT_FOUND = 4
    NO_SUCCESS = 5
    """The campaign ended, but was not completed: halted or aborted."""
    CONFLICT = 6
    """The state of things does not allow it."""
    TIMEOUT = 7
    """Waited as long as was asked for."""
    UNAVAILABLE = 8
    """A service that this needs does not answer, or asks to come back later."""
    INTERRUPTED = 130


_BY_STATUS = {
    401: ExitCode.DENIED,
    403: ExitCode.DENIED,
    404: ExitCode.NOT_FOUND,
    409: ExitCode.CONFLICT,
    412: ExitCode.CONFLICT,
    428: ExitCode.CONFLICT,
    429: ExitCode.UNAVAILABLE,
    502: ExitCode.UNAVAILABLE,
    503: ExitCode.UNAVAILABLE,
    504: ExitCode.UNAVAILABLE,
}


def exit_code_of(error: OtaError) -> ExitCode:
    """The exit code for an error, by the HTTP status it maps to."""
    if error.status in _BY_STATUS:
        return _BY_STATUS[error.status]
    return ExitCode.USAGE if 400 <= error.status < 500 else ExitCode.UNEXPECTED
