"""The whole system on this machine for the time of a demonstration: servers, roles and the fleet as child processes.

Normally everything ends with this process, however it ends. With ``keep`` the servers and roles outlive it, under the supervisor of
``ota dev``; the fleet never does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Lock
from typing import Final

from rich.console import Console

from orchestrator.config import Settings
from orchestrator.demo.world import World
from orchestrator.devstack import supervisor
from orchestrator.devstack.process import Command, ComponentError, ProcessRef, log_tail, spawn
from orchestrator.devstack.roles import START_TIMEOUT, Roles, RoleStatus
from orchestrator.devstack.stack import DevStack
from orchestrator.simfleet.counts import Counts, read_counts

COMMAND_TIMEOUT: Final = 120.0
"""Seconds for one ``ota`` command; migrations of an empty database take 3 s on an idle machine."""
FLEET_STOP_TIMEOUT: Final = 30.0
"""Seconds in which the fleet hands in what it is about to say and writes its files."""

POLL_INTERVAL: Final = 0.1
"""Seconds between two looks at a role that is coming back."""

Say = Callable[[str], None]


class System:
    """Starts in this order: servers, tables and topics, roles; then, when it is told to, the fleet.

    Args:
        state_dir: everything of this system: data, logs, the world's files.
        settings: the product's settings as environment variables, over those of this process.
        keep: let servers and roles outlive this process.
        say: receives progress.
    """

    def __init__(self, state_dir: Path, settings: Mapping[str, str], *, keep: bool, say: Say) -> None:
        self.state_dir = state_dir.absolute()
        self.logs = self.state_dir / "logs"
        self.keep = keep
        self._say = say
        self._stack = DevStack(self.state_dir, temporal_ui=keep, detach=keep)
        self._settings = dict(settings)
        self._roles: Roles | None = None
        self._fleet: ProcessRef | None = None
        self._changing = Lock()
        self._ending = Event()

    # ---- start and stop

    def start(self) -> None:
        """Start servers and roles, and return when all are ready.

        Raises:
            ComponentError: something did not start.
        """
        with self._changing:
            self._stack.up(self._part)
            self._prepare()
            if self._ending.is_set():
                return
            if self.keep:
                supervisor.start(self.state_dir, self.env, self._part)
            else:
                self._roles = Roles(self.state_dir, self.env)
                self._roles.start(self._part)

    def _prepare(self) -> None:
        with ThreadPoolExecutor(max_workers=2) as pool:
            # Two interpreters that start take twice as long one after the other.
            for done in [pool.submit(self.ota, "migrate"), pool.submit(self.ota, "topics", "apply")]:
                done.result()
        self._say("tables and topics are there")

    def start_fleet(self, world: World) -> None:
        """Switch all devices on."""
        argv = [sys.executable, "-m", "orchestrator.simfleet", "--gateway", self.url("gateway")]
        argv += ["--devices", str(world.fleet_file), "--traits", str(world.traits_file)]
        argv += ["--truth", str(self.truth_file), "--counts", str(self._counts_file)]
        command = Command("the fleet", tuple(argv), self.logs / "fleet.log", dict(os.environ), self.state_dir)
        self._fleet = spawn(command, die_with_parent=True)

    def stop_fleet(self) -> None:
        """Switch all devices off; from then on the truth file is complete."""
        if self._fleet:
            self._fleet.stop(signal.SIGTERM, FLEET_STOP_TIMEOUT)
            self._fleet = None

    def stop(self) -> None:
        """End everything that was started, also what ``keep`` would have left; a start that is under way is awaited."""
        self._ending.set()
        with self._changing:
            self.stop_fleet()
            if self._roles:
                self._roles.stop()
                self._roles = None
            supervisor.stop(self.state_dir)
            self._stack.down()

    # ---- what it is

    @property
    def env(self) -> dict[str, str]:
        """Variables with which every part finds the others."""
        return {**self._stack.env(), "OTA_STATE_DIR": str(self.state_dir), **self._settings}

    def settings(self) -> Settings:
        """The same as the product's settings."""
        fields = {name.removeprefix("OTA_").lower(): value for name, value in self.env.items()}
        return Settings(**fields)  # pyright: ignore[reportArgumentType] - texts, as from the environment

    @property
    def truth_file(self) -> Path:
        return self.state_dir / "truth.jsonl"

    @property
    def _counts_file(self) -> Path:
        return self.state_dir / "fleet-counts.json"

    def url(self, role: str) -> str:
        return self._role(role).url

    def roles(self) -> tuple[RoleStatus, ...]:
        return self._roles.status() if self._roles else supervisor.status(self.state_dir)

    def fleet_counts(self) -> Counts:
        """What the fleet has done so far.

        Raises:
            ComponentError: the fleet's process has ended by itself.
        """
        if self._fleet and not self._fleet.alive():
            raise ComponentError("the fleet's process has ended" + log_tail(self.logs / "fleet.log"))
        return read_counts(self._counts_file)

    def show(self, console: Console) -> None:
        """Say where everything runs that was left running, and how to end it."""
        addresses = {role.name: role.url for role in self.roles()}
        if self._stack.temporal_ui_url:
            addresses["temporal"] = self._stack.temporal_ui_url
        lines = ["Still running:"]
        lines += [f"  {name:10} {url}" for name, url in addresses.items()]
        lines += ["For commands in this shell:"]
        lines += [f"  export {name}={value}" for name, value in (self.env | {"OTA_API_URL": self.url("api")}).items()]
        lines += ["  export OTA_API_KEY=$(ota --quiet key create me --scope admin)", "  ota campaign list"]
        lines += [f"End it with: ota dev down --state-dir {self.state_dir}"]
        for line in lines:
            console.print(line, highlight=False, markup=False, soft_wrap=True)

    # ---- what can be done to it

    def ota(self, *words: str) -> str:
        """Run an ``ota`` command of this machine and return its output.

        Raises:
            ComponentError: it failed.
        """
        argv = (sys.executable, "-m", "orchestrator.cli.main", *words)
        done = subprocess.run(
            argv, env={**os.environ, **self.env}, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False
        )
        if done.returncode:
            raise ComponentError(f"ota {' '.join(words)} ended with status {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def crash(self, name: str) -> None:
        """End a role with SIGKILL and return when its supervisor has brought it back, or when everything is being stopped.

        Raises:
            ComponentError: it does not come back.
        """
        before = self._role(name)
        if before.process:
            before.process.send(signal.SIGKILL)
        deadline = time.monotonic() + START_TIMEOUT
        while not self._ending.is_set():
            role = self._role(name)
            if role.starts > before.starts and role.state == "ready":
                return
            if time.monotonic() > deadline or role.state == "damaged":
                raise ComponentError(f"{name} did not come back" + log_tail(role.log))
            time.sleep(POLL_INTERVAL)

    def _role(self, name: str) -> RoleStatus:
        return next(role for role in self.roles() if role.name == name)

    def _part(self, name: str, line: str) -> None:
        self._say(f"{name}: {line}")
