"""The product's roles as child processes: started together, restarted when they end, killed on demand.

Every role is built to be killed at any moment, so the supervision is plain: one thread per role starts it, waits
until it is ready, waits until it ends, and starts it again after a pause. Log damage is the exception: a role that
finds the event log broken must not try again and again, a person has to look.
"""

from __future__ import annotations

import http.client
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Literal

from orchestrator.devstack.ports import HOST, free_ports
from orchestrator.devstack.process import Command, ComponentError, ProcessRef, log_tail, spawn

#: All roles. They are stopped in this order: those that take work in first, the projector, which only reads, last.
ROLES = ("gateway", "api", "relay", "worker", "projector")

#: Variables that tell a role its port; the others serve only health and metrics, on ``OTA_HEALTH_PORT``.
PORT_VARIABLES = {"api": "OTA_API_PORT", "gateway": "OTA_GATEWAY_PORT"}

#: Exit status of a role that found the event log damaged: it is not started again.
LOG_DAMAGE = 5

#: Seconds before the first restart; doubled with each start that did not become ready.
SHORTEST_PAUSE = 0.2
#: Seconds that the pause grows to.
LONGEST_PAUSE = 5.0
#: Seconds a role gets to end in an orderly way before it is killed.
STOP_TIMEOUT = 15.0
#: Seconds until all roles must be ready; five Python processes start at once, on two cores in 5 to 10 s.
START_TIMEOUT = 90.0
#: Starts in vain, one after the other, until waiting for a role gives up: a wrong setting does not heal.
HOPELESS_STARTS = 3
#: Seconds between two looks at a role.
POLL_INTERVAL = 0.1
#: Seconds of one round of waiting for the end of a role, which may run for days.
WAIT_ROUND = 3600.0
#: Seconds until one question to a role's ``/readyz`` counts as "no".
PROBE_TIMEOUT = 1.0

State = Literal["starting", "ready", "pausing", "damaged", "stopped"]


@dataclass(frozen=True, slots=True)
class RoleStatus:
    """What one role does now.

    Attributes:
        name: the role.
        state: ``pausing`` before a restart; ``damaged`` when it found log damage and stays down.
        port: where it serves ``/healthz``, ``/readyz`` and ``/metrics``; api and gateway everything.
        log: its log file.
        process: the process, while there is one.
        starts: how often it was started.
        vain_starts: how many of the last starts ended before it was ready.
        exit_status: how it ended last; negative: the signal.
    """

    name: str
    state: State
    port: int
    log: Path
    process: ProcessRef | None = None
    starts: int = 0
    vain_starts: int = 0
    exit_status: int | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"


class RoleFailedError(ComponentError):
    """A role did not become ready."""

    code = "devstack.role_failed"


def ota_run(role: str) -> Sequence[str]:
    """Return the command line of a role: this environment's ``ota run ROLE``, which imports nothing from its folder."""
    return (sys.executable, "-P", "-m", "orchestrator.cli.main", "run", role)


class Roles:
    """Supervised role processes.

    Args:
        state_dir: receives the logs, ``logs/<role>.log``.
        env: added to the process environment for every role: the stack's addresses and the product's settings.
        names: which roles, in the order in which they are stopped.
        command: makes a role's command line; its first word is an absolute path.
        on_change: called whenever a status changed, from the supervising threads.
    """

    def __init__(
        self,
        state_dir: Path,
        env: Mapping[str, str],
        *,
        names: Sequence[str] = ROLES,
        command: Callable[[str], Sequence[str]] = ota_run,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._logs = state_dir.absolute() / "logs"
        self._command = command
        self._on_change = on_change
        self._lock = Lock()
        self._stopping = {name: Event() for name in names}
        self._threads: dict[str, Thread] = {}
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        self._status = {name: RoleStatus(name, "stopped", ports[name], self._logs / f"{name}.log") for name in names}
        self._env = {**os.environ, **env}
        self._env |= {variable: str(ports[name]) for name, variable in PORT_VARIABLES.items() if name in ports}

    def start(self, progress: Callable[[str, str], None] | None = None, timeout: float = START_TIMEOUT) -> None:
        """Start all roles at once and return when all are ready. If one is not, all are stopped.

        Raises:
            RoleFailedError: a role ended several times before it was ready, found log damage, or took too long.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        for name, stopping in self._stopping.items():
            stopping.clear()
            self._threads[name] = Thread(target=self._supervise, args=(name,), name=f"role-{name}", daemon=True)
            self._threads[name].start()
        try:
            self._wait_all_ready(progress, timeout)
        except BaseException:
            self.stop()
            raise

    def wait_ready(self, name: str, timeout: float = START_TIMEOUT) -> None:
        """Return when a role is ready, for example after a kill.

        Raises:
            RoleFailedError: it is not within ``timeout`` seconds, or it found log damage.
        """
        deadline = time.monotonic() + timeout
        while not self._is_ready(name, deadline):
            time.sleep(POLL_INTERVAL)

    def kill(self, name: str) -> None:
        """Kill a role's process, as a crash would; it is started again. Nothing happens while there is none."""
        with self._lock:
            status = self._status[name]
            if status.process:
                self._status[name] = replace(status, state="pausing")
                status.process.send(signal.SIGKILL)
        self._on_change()

    def stop(self) -> None:
        """Stop all roles, one after the other."""
        for stopping in self._stopping.values():
            stopping.set()
        for name in self._stopping:
            process = self._status[name].process
            if process:
                process.send(signal.SIGTERM)
            thread = self._threads.pop(name, None)
            if thread is None:
                continue
            thread.join(STOP_TIMEOUT)
            if thread.is_alive() and (process := self._status[name].process):
                process.send(signal.SIGKILL)
                thread.join()

    def status(self) -> tuple[RoleStatus, ...]:
        return tuple(self._status.values())

    def url(self, name: str) -> str:
        """Return ``http://127.0.0.1:PORT`` of a role; the port stays the same over restarts."""
        return self._status[name].url

    def _supervise(self, name: str) -> None:
        stopping = self._stopping[name]
        vain_starts = 0
        while not stopping.is_set():
            process = self._spawn(name)
            vain_starts = 0 if self._watch_until_ready(name, process) else vain_starts + 1
            exit_status = _wait(process)
            if exit_status == LOG_DAMAGE and not stopping.is_set():
                self._set(name, state="damaged", process=None, exit_status=exit_status)
                return
            self._set(name, state="pausing", process=None, exit_status=exit_status, vain_starts=vain_starts)
            stopping.wait(min(SHORTEST_PAUSE * 2 ** min(vain_starts, 10), LONGEST_PAUSE))
        self._set(name, state="stopped")

    def _spawn(self, name: str) -> ProcessRef:
        status = self._status[name]
        env = dict(self._env)
        if name not in PORT_VARIABLES:
            env["OTA_HEALTH_PORT"] = str(status.port)
        command = Command(
            name=name, argv=tuple(self._command(name)), log=status.log, env=env, cwd=status.log.parent.parent
        )
        process = spawn(command, die_with_parent=True)
        self._set(name, state="starting", process=process, starts=status.starts + 1)
        return process

    def _watch_until_ready(self, name: str, process: ProcessRef) -> bool:
        while process.alive():
            if _answers_ready(self._status[name].port):
                with self._lock:
                    # Unless it was killed after it had answered.
                    if self._status[name].state == "starting":
                        self._status[name] = replace(self._status[name], state="ready", vain_starts=0)
                self._on_change()
                return True
            if self._stopping[name].wait(POLL_INTERVAL):
                # It may have been started after ``stop`` looked for processes to end.
                process.send(signal.SIGTERM)
                return False
        return False

    def _wait_all_ready(self, progress: Callable[[str, str], None] | None, timeout: float) -> None:
        began = time.monotonic()
        waiting = list(self._stopping)
        while waiting:
            for name in [name for name in waiting if self._is_ready(name, began + timeout)]:
                waiting.remove(name)
                if progress:
                    progress(name, f"ready after {time.monotonic() - began:.1f} s at {self.url(name)}")
            time.sleep(POLL_INTERVAL)

    def _is_ready(self, name: str, deadline: float) -> bool:
        status = self._status[name]
        if status.state == "ready":
            return True
        if status.state == "damaged":
            raise RoleFailedError(f"{name} found the event log damaged" + log_tail(status.log))
        if status.vain_starts >= HOPELESS_STARTS:
            raise RoleFailedError(f"{name} ends while starting" + log_tail(status.log))
        if time.monotonic() > deadline:
            raise RoleFailedError(f"{name} is not ready in time" + log_tail(status.log))
        return False

    def _set(self, name: str, **changes: object) -> None:
        with self._lock:
            self._status[name] = replace(self._status[name], **changes)  # pyright: ignore[reportArgumentType]
        self._on_change()


def _wait(process: ProcessRef) -> int | None:
    while True:
        with suppress(TimeoutError):
            return process.wait(WAIT_ROUND)


def _answers_ready(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=PROBE_TIMEOUT)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
