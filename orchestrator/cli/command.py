"""What all commands share: the options that each takes, the connections it may ask for, and how its errors end the process."""

from __future__ import annotations

import inspect
import logging
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from orchestrator.cli.exit_codes import ExitCode, exit_code_of
from orchestrator.cli.output import Format, Output
from orchestrator.errors import ConflictError, InvalidInputError, OtaError, UnavailableError

if TYPE_CHECKING:
    import httpx

    from orchestrator.client import OtaClient
    from orchestrator.config import Settings

API_URL: Final = "http://127.0.0.1:8080"
"""Where the API is if OTA_API_URL does not say: the port that ``ota run api`` takes by default."""


class NotMigratedError(ConflictError):
    """The database is not at the revision of this version."""

    code = "database.not_migrated"
    remedy = "Run `ota migrate`."


class SettingsError(InvalidInputError):
    """An ``OTA_…`` variable is not valid."""

    code = "settings.invalid"
    remedy = "Correct the environment variable and try again."


@dataclass
class World:
    """What a command may reach, replaceable in tests."""

    http: httpx.BaseTransport | None = None
    """Instead of the network."""
    services: Callable[[Settings], AbstractAsyncContextManager[Any]] | None = None
    """Instead of ``orchestrator.bootstrap.local_services``."""
    pause: Callable[[float], None] | None = None
    """Instead of ``time.sleep``."""
    common: dict[str, Any] = field(default_factory=dict[str, Any])
    """Shared options that stood before the command."""


class Cli:
    """One command's run: its output, its settings, its connections."""

    def __init__(self, world: World, output: Output) -> None:
        self._world = world
        self.output = output

    @cached_property
    def settings(self) -> Settings:
        """The product's settings. Raises SettingsError."""
        from pydantic import ValidationError

        from orchestrator.config import Settings

        try:
            return Settings()  # pyright: ignore[reportCallIssue] (every field has a default)
        except ValidationError as error:
            found = "; ".join(f"OTA_{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors())
            raise SettingsError(found) from error

    @cached_property
    def client(self) -> OtaClient:
        """The operator API, as OTA_API_URL and OTA_API_KEY say."""
        from orchestrator.client import OtaClient

        return OtaClient(
            os.environ.get("OTA_API_URL") or API_URL,
            os.environ.get("OTA_API_KEY", ""),
            transport=self._world.http,
            sleep=self.pause,
        )

    def pause(self, seconds: float) -> None:
        """Wait."""
        import time

        (self._world.pause or time.sleep)(seconds)

    def services(self) -> AbstractAsyncContextManager[Any]:
        """The use cases on this machine's database, without the API between."""
        if self._world.services is not None:
            return self._world.services(self.settings)
        from orchestrator.bootstrap import local_services

        return local_services(self.settings)


# --------------------------------------------------------------------------- the options of every command

OutputOption = Annotated[
    Format | None, typer.Option("--output", "-o", help="Print data as text or JSON.", rich_help_panel="Output")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Short for --output json.", rich_help_panel="Output")]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print data and errors only.", rich_help_panel="Output")
]
NoColorOption = Annotated[bool, typer.Option("--no-color", help="Never use colours.", rich_help_panel="Output")]

_SHARED: Final = {
    "output": (OutputOption, None),
    "json_": (JsonOption, False),
    "quiet": (QuietOption, False),
    "no_color": (NoColorOption, False),
}


def shared_options(**given: Any) -> dict[str, Any]:
    """Those of the shared options that were given."""
    return {name: value for name, value in given.items() if value}


def command(group: typer.Typer, name: str, **more: Any) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Make ``function(cli, …)`` a command of ``group``, with the shared options added to its own.

    The function's errors become an exit code; an int that it returns is the exit code.
    """

    def register(function: Callable[..., Any]) -> Callable[..., None]:
        @wraps(function)
        def run(ctx: typer.Context, **arguments: Any) -> None:
            world = ctx.find_object(World) or World()
            own = shared_options(**{each: arguments.pop(each) for each in _SHARED})
            output = _output({**world.common, **own})
            _send_logs_to_stderr()
            code = _guarded(lambda: function(Cli(world, output), **arguments), output)
            if code:
                raise typer.Exit(code)

        _, *parameters = inspect.signature(function, eval_str=True).parameters.values()
        context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        shared = [
            inspect.Parameter(each, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for each, (kind, default) in _SHARED.items()
        ]
        run.__signature__ = inspect.Signature([context, *parameters, *shared])  # pyright: ignore[reportAttributeAccessIssue]
        run.__annotations__ = {p.name: p.annotation for p in (context, *parameters, *shared)}
        group.command(name, **more)(run)
        return function

    return register


def _send_logs_to_stderr() -> None:
    """Warnings of our own code only: libraries say what is wrong by raising. Roles set up their own logs afterwards."""
    import structlog

    logging.basicConfig(level=logging.CRITICAL, format="%(name)s: %(message)s", stream=sys.stderr, force=True)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _output(options: dict[str, Any]) -> Output:
    fmt = Format.JSON if options.get("json_") else options.get("output") or Format.TEXT
    return Output(fmt, quiet=bool(options.get("quiet")), color=not options.get("no_color"))


def _guarded(work: Callable[[], Any], output: Output) -> int:
    try:
        result = work()
    except OtaError as error:
        output.error(error)
        return exit_code_of(error)
    except KeyboardInterrupt:
        output.say("interrupted")
        return ExitCode.INTERRUPTED
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except Exception as error:  # noqa: BLE001 (the last resort, so that every defect looks alike)
        return _defect(error, output)
    return result if isinstance(result, int) else ExitCode.DONE


def _defect(error: Exception, output: Output) -> int:
    known = _known(error)
    if known is None:
        output.err.out("".join(traceback.format_exception(error)), highlight=False)
        remedy = "This is a defect; please report it with the lines above."
        known = OtaError(f"Unexpected: {type(error).__name__}: {error}", remedy=remedy)
    output.error(known)
    return exit_code_of(known)


def _known(error: BaseException) -> OtaError | None:
    """What servers that are away or not set up look like when they surface as somebody else's exception."""
    # By name: importing the driver only to ask would cost every command a tenth of a second.
    cause: BaseException = getattr(error, "orig", None) or error
    while cause is not None:
        name = type(cause).__name__
        if name in {"UndefinedTableError", "UndefinedColumnError"}:
            return NotMigratedError(f"The database lacks what this version expects: {cause}.")
        if name in {"InvalidPasswordError", "InvalidAuthorizationSpecificationError", "InvalidCatalogNameError"}:
            return UnavailableError(f"PostgreSQL refuses: {cause}.", remedy="Look at OTA_DATABASE_URL.")
        if isinstance(cause, (ConnectionError, TimeoutError)) or name in {"CannotConnectNowError", "gaierror"}:
            remedy = "`ota doctor` says which service is away."
            return UnavailableError(f"A service does not answer: {cause or name}.", remedy=remedy)
        if cause.__cause__ is None:
            return None
        cause = cause.__cause__
    return None
