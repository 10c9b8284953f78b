"""``python -m orchestrator.demo``: see ``deploy/demo``, which sets everything up first."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from orchestrator.demo.folder import default_folder, fresh_folder
from orchestrator.demo.report import Report, expectations
from orchestrator.demo.run import PLAN, Demo, Options
from orchestrator.demo.scenario import DEVICES, LEAST_DEVICES
from orchestrator.demo.screen import Screen
from orchestrator.demo.story import tell
from orchestrator.errors import OtaError

OK, FAILED, BROKEN, INTERRUPTED = 0, 1, 8, 130
"""Exit codes: all holds; something does not; a part did not work; interrupted."""

CHAOS_SEED = 1


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="deploy/demo",
        description="A good, a bad and a silent release on a simulated fleet, on real servers on this machine.",
        epilog=f"Exit code: {OK} if everything holds that must, {FAILED} if something does not, {BROKEN} if a part did not work.",
    )
    made.add_argument(
        "--devices", type=_devices, default=DEVICES, metavar="N", help="size of the fleet (default: %(default)s)"
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write the machine-readable report to FILE")
    made.add_argument("--chaos", action="store_true", help="kill projector, worker and gateway with SIGKILL meanwhile")
    made.add_argument(
        "--seed", type=int, default=CHAOS_SEED, metavar="N", help="order and times of the kills (default: %(default)s)"
    )
    made.add_argument("--keep", action="store_true", help="leave servers and roles running at the end")
    made.add_argument(
        "--state-dir", type=Path, default=default_folder(), metavar="DIR", help="data and logs (default: %(default)s)"
    )
    made.add_argument("--plan", type=Path, default=PLAN, metavar="FILE", help="campaign plan (default: %(default)s)")
    made.add_argument("--setup-only", action="store_true", help="only deploy/demo: set up and end")
    return made


def _devices(text: str) -> int:
    number = int(text)
    if number < LEAST_DEVICES:
        raise argparse.ArgumentTypeError(f"at least {LEAST_DEVICES}, for three phases with 60 canaries")
    return number


async def _run(options: Options, state_dir: Path, json_file: Path | None, console: Console) -> int:
    this = asyncio.current_task()
    assert this is not None, "a coroutine that runs has a task"
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    screen = Screen(console)
    with fresh_folder(state_dir) as folder:
        demo = Demo(folder, options, screen)
        kept = False
        try:
            report = await demo.play()
            checks = list(expectations(report, demo.first_phase))
            report.ok = all(check.holds for check in checks)
            tell(console, report, checks)
            if json_file:
                write(json_file, report)
            kept = options.keep
        finally:
            if not kept:
                screen.step("stopping")
                await asyncio.to_thread(demo.system.stop)
        console.print(f"Logs: {demo.system.logs}", highlight=False, soft_wrap=True)
        if kept:
            demo.system.show(console)
        return OK if report.ok else FAILED


def write(path: Path, report: Report) -> None:
    """Write the report as JSON for people and programs."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def main(arguments: Sequence[str] | None = None) -> int:
    given = parser().parse_args(arguments)
    console = Console(file=sys.stdout)
    options = Options(devices=given.devices, keep=given.keep, chaos=given.chaos, seed=given.seed, plan=given.plan)
    try:
        return asyncio.run(_run(options, given.state_dir, given.json, console))
    except OtaError as error:
        console.print(f"\n{error.detail}", style="red", markup=False, highlight=False)
        console.print(f"{error.remedy} ({error.code})", markup=False, highlight=False)
        return BROKEN
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
