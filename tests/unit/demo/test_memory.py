from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from orchestrator.demo.memory import tree_pss_mb

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_the_memory_of_a_child_counts():
    before = tree_pss_mb(psutil.Process(os.getpid()))
    program = "data = bytearray(b'x') * (64 << 20); print(len(data), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert tree_pss_mb(psutil.Process(os.getpid())) >= before + 60
        child.communicate(b"\n")
