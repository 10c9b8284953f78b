"""Child processes: started in their own session with a log file, found again by id, stopped for certain.

A process is named by its id *and* its start time, so that a number the system has given to somebody else is never
signalled, not even by another process that reads it from a file later.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import psutil

from orchestrator.devstack.account import Account
from orchestrator.errors import UnavailableError

#: Seconds between two looks at a starting process: short against the fastest start (0.2 s), cheap against its CPU.
POLL_INTERVAL = 0.05
#: Seconds between two looks at processes that were killed.
KILL_INTERVAL = 0.01
#: Seconds until it is noticed that a process ended that is not our child and that its parent has not reaped; the end of
#: our own children is noticed at once.
WAIT_SLICE = 0.25
#: Seconds until a killed process must be gone; longer means that the kernel holds it (a hanging disk).
KILL_TIMEOUT = 10.0
#: Bytes of a log's end that an error shows.
LOG_TAIL = 2_000

_LAUNCH = str(Path(__file__).with_name("launch.py"))

# Linux ties the death signal to the *thread* that forked, so all children are forked by one thread that lives as long
# as the process; with a thread of the caller they would die as soon as that thread is done.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="devstack-spawner")


class ComponentError(UnavailableError):
    """A part of the embedded stack did not start."""

    code = "devstack.component_failed"
    remedy = "Read the log named above; delete the state folder to start afresh."


class StartCancelledError(ComponentError):
    """The start was given up because something else failed."""

    code = "devstack.start_cancelled"


@dataclass(frozen=True, slots=True)
class Command:
    """How to start one program.

    Attributes:
        name: for messages.
        argv: the program's absolute path and its arguments.
        log: receives both output streams; appended to.
        env: the complete environment.
        cwd: an existing folder.
        death_signal: what it gets when our process dies (Linux).
        account: to run under, instead of ours.
    """

    name: str
    argv: tuple[str, ...]
    log: Path
    env: Mapping[str, str]
    cwd: Path
    death_signal: signal.Signals = signal.SIGKILL
    account: Account | None = None


@dataclass(frozen=True, slots=True)
class ProcessRef:
    """One process, ours or not: ``started`` tells it from a later process with the same id."""

    pid: int
    started: float

    def alive(self) -> bool:
        """Whether it runs; one that ended and waits to be reaped does not."""
        try:
            return _started(self.pid) == self.started and psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def wait(self, timeout: float) -> int | None:
        """Wait for its end; return the exit status (negative: the signal), or None when it is not our child.

        Raises:
            TimeoutError: it still runs.
        """
        deadline = time.monotonic() + timeout
        while True:
            # Somebody else's child that ended stays visible until its parent looks. Ours is reaped below.
            ended = not self.alive()
            left = deadline - time.monotonic()
            ours = False
            try:
                if _started(self.pid) != self.started:
                    return None
                process = psutil.Process(self.pid)
                # A program of several threads (a JVM) looks like a zombie as soon as its first thread has ended, and can be reaped
                # only when the last one has: ours is waited for, and its status is never given up.
                ours = process.ppid() == os.getpid()
                return process.wait(0 if ended and not ours else max(0, min(WAIT_SLICE, left)))
            except psutil.NoSuchProcess:
                return None
            except psutil.TimeoutExpired:
                if ended and not ours:
                    return None
            if left < 0:
                raise TimeoutError(f"process {self.pid} still runs after {timeout} s")

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if it is gone."""
        if self.alive():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def stop(self, number: signal.Signals, timeout: float) -> bool:
        """Ask it to end, kill it when ``timeout`` seconds have passed; return whether it ended by itself."""
        self.send(number)
        with suppress(TimeoutError):
            self.wait(timeout)
            return True
        self.kill()
        return False

    def kill(self) -> None:
        """End it and all its descendants at once, and wait until they are gone."""
        try:
            if _started(self.pid) != self.started:
                return
            process = psutil.Process(self.pid)
            doomed = [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for each in doomed:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        deadline = time.monotonic() + KILL_TIMEOUT
        while left := [each.pid for each in doomed if not _gone(each)]:
            if time.monotonic() > deadline:
                raise ComponentError(f"processes {left} do not end")
            time.sleep(KILL_INTERVAL)


def spawn(command: Command, *, die_with_parent: bool) -> ProcessRef:
    """Start a program in a session of its own.

    Args:
        command: what to start.
        die_with_parent: on Linux, the kernel ends it when our process dies in whatever way.
    """
    command.log.parent.mkdir(parents=True, exist_ok=True)
    account = command.account
    arguments = (
        os.getpid(),
        int(command.death_signal) if die_with_parent else 0,
        account.uid if account else -1,
        account.gid if account else -1,
        int(account.override) if account else 0,
        command.log,
        command.cwd,
        *command.argv,
    )
    argv = [sys.executable, "-I", "-S", _LAUNCH, *map(str, arguments)]
    pid = _spawner.submit(os.posix_spawn, sys.executable, argv, dict(command.env)).result()
    return ProcessRef(pid, _started(pid))


def run(command: Command, *, timeout: float) -> None:
    """Run a program to its end.

    Raises:
        ComponentError: it failed or took longer than ``timeout`` seconds.
    """
    process = spawn(command, die_with_parent=True)
    try:
        status = process.wait(timeout)
    except TimeoutError:
        raise ComponentError(f"{command.name} took longer than {timeout:.0f} s" + log_tail(command.log)) from None
    finally:
        process.kill()
    if status != 0:
        raise ComponentError(f"{command.name} ended with status {status}" + log_tail(command.log))


def wait_ready(
    process: ProcessRef, command: Command, ready: Callable[[], bool], *, timeout: float, cancelled: Event
) -> None:
    """Poll until a started program serves.

    Raises:
        ComponentError: it ended, or ``timeout`` seconds passed.
        StartCancelledError: ``cancelled`` was set.
    """
    deadline = time.monotonic() + timeout
    while not ready():
        if not process.alive():
            raise ComponentError(f"{command.name} ended while starting" + log_tail(command.log))
        if time.monotonic() > deadline:
            raise ComponentError(f"{command.name} does not answer after {timeout:.0f} s" + log_tail(command.log))
        if cancelled.wait(POLL_INTERVAL):
            raise StartCancelledError(f"the start of {command.name} was given up because something else failed")


def log_tail(log: Path) -> str:
    """Return a log's end as the second half of an error message."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:].strip()
    except FileNotFoundError:
        text = ""
    return f"; the end of {log}:\n{text or '(empty)'}"


def _gone(process: psutil.Process) -> bool:
    """Whether it has ended, reaped or not: whoever is process 1 in a container may take its time."""
    try:
        # It looks like a zombie as soon as its first thread has ended; until the last one has, its ports and files are taken.
        if process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1:
            return False
        with suppress(psutil.TimeoutExpired):
            process.wait(0)
    except psutil.NoSuchProcess:
        pass
    return True


def _started(pid: int) -> float:
    """Return a process's start: clock ticks since boot on Linux, which setting the clock does not move."""
    if sys.platform != "linux":
        return psutil.Process(pid).create_time()
    try:
        # proc(5): the name, field 2, may hold spaces and brackets; starttime is field 22.
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return float(stat.rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        raise psutil.NoSuchProcess(pid) from None
