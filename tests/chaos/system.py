"""The whole system for fault scenarios: with a planted defect perhaps, a fleet that writes down its flash, and ways to kill."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from orchestrator.demo.system import FLEET_STOP_TIMEOUT, System
from orchestrator.demo.world import World
from orchestrator.devstack.process import Command, ProcessRef, spawn
from orchestrator.devstack.roles import Roles, RoleStatus, ota_run


class ChaosSystem(System):
    """A system whose roles may hold a planted defect, and whose fleet writes down its flash."""

    def __init__(self, folder: Path, settings: Mapping[str, str], defect: str | None) -> None:
        super().__init__(folder, settings, keep=False, say=lambda _: None)
        self._defect = defect
        self.flash_file = self.state_dir / "flash.json"

    def start(self) -> None:
        with self._changing:
            self._stack.up()
            self._prepare()
            self._roles = Roles(self.state_dir, self.env, command=self._run)
            self._roles.start()

    def _run(self, role: str) -> tuple[str, ...]:
        if self._defect is None:
            return tuple(ota_run(role))
        return (sys.executable, "-P", "-m", "tests.chaos.planted", self._defect, role)

    def start_fleet(self, world: World) -> None:
        argv = [sys.executable, "-P", "-m", "tests.chaos.fleet", str(self.flash_file), "--gateway", self.url("gateway")]
        argv += ["--devices", str(world.fleet_file), "--traits", str(world.traits_file)]
        argv += ["--truth", str(self.truth_file), "--counts", str(self._counts_file)]
        self._fleet = spawn(
            Command("the fleet", tuple(argv), self.logs / "fleet.log", dict(os.environ), self.state_dir),
            die_with_parent=True,
        )

    def stop_fleet(self) -> None:
        if self._fleet:
            self._fleet.stop(signal.SIGTERM, FLEET_STOP_TIMEOUT)
            self._fleet = None

    def role(self, name: str) -> RoleStatus:
        return self._role(name)

    def process(self, role: str) -> ProcessRef | None:
        return self._role(role).process

    def kill(self, role: str) -> None:
        """SIGKILL; somebody starts it again."""
        assert self._roles is not None
        self._roles.kill(role)

    def wait_ready(self, role: str) -> None:
        """Raises RoleFailedError."""
        assert self._roles is not None
        self._roles.wait_ready(role)

    def server(self, name: str) -> int:
        """Process id of a server of the stack."""
        return self._stack.pids()[name]

    def kill_server(self, name: str, away: float) -> None:
        """SIGKILL a server of the stack and start it again after ``away`` seconds."""
        self._stack.kill(name)
        time.sleep(away)
        self._stack.restart(name)

    def forget_workflows(self) -> None:
        """Delete Temporal's database while it is down."""
        self._stack.kill("temporal")
        for file in (self.state_dir / "temporal").glob("temporal.db*"):
            file.unlink()
        self._stack.restart("temporal")
