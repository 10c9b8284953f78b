import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import psutil
import pytest

from orchestrator.devstack.account import Account
from orchestrator.devstack.ports import is_free
from orchestrator.devstack.process import Command, ComponentError, StartCancelledError, run, spawn, wait_ready

FOREVER = ("-c", "import time; time.sleep(600)")
STUBBORN = """
import pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path("deaf").touch()
time.sleep(600)
"""
FAMILY = """
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
pathlib.Path("child").write_text(str(child.pid))
time.sleep(600)
"""
# Its first thread has ended, the other one listens; and so much memory takes a while to be given back.
HEADLESS = """
import ctypes, pathlib, socket, threading, time
server = socket.create_server(("127.0.0.1", 0))
memory = bytearray(b"x") * 300_000_000
pathlib.Path("listens").write_text(str(server.getsockname()[1]))
threading.Thread(target=time.sleep, args=(600,)).start()
ctypes.CDLL(None).syscall(60, 0)
"""


@pytest.fixture
def python(tmp_path):
    def command(*arguments, **changes):
        settings = {
            "name": "python",
            "argv": (sys.executable, *arguments),
            "log": tmp_path / "log",
            "env": dict(os.environ),
            "cwd": tmp_path,
        }
        return Command(**settings | changes)

    return command


@pytest.fixture
def start(python):
    started = []

    def go(*arguments, **changes):
        process = spawn(python(*arguments, **changes), die_with_parent=True)
        started.append(process)
        return process

    yield go
    for process in started:
        process.kill()


def eventually(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_started_process_lives_in_its_own_session_and_folder_with_its_output_in_the_log(start, tmp_path):
    process = start("-c", "import os; print(os.getsid(0) == os.getpid(), os.getcwd())")
    assert process.wait(20) == 0
    assert (tmp_path / "log").read_text() == f"True {tmp_path}\n"


def test_standard_input_is_empty(start):
    assert start("-c", "import sys; sys.exit(len(sys.stdin.read()))").wait(20) == 0


def test_the_exit_status_and_the_signal_are_told_apart(start):
    assert start("-c", "raise SystemExit(5)").wait(20) == 5
    killed = start(*FOREVER)
    killed.send(signal.SIGKILL)
    assert killed.wait(20) == -signal.SIGKILL


def test_waiting_for_a_process_that_goes_on_is_a_time_out(start):
    process = start(*FOREVER)
    with pytest.raises(TimeoutError):
        process.wait(0.05)
    assert process.alive()


def test_stop_lets_a_process_end_by_itself(start):
    process = start(*FOREVER)
    assert process.stop(signal.SIGTERM, 20)
    assert not process.alive()


def test_stop_kills_a_process_that_does_not_listen(start, tmp_path):
    process = start("-c", STUBBORN)
    eventually((tmp_path / "deaf").exists)
    assert not process.stop(signal.SIGTERM, 0.1)
    assert not process.alive()


@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="ends a thread by system call 60")
def test_kill_returns_when_the_ports_of_all_threads_are_free(start, tmp_path):
    process = start("-c", HEADLESS)
    eventually(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
    process.kill()
    assert is_free(int((tmp_path / "listens").read_text()))


def test_kill_also_ends_children_in_other_sessions(start, tmp_path):
    process = start("-c", FAMILY)
    eventually(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text())
    child = int((tmp_path / "child").read_text())
    process.kill()
    assert not process.alive()
    assert gone(child)


def test_a_later_process_with_the_same_id_is_never_touched(start):
    process = start(*FOREVER)
    predecessor = replace(process, started=process.started - 1)
    assert not predecessor.alive()
    predecessor.send(signal.SIGKILL)
    predecessor.kill()
    assert predecessor.stop(signal.SIGKILL, 0)
    assert process.alive()


def test_a_program_that_does_not_exist_says_so_in_the_log(python):
    with pytest.raises(ComponentError, match="cannot start /nowhere/program"):
        run(python(argv=("/nowhere/program",)), timeout=20)


def test_a_failing_run_shows_the_status_and_the_end_of_the_log(python):
    with pytest.raises(ComponentError, match=r"(?s)status 3.*the reason"):
        run(python("-c", "print('the reason'); raise SystemExit(3)"), timeout=20)


def test_a_run_that_takes_too_long_is_ended(python, tmp_path):
    script = "import os, pathlib, time; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(600)"
    with pytest.raises(ComponentError, match="longer than"):
        run(python("-c", script), timeout=2)
    assert gone(int((tmp_path / "pid").read_text()))


def test_waiting_for_readiness_ends_when_the_process_does(python, start):
    command = python("-c", "print('no licence')")
    with pytest.raises(ComponentError, match=r"(?s)ended while starting.*no licence"):
        wait_ready(start(*command.argv[1:]), command, lambda: False, timeout=20, cancelled=Event())


def test_waiting_for_readiness_can_be_given_up(python, start):
    cancelled = Event()
    cancelled.set()
    with pytest.raises(StartCancelledError):
        wait_ready(start(*FOREVER), python(*FOREVER), lambda: False, timeout=20, cancelled=cancelled)


def test_a_child_outlives_the_thread_that_started_it(start):
    started = []
    thread = Thread(target=lambda: started.append(start(*FOREVER)))
    thread.start()
    thread.join()
    with pytest.raises(TimeoutError):
        started[0].wait(0.2)


LOOK = """
import os, pathlib
private = pathlib.Path("private/file")
capabilities = next(line for line in open("/proc/self/status") if line.startswith("CapEff"))
print(os.getuid(), os.getgroups(), os.access(private, os.R_OK), private.read_text(), capabilities.split()[1])
"""


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can become somebody else")
def test_another_account_keeps_one_capability_to_enter_private_folders(python, tmp_path):
    (tmp_path / "private").mkdir(mode=0o700)
    (tmp_path / "private" / "file").write_text("content")
    run(python("-c", LOOK, account=Account(65534, 65534, override=True)), timeout=20)
    assert (tmp_path / "log").read_text() == "65534 [] True content 0000000000000002\n"


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can become somebody else")
def test_another_account_without_it_is_an_ordinary_user(python, tmp_path):
    (tmp_path / "private").mkdir(mode=0o700)
    look = ("/bin/sh", "-c", f"id -u; ls {tmp_path / 'private'} 2>/dev/null || echo refused")
    run(python(argv=look, cwd=Path("/"), account=Account(65534, 65534, override=False)), timeout=20)
    assert (tmp_path / "log").read_text().split() == ["65534", "refused"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children that their parent has died")
@pytest.mark.parametrize("die_with_parent", [True, False])
def test_a_child_ends_with_its_killed_parent_if_it_should(die_with_parent, tmp_path):
    script = f"""
        import os, pathlib, sys, time
        from orchestrator.devstack.process import Command, spawn
        here = pathlib.Path({str(tmp_path)!r})
        forever = (sys.executable, "-c", "import time; time.sleep(600)")
        command = Command(name="child", argv=forever, log=here / "log", env=dict(os.environ), cwd=here)
        print(spawn(command, die_with_parent={die_with_parent}).pid, flush=True)
        time.sleep(600)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = psutil.Process(int(parent.stdout.readline()))
        # The launcher becomes the program only after it has asked for the signal.
        eventually(lambda: "launch.py" not in " ".join(child.cmdline()))
        parent.kill()
    if die_with_parent:
        eventually(lambda: gone(child.pid))
    else:
        with pytest.raises(psutil.TimeoutExpired):
            child.wait(0.2)
        child.kill()
