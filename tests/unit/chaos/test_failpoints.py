"""Failpoints: silent unless asked for, deadly when they fire, and countable afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter

import pytest

from orchestrator import failpoints
from orchestrator.failpoints import FailpointError, Failpoints, deaths

PLACE = "slice.before_commit"
PROGRAM = f"""
from orchestrator import failpoints
for passed in range(200):
    print(passed, flush=True)
    failpoints.hit({PLACE!r})
"""


def run(log, places, seed="1"):
    log.touch()
    return run_unarmed(log, places, seed)


def run_unarmed(log, places, seed="1"):
    env = {**os.environ, "OTA_FAILPOINTS": places, "OTA_FAILPOINT_LOG": str(log), "OTA_FAILPOINT_SEED": seed}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.count("\n")


def test_nothing_fires_where_nothing_is_named():
    assert Failpoints.read({}) is None
    for place in failpoints.PLACES:
        failpoints.hit(place)


def test_a_place_that_fires_kills_its_process_and_leaves_one_line(tmp_path):
    log = tmp_path / "log"
    assert run(log, f"{PLACE}:1") == (-signal.SIGKILL, 1)
    name, pid, at = log.read_text().split()
    assert name == PLACE
    assert int(pid) > 0
    assert int(at) > 0


def test_nothing_fires_before_its_log_is_there(tmp_path):
    log = tmp_path / "log"
    assert run_unarmed(log, f"{PLACE}:1") == (0, 200)
    assert not log.exists()


def test_a_place_fires_at_most_count_times_over_all_processes(tmp_path):
    log = tmp_path / "log"
    status = [run(log, f"{PLACE}:1:2")[0] for _ in range(3)]
    assert status == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert deaths(log) == Counter({PLACE: 2})


def test_one_seed_dies_at_the_same_step_again_and_elsewhere_after_a_death(tmp_path):
    first = [run(tmp_path / "a", f"{PLACE}:0.05") for _ in range(3)]
    second = [run(tmp_path / "b", f"{PLACE}:0.05") for _ in range(3)]
    assert first == second
    assert len({steps for _, steps in first}) > 1


@pytest.mark.parametrize(
    "wrong", ["slice.nowhere:1", "slice.before_commit", "slice.before_commit:often", f"{PLACE}:1:x"]
)
def test_a_failpoint_that_is_misspelt_is_refused(wrong, tmp_path):
    with pytest.raises(FailpointError):
        Failpoints.read({"OTA_FAILPOINTS": wrong, "OTA_FAILPOINT_LOG": str(tmp_path / "log")})


def test_failpoints_without_a_log_are_refused():
    with pytest.raises(FailpointError):
        Failpoints.read({"OTA_FAILPOINTS": f"{PLACE}:1"})
