"""The process behind ``ota dev up --roles``: it supervises the roles in the background until it is told to end.

``python -m orchestrator.devstack.supervisor STATE_DIR`` takes the addresses of the stack from its environment. It
writes what the roles do to ``roles.json``, and is itself named in ``supervisor.json``, written by whoever started it,
so that ``status`` and ``down`` work from any process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from threading import Event, Lock
from typing import Any

from orchestrator.devstack.process import Command, ComponentError, ProcessRef, log_tail, spawn
from orchestrator.devstack.roles import (
    ROLES,
    START_TIMEOUT,
    STOP_TIMEOUT,
    RoleFailedError,
    Roles,
    RoleStatus,
)
from orchestrator.devstack.stack import write_atomically

#: Seconds between two looks at what the supervisor has written.
POLL_INTERVAL = 0.1


def start(state_dir: Path, env: Mapping[str, str], progress: Callable[[str, str], None]) -> None:
    """Start a supervisor that outlives this process, and return when all roles are ready.

    Raises:
        RoleFailedError: they are not; nothing is left running.
    """
    running = _supervisor(state_dir)
    if running and running.alive():
        progress("roles", "already running")
        return
    _forget(state_dir)
    log = state_dir / "logs" / "supervisor.log"
    argv = (sys.executable, "-P", "-m", "orchestrator.devstack.supervisor", str(state_dir))
    command = Command(name="the supervisor", argv=argv, log=log, env={**os.environ, **env}, cwd=state_dir)
    process = spawn(command, die_with_parent=False)
    write_atomically(state_dir / "supervisor.json", json.dumps(asdict(process)))
    try:
        _wait_ready(state_dir, process, log, progress)
    except BaseException:
        stop(state_dir)
        raise


def status(state_dir: Path) -> tuple[RoleStatus, ...]:
    """Return what the roles do, as last written; none if there is no supervisor."""
    supervisor = _supervisor(state_dir)
    if supervisor is None or not supervisor.alive():
        return ()
    return _read(state_dir)


def stop(state_dir: Path, progress: Callable[[str, str], None] = lambda *_: None) -> None:
    """End the supervisor, which stops the roles, and whatever a supervisor that was killed left behind."""
    supervisor = _supervisor(state_dir)
    if supervisor and supervisor.alive():
        progress("roles", "stopping")
        supervisor.stop(signal.SIGTERM, STOP_TIMEOUT * (len(ROLES) + 1))
        progress("roles", "stopped")
    for role in _read(state_dir):
        if role.process:
            role.process.kill()
    _forget(state_dir)


def _wait_ready(state_dir: Path, process: ProcessRef, log: Path, progress: Callable[[str, str], None]) -> None:
    began = time.monotonic()
    ready: set[str] = set()
    while len(ready) < len(ROLES):
        time.sleep(POLL_INTERVAL)
        for role in status(state_dir):
            if role.state == "ready" and role.name not in ready:
                ready.add(role.name)
                progress(role.name, f"ready after {time.monotonic() - began:.1f} s at {role.url}")
        if not process.alive() or time.monotonic() - began > START_TIMEOUT + STOP_TIMEOUT:
            raise RoleFailedError("the roles did not start" + log_tail(log))


def _supervisor(state_dir: Path) -> ProcessRef | None:
    try:
        return ProcessRef(**json.loads((state_dir / "supervisor.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def _read(state_dir: Path) -> tuple[RoleStatus, ...]:
    try:
        stored = json.loads((state_dir / "roles.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ()
    return tuple(_decoded(role) for role in stored)


def _decoded(role: dict[str, Any]) -> RoleStatus:
    process = role["process"]
    return RoleStatus(**role | {"log": Path(role["log"]), "process": ProcessRef(**process) if process else None})


def _forget(state_dir: Path) -> None:
    (state_dir / "supervisor.json").unlink(missing_ok=True)
    (state_dir / "roles.json").unlink(missing_ok=True)


def _supervise(state_dir: Path) -> None:
    told_to_end = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told_to_end.set())
    writing = Lock()

    def write() -> None:
        # From the threads of all roles: whoever is last writes what is newest.
        with writing:
            stored = [asdict(role) | {"log": str(role.log)} for role in roles.status()]
            write_atomically(state_dir / "roles.json", json.dumps(stored, indent=2))

    roles = Roles(state_dir, {}, on_change=write)
    try:
        roles.start()
        told_to_end.wait()
    finally:
        roles.stop()


def main() -> None:
    (state_dir,) = sys.argv[1:]
    try:
        _supervise(Path(state_dir))
    except ComponentError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
