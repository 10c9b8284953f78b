"""The background supervisor and the commands on top of it. The product's own command line is replaced by a small one."""

import io
import json
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request
from pathlib import Path

import pytest
from rich.console import Console

import orchestrator
from orchestrator.devstack import commands, supervisor
from orchestrator.devstack.roles import ROLES, RoleFailedError

OTA = """
import http.server, json, os, pathlib, sys

here = pathlib.Path(os.environ["OTA_STATE_DIR"])
if sys.argv[1] != "run":
    with open(here / "prepared", "a") as file:
        file.write(" ".join(sys.argv[1:]) + "\\n")
    sys.exit(0)
role = sys.argv[2]
if (here / "broken").exists():
    print(role, "has no licence")
    sys.exit(1)
(here / f"{role}.env").write_text(json.dumps(dict(os.environ)))

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

variable = {"api": "OTA_API_PORT", "gateway": "OTA_GATEWAY_PORT"}.get(role, "OTA_HEALTH_PORT")
http.server.HTTPServer(("127.0.0.1", int(os.environ[variable])), Handler).serve_forever()
"""


@pytest.fixture
def state_dir(tmp_path, monkeypatch):
    """A folder with the small command line in effect; whatever runs there is stopped in the end."""
    cli = tmp_path / "fake" / "orchestrator" / "cli"
    cli.mkdir(parents=True)
    real = Path(orchestrator.__file__).parent
    (cli.parent / "__init__.py").write_text(f"__path__ = [{str(cli.parent)!r}, {str(real)!r}]\n")
    (cli / "__init__.py").touch()
    (cli / "main.py").write_text(OTA)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    folder = tmp_path / "state"
    (folder / "logs").mkdir(parents=True)
    yield folder
    supervisor.stop(folder)


@pytest.fixture
def start(state_dir):
    def go(progress=lambda *_: None):
        supervisor.start(state_dir, {"OTA_STATE_DIR": str(state_dir)}, progress)

    return go


def eventually(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def process_of(state_dir, name):
    return next((role.process for role in supervisor.status(state_dir) if role.name == name), None)


def test_a_supervisor_runs_all_roles_in_the_background(start, state_dir):
    said = []
    start(lambda name, line: said.append(name))
    assert sorted(said) == sorted(ROLES)
    for role in supervisor.status(state_dir):
        assert role.state == "ready"
        with urllib.request.urlopen(f"{role.url}/readyz") as answer:
            assert answer.status == 200


def test_it_brings_back_a_role_that_was_killed_from_outside(start, state_dir):
    start()
    before = process_of(state_dir, "gateway")
    before.send(signal.SIGKILL)
    eventually(lambda: process_of(state_dir, "gateway") not in {None, before})
    eventually(lambda: {role.state for role in supervisor.status(state_dir)} == {"ready"})


def test_another_process_stops_the_supervisor_and_its_roles(start, state_dir):
    start()
    processes = [role.process for role in supervisor.status(state_dir)]
    script = f"""
        from pathlib import Path
        from orchestrator.devstack import supervisor
        supervisor.stop(Path({str(state_dir)!r}))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=60)
    assert not any(process.alive() for process in processes)
    assert supervisor.status(state_dir) == ()


def test_a_second_start_leaves_the_running_roles_alone(start, state_dir):
    start()
    before = supervisor.status(state_dir)
    start()
    assert supervisor.status(state_dir) == before


def test_after_a_killed_supervisor_nothing_is_left_and_a_new_one_starts(start, state_dir):
    start()
    before = [role.process for role in supervisor.status(state_dir)]
    supervisor._supervisor(state_dir).send(signal.SIGKILL)
    eventually(lambda: supervisor.status(state_dir) == ())
    supervisor.stop(state_dir)
    assert not any(process.alive() for process in before)
    start()
    assert {role.state for role in supervisor.status(state_dir)} == {"ready"}


def test_roles_that_cannot_start_are_an_error_with_their_log_and_leave_nothing_behind(start, state_dir):
    (state_dir / "broken").touch()
    with pytest.raises(RoleFailedError, match="has no licence"):
        start()
    assert not (state_dir / "supervisor.json").exists()
    assert supervisor.status(state_dir) == ()


def test_up_prepares_the_servers_then_starts_the_roles_and_says_how_to_reach_them(own_stack, state_dir, monkeypatch):
    for name, value in own_stack.env().items():
        monkeypatch.setenv(name, value)
    console = Console(file=io.StringIO(), width=200)
    commands.up(state_dir, roles=True, console=console)
    try:
        assert (state_dir / "prepared").read_text().splitlines() == ["migrate", "topics apply"]
        for name, value in {**own_stack.env(), "OTA_STATE_DIR": str(state_dir)}.items():
            assert f"export {name}={value}" in console.file.getvalue()
            assert json.loads((state_dir / "worker.env").read_text())[name] == value
        assert commands.status(state_dir, console=console)
    finally:
        commands.down(state_dir, console=console)
    assert supervisor.status(state_dir) == ()
    assert {status.state for status in own_stack.status()} == {"running"}


def test_status_is_not_well_when_a_role_is_down(own_stack, start, state_dir, monkeypatch):
    for name, value in own_stack.env().items():
        monkeypatch.setenv(name, value)
    start()
    (state_dir / "broken").touch()
    process_of(state_dir, "worker").send(signal.SIGKILL)
    eventually(lambda: {role.state for role in supervisor.status(state_dir)} != {"ready"})
    assert not commands.status(state_dir, console=Console(file=io.StringIO()))
