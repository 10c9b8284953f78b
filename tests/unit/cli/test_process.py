"""``ota`` as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys


def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "orchestrator.cli.main", *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, **env})


def test_the_exit_status_is_the_commands(tmp_path):
    assert run("--help").returncode == 0
    assert run("no-such-command").returncode == 2
    gone = run("campaign", "list", OTA_API_URL="http://127.0.0.1:9", OTA_API_KEY="")
    assert gone.returncode == 3
    assert "client.key.missing" in gone.stderr
    assert gone.stdout == ""


def test_the_interpreter_does_not_clean_up_because_temporals_threads_would_abort_it():
    script = (
        "import atexit, sys; atexit.register(lambda: print('cleaned up'));"
        "from orchestrator.cli.main import run; sys.argv = ['ota', '--help']; run()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Usage: ota" in done.stdout
    assert "cleaned up" not in done.stdout


def test_a_defect_is_shown_and_ends_with_a_status_of_its_own():
    script = "from orchestrator.cli import main; main.app = lambda: 1 / 0; main.run()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


def test_a_setting_that_is_not_valid_is_named(tmp_path):
    done = run("migrate", OTA_API_PORT="eighty")
    assert done.returncode == 2
    assert "OTA_API_PORT" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_has_seen_enough_is_no_error_of_a_service(tmp_path):
    argv = [sys.executable, "-m", "orchestrator.cli.main", "release", "verify", "--json"]
    (tmp_path / "fw.bin").write_bytes(b"no image")
    (tmp_path / "key.pem").write_text("no key")
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(
            [*argv, str(tmp_path / "fw.bin"), "--key", str(tmp_path / "key.pem")],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "service" not in done.stderr
    assert "Traceback" not in done.stderr
