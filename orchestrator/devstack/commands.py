"""What ``ota dev up``, ``status`` and ``down`` do; the command line only parses and calls."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from orchestrator.devstack import supervisor
from orchestrator.devstack.process import Command, run
from orchestrator.devstack.roles import ROLES
from orchestrator.devstack.stack import DevStack

#: Seconds for one command that prepares the servers for the roles: migrations of an empty database, creation of topics.
PREPARE_TIMEOUT = 120.0

#: What the roles expect to find: the database's tables and Kafka's topics.
PREPARATION: tuple[Sequence[str], ...] = (("migrate",), ("topics", "apply"))


def up(state_dir: Path, *, roles: bool = False, temporal_ui: bool = False, console: Console | None = None) -> None:
    """Start the stack, and with ``roles`` the product on it; both outlive this process.

    Args:
        state_dir: the stack's folder; see ``paths.default_state_folder``.
        roles: also create tables and topics, and start all roles under a supervisor.
        temporal_ui: also serve Temporal's web pages.
        console: receives progress and at the end the variables for other commands; by default standard error.

    Raises:
        ComponentError: something did not start; what was started is stopped again, components of an earlier ``up``
        are not.
    """
    console = console or Console(stderr=True)
    state_dir = state_dir.absolute()
    stack = DevStack(state_dir, detach=True, temporal_ui=temporal_ui)
    say = _Progress(console)
    stack.up(say)
    env = {"OTA_STATE_DIR": str(state_dir), **stack.env()}
    if roles:
        for words in PREPARATION:
            _ota(words, state_dir, env)
            say("roles", f"ota {' '.join(words)} done")
        supervisor.start(state_dir, env, say)
    if stack.temporal_ui_url:
        console.print(f"Temporal's pages: {stack.temporal_ui_url}", highlight=False)
    for name, value in env.items():
        console.print(f"export {name}={value}", soft_wrap=True, highlight=False, markup=False)


def status(state_dir: Path, *, console: Console | None = None) -> bool:
    """Show each component and role; return whether the whole stack serves, and all roles if they were started."""
    state_dir = state_dir.absolute()
    table = Table("part", "state", "process", "address", box=None, pad_edge=False)
    components = DevStack(state_dir).status()
    for component in components:
        # PostgreSQL's address holds a password, and a status is what people paste into reports.
        address = (component.address or "").rpartition("@")[2]
        table.add_row(component.name, component.state, str(component.pid or ""), address)
    roles = supervisor.status(state_dir)
    for role in roles:
        table.add_row(role.name, role.state, str(role.process.pid) if role.process else "", role.url)
    console = console or Console()
    console.print(table)
    console.print(f"logs: {state_dir / 'logs'}", soft_wrap=True, highlight=False)
    return all(component.state in {"running", "external"} for component in components) and (
        not roles or [role.state for role in roles] == ["ready"] * len(ROLES)
    )


def down(state_dir: Path, *, console: Console | None = None) -> None:
    """Stop roles and stack of this folder: exactly the processes that were started for it. The data stays."""
    state_dir = state_dir.absolute()
    say = _Progress(console or Console(stderr=True))
    supervisor.stop(state_dir, say)
    DevStack(state_dir).down(say)


class _Progress:
    """One line per step with the seconds since the beginning."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()

    def __call__(self, name: str, line: str) -> None:
        seconds = time.monotonic() - self._began
        self._console.print(f"{seconds:6.1f} s  {name:10} {line}", soft_wrap=True, highlight=False, markup=False)


def _ota(words: Sequence[str], state_dir: Path, env: Mapping[str, str]) -> None:
    argv = (sys.executable, "-P", "-m", "orchestrator.cli.main", *words)
    log = state_dir / "logs" / "prepare.log"
    command = Command(name=f"ota {' '.join(words)}", argv=argv, log=log, env={**os.environ, **env}, cwd=state_dir)
    run(command, timeout=PREPARE_TIMEOUT)
