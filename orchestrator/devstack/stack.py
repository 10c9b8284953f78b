"""The embedded stack: PostgreSQL, Kafka and Temporal as child processes, or servers of the caller's choice.

One folder holds everything of one stack: data, logs, and ``stack.json`` with the processes it started, by id and
start time. That file lets another process see and end the stack; only processes named in it are ever signalled. A
component whose environment variable is set (``OTA_DATABASE_URL``, ``OTA_KAFKA_BOOTSTRAP``, ``OTA_TEMPORAL_ADDRESS``)
is checked and used, never started or stopped.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from threading import Event, Lock
from types import TracebackType
from typing import Self

from orchestrator.devstack import kafka as kafka_module
from orchestrator.devstack import postgres as postgres_module
from orchestrator.devstack import temporal as temporal_module
from orchestrator.devstack.component import Component, start
from orchestrator.devstack.process import ComponentError, ProcessRef, StartCancelledError
from orchestrator.errors import NotFoundError

#: Receives progress: the component's name and one line.
Progress = Callable[[str, str], None]


class UnknownComponentError(NotFoundError):
    """The stack has no such component, or it is a server that the stack does not run."""

    code = "devstack.unknown_component"
    remedy = "Name one of the components that `ota dev status` lists as running."


@dataclass(frozen=True, slots=True)
class ComponentStatus:
    """What one component does now.

    Attributes:
        name: ``postgres``, ``kafka`` or ``temporal``. state: ``running``, ``silent`` (its process lives but does not
        answer), ``stopped``; for a server of the caller's
            choice ``external`` or ``unreachable``.
        address: how clients reach it, or None before its first start; PostgreSQL's holds the password.
        pid: its process, if the stack runs it.
        log: its log file, if the stack runs it.
    """

    name: str
    state: str
    address: str | None
    pid: int | None
    log: Path | None


class DevStack:
    """PostgreSQL, Kafka and Temporal for one state folder.

    Args:
        state_dir: the stack's folder, created on ``up``.
        postgres: whether PostgreSQL belongs to it.
        kafka: whether Kafka does.
        temporal: whether Temporal does.
        temporal_ui: also serve Temporal's web pages.
        detach: let the components outlive this process; otherwise (on Linux) they end with it, however it ends.
        environ: where the replacing addresses are looked up; by default the process environment.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        postgres: bool = True,
        kafka: bool = True,
        temporal: bool = True,
        temporal_ui: bool = False,
        detach: bool = False,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.state_dir = state_dir.absolute()
        self.logs = self.state_dir / "logs"
        self._detach = detach
        folder, logs = self.state_dir, self.logs
        self._temporal = temporal_module.Temporal(folder / "temporal", logs / "temporal.log", ui=temporal_ui)
        wanted: list[tuple[bool, Component, Callable[[str], bool]]] = [
            (postgres, postgres_module.Postgres(folder / "postgres", logs / "postgres.log"), postgres_module.reachable),
            (kafka, kafka_module.Kafka(folder / "kafka", logs / "kafka.log"), kafka_module.reachable),
            (temporal, self._temporal, temporal_module.reachable),
        ]
        environ = os.environ if environ is None else environ
        self._all: dict[str, Component] = {component.name: component for _, component, _ in wanted}
        self._own: dict[str, Component] = {}
        self._external: dict[str, _External] = {}
        for used, component, reachable in wanted:
            if used and (address := environ.get(component.variable)):
                self._external[component.name] = _External(component.variable, address, reachable)
            elif used:
                self._own[component.name] = component

    @property
    def temporal_ui_url(self) -> str | None:
        """The address of Temporal's web pages, or None when the stack does not serve them."""
        return self._temporal.ui_url if "temporal" in self._own else None

    def up(self, progress: Progress | None = None) -> None:
        """Start what does not run yet, all at once, and return when everything serves. If one fails, all are stopped.

        Raises:
            ComponentError: a component did not start, or a server of the caller's choice does not answer.
        """
        with self._locked():
            self._start(self._own, progress or _ignore, check=self._external)

    def down(self, progress: Progress | None = None) -> None:
        """Stop the processes that this folder's stack started, by this or another process, in an orderly way."""
        if not self.state_dir.is_dir():
            return
        with self._locked():
            self._stop(self._all, progress or _ignore)

    def restart(self, name: str, progress: Progress | None = None) -> None:
        """Stop one component if it runs and start it again on the same address, while the others run."""
        component = self._component(name)
        with self._locked():
            self._stop({name: component}, progress or _ignore)
            self._start({name: component}, progress or _ignore, check={})

    def kill(self, name: str) -> None:
        """End one component at once (SIGKILL, with its children), as a crash would; ``restart`` brings it back."""
        self._component(name)
        if process := self._processes().get(name):
            process.kill()

    def status(self) -> tuple[ComponentStatus, ...]:
        """Look at every component now."""
        processes = self._processes()

        def look(name: str) -> ComponentStatus:
            if external := self._external.get(name):
                state = "external" if external.reachable(external.address) else "unreachable"
                return ComponentStatus(name, state, external.address, None, None)
            component, process = self._own[name], processes.get(name)
            if process is None or not process.alive():
                return ComponentStatus(name, "stopped", None, None, component.log)
            state = "running" if component.ready() else "silent"
            return ComponentStatus(name, state, component.address, process.pid, component.log)

        names = [*self._own, *self._external]
        with ThreadPoolExecutor(max(1, len(names))) as pool:
            return tuple(pool.map(look, names))

    def env(self) -> dict[str, str]:
        """Return the variables with which the product finds this stack; only after ``up``."""
        own = {component.variable: component.address for component in self._own.values()}
        return own | {external.variable: external.address for external in self._external.values()}

    def pids(self) -> dict[str, int]:
        """Return the process id of each component that the stack runs and that lives."""
        return {name: process.pid for name, process in self._processes().items() if process.alive()}

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def _start(self, components: Mapping[str, Component], progress: Progress, check: Mapping[str, _External]) -> None:
        started: dict[str, ProcessRef] = {}
        remembering = Lock()
        cancelled = Event()

        def bring_up(name: str) -> None:
            try:
                if name in check:
                    check[name].require(name)
                    progress(name, f"using {check[name].variable}")
                else:
                    start_one(name, components[name])
            except BaseException:
                cancelled.set()
                raise

        def start_one(name: str, component: Component) -> None:
            def spawned(process: ProcessRef) -> None:
                with remembering:
                    started[name] = process
                    self._remember(self._processes() | started)

            if running := self._processes().get(name):
                if running.alive() and component.ready():
                    progress(name, "already running")
                    return
                running.kill()
            say = partial(progress, name)
            start(component, die_with_parent=not self._detach, say=say, spawned=spawned, cancelled=cancelled)

        names = [*components, *check]
        with ThreadPoolExecutor(max(1, len(names)), thread_name_prefix="devstack-start") as pool:
            futures = [pool.submit(bring_up, name) for name in names]
            try:
                wait(futures)
            except BaseException:
                # An interrupt from the keyboard.
                cancelled.set()
                wait(futures)
                self._give_up(started)
                raise
        errors = [error for future in futures if (error := future.exception()) is not None]
        if errors:
            self._give_up(started)
            raise next((error for error in errors if not isinstance(error, StartCancelledError)), errors[0])

    def _give_up(self, started: Mapping[str, ProcessRef]) -> None:
        for process in started.values():
            process.kill()
        self._remember({name: process for name, process in self._processes().items() if name not in started})

    def _stop(self, components: Mapping[str, Component], progress: Progress) -> None:
        processes = self._processes()

        def stop(name: str) -> None:
            process, component = processes[name], components[name]
            if not process.alive():
                process.kill()
                return
            progress(name, "stopping")
            began = time.monotonic()
            orderly = process.stop(component.stop_signal, component.stop_timeout)
            if orderly:
                component.ended()
            progress(name, f"{'stopped' if orderly else 'killed'} after {time.monotonic() - began:.1f} s")

        names = [name for name in processes if name in components]
        with ThreadPoolExecutor(max(1, len(names)), thread_name_prefix="devstack-stop") as pool:
            list(pool.map(stop, names))
        self._remember({name: process for name, process in processes.items() if name not in names})

    def _component(self, name: str) -> Component:
        if name not in self._own:
            raise UnknownComponentError(f"the stack does not run a component {name!r}", component=name)
        return self._own[name]

    def _processes(self) -> dict[str, ProcessRef]:
        try:
            stored = json.loads((self.state_dir / "stack.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return {name: ProcessRef(**process) for name, process in stored["processes"].items()}

    def _remember(self, processes: Mapping[str, ProcessRef]) -> None:
        stored = {"processes": {name: asdict(process) for name, process in processes.items()}}
        write_atomically(self.state_dir / "stack.json", json.dumps(stored, indent=2))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # Two processes must not start or stop the same stack at once. Private: it holds the database's password.
        self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.logs.mkdir(exist_ok=True)
        with (self.state_dir / "lock").open("w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


@dataclass(frozen=True, slots=True)
class _External:
    """A server of the caller's choice."""

    variable: str
    address: str
    reachable: Callable[[str], bool]

    def require(self, name: str) -> None:
        if not self.reachable(self.address):
            raise ComponentError(
                f"{name}: no server answers at the address in {self.variable}",
                remedy=f"Start that server, or unset {self.variable} to have one started here.",
            )


def write_atomically(file: Path, text: str) -> None:
    """Replace a file's content so that a reader, and a crash, sees the old or the new one."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(file)


def _ignore(name: str, line: str) -> None:
    del name, line
