"""``ota``: the command line. This module only puts the groups together; each group is a module ``cmd_*``."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from contextlib import suppress
from typing import NoReturn

import typer

from orchestrator.cli import (
    cmd_bench,
    cmd_campaign,
    cmd_dev,
    cmd_device,
    cmd_doctor,
    cmd_fleet,
    cmd_hardware,
    cmd_history,
    cmd_key,
    cmd_pace,
    cmd_projection,
    cmd_projection_log,
    cmd_release,
    cmd_roles,
    cmd_sim,
    cmd_webhook,
    cmd_will,
)
from orchestrator.cli.command import (
    JsonOption,
    NoColorOption,
    OutputOption,
    QuietOption,
    World,
    shared_options,
)
from orchestrator.cli.exit_codes import ExitCode

app = typer.Typer(
    name="ota",
    help="Roll firmware out in phases; stop by itself when a release harms devices; prove afterwards what happened.",
    epilog="OTA_API_URL and OTA_API_KEY say which API to talk to and as whom; every setting is an OTA_… variable too.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    cmd_campaign,
    cmd_pace,
    cmd_release,
    cmd_device,
    cmd_will,
    cmd_hardware,
    cmd_history,
    cmd_key,
    cmd_roles,
    cmd_projection,
    cmd_projection_log,
    cmd_dev,
    cmd_sim,
    cmd_doctor,
    cmd_fleet,
    cmd_webhook,
    cmd_bench,
):
    module.register(app)


@app.callback()
def _main(
    ctx: typer.Context,
    output: OutputOption = None,
    json_: JsonOption = False,
    quiet: QuietOption = False,
    no_color: NoColorOption = False,
) -> None:
    world = ctx.ensure_object(World)
    world.common = shared_options(output=output, json_=json_, quiet=quiet, no_color=no_color)


def run() -> NoReturn:
    """Run ``ota`` with the process's arguments and end the process.

    It ends without the interpreter's clean-up: Temporal's native threads would abort it there, and its exit status with it.
    """
    code = ExitCode.UNEXPECTED.value
    try:
        app()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else (ExitCode.DONE if end.code is None else ExitCode.UNEXPECTED)
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except Exception:  # noqa: BLE001 - a defect: the interpreter, which would show it, does not get to it any more
        traceback.print_exc()
    finally:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


if __name__ == "__main__":
    run()
