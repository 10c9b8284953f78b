"""What all measurements share: servers of their own, CPU time by process, percentiles, and the settings printed beside every number.

Servers are always started here, in a folder that is deleted afterwards, never those that ``OTA_…`` variables name: a
measurement fills tables and topics, and must know the processes whose CPU it counts.
"""

from __future__ import annotations

import asyncio
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx
from sqlalchemy.engine import make_url

from orchestrator.adapters.kafka import topics
from orchestrator.adapters.sql.migrations import migrate
from orchestrator.config import Settings
from orchestrator.devstack.roles import Roles
from orchestrator.devstack.stack import DevStack

ROOT: Final = Path(__file__).parents[2]
"""The checkout."""

TICK: Final = os.sysconf("SC_CLK_TCK")
"""Clock ticks per second of /proc."""

PATIENCE: Final = 600.0
"""Seconds until something that should happen counts as not happening."""

SERVER_SETTINGS: Final = (
    "server_version",
    "fsync",
    "full_page_writes",
    "synchronous_commit",
    "shared_buffers",
    "max_wal_size",
)

Say = Callable[[str], None]


# --------------------------------------------------------------------------- arithmetic


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest-rank percentile: the smallest value that at least ``share`` of all are not above.

    Raises:
        ValueError: there are no values, or ``share`` is not in (0, 1].
    """
    if not values or not 0 < share <= 1:
        raise ValueError("a percentile needs values and a share in (0, 1]")
    return sorted(values)[math.ceil(share * len(values)) - 1]


def spread(values: Sequence[float], digits: int = 1) -> dict[str, float]:
    """p50, p99 and the largest."""
    return {
        "p50": round(percentile(values, 0.5), digits),
        "p99": round(percentile(values, 0.99), digits),
        "max": round(max(values), digits),
    }


def ratio(ours: float, theirs: float) -> float | None:
    """How many times ``theirs`` is in ``ours``; None where there is nothing to compare with."""
    return round(ours / theirs, 2) if theirs else None


def stride(count: int) -> int:
    """A step that visits ``count`` places once each, far apart: coprime to ``count`` and near its golden section."""
    step = max(1, round(count * 0.618))
    while math.gcd(step, count) != 1:
        step += 1
    return step


# --------------------------------------------------------------------------- CPU time


@dataclass(frozen=True, slots=True)
class ProcessTimes:
    """One process in ``/proc``: its parent, and CPU seconds of itself and of children that it has reaped."""

    parent: int
    seconds: float


def parse_stat(text: str) -> ProcessTimes:
    """A line of ``/proc/PID/stat``; the name, field 2, may hold blanks and brackets (proc(5))."""
    fields = text.rpartition(")")[2].split()
    return ProcessTimes(parent=int(fields[1]), seconds=sum(map(int, fields[11:15])) / TICK)


def processes() -> dict[int, ProcessTimes]:
    """Every process there is now."""
    found: dict[int, ProcessTimes] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                found[int(folder.name)] = parse_stat((folder / "stat").read_text(encoding="utf-8", errors="replace"))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def tree_seconds(root: int, found: Mapping[int, ProcessTimes]) -> float:
    """CPU seconds of a process, its descendants, and the descendants that were reaped."""
    return sum(found[pid].seconds for pid in _tree([root], found))


def _tree(roots: Iterable[int], found: Mapping[int, ProcessTimes]) -> set[int]:
    children: dict[int, list[int]] = {}
    for pid, times in found.items():
        children.setdefault(times.parent, []).append(pid)
    seen: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid in found and pid not in seen:
            seen.add(pid)
            waiting += children.get(pid, ())
    return seen


def machine_seconds(text: str) -> tuple[float, float]:
    """CPU seconds that were used and that there were, over all cores: the first line of ``/proc/stat`` (proc(5)).

    Waiting for a disk is idle; what a hypervisor kept from the machine counts as used, by others.
    """
    ticks = [int(value) for value in text.split(maxsplit=9)[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / TICK, sum(ticks) / TICK


class Cpu:
    """CPU seconds of named process trees since this was made."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self._before, self._measured, self._machine = self._read()

    def used(self) -> dict[str, float]:
        return {name: max(0.0, now - self._before[name]) for name, now in self._read()[0].items()}

    def other_work(self) -> float:
        """Share of the machine that went to processes that have no part in the measurement."""
        _, measured, (used, there_was) = self._read()
        before_used, before = self._machine
        others = (used - before_used) - (measured - self._measured)
        return round(max(0.0, others) / max(there_was - before, 1e-9), 3)

    def _read(self) -> tuple[dict[str, float], float, tuple[float, float]]:
        found = processes()
        named = {name: tree_seconds(pid, found) for name, pid in self._pids.items()}
        measured = sum(found[pid].seconds for pid in _tree([os.getpid(), *self._pids.values()], found))
        return named, measured, machine_seconds(Path("/proc/stat").read_text(encoding="ascii"))


def per_unit(used: Mapping[str, float], units: float) -> dict[str, float]:
    """Microseconds of CPU per unit of work, by process and ``all`` of them."""
    each = {name: round(seconds * 1e6 / units, 1) for name, seconds in used.items()}
    return {**each, "all": round(sum(used.values()) * 1e6 / units, 1)}


def peak_rss_mb(pid: int) -> float:
    """The most memory that a process has had resident, MB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) / 1024, 1)
    return 0.0


# --------------------------------------------------------------------------- the system under measurement


@dataclass
class Bed:
    """Servers for one measurement, and the roles that it starts on them."""

    stack: DevStack
    settings: Settings
    say: Say
    started: list[Roles] = field(default_factory=list)

    @property
    def database_url(self) -> str:
        return self.settings.database_url

    def env(self, **changes: str) -> dict[str, str]:
        """Variables of a role: this stack's addresses, then ``changes``."""
        return {**self.stack.env(), "OTA_STATE_DIR": str(self.stack.state_dir), **changes}

    async def start(self, *names: str, **changes: str) -> Roles:
        """Start roles as ``ota run`` does and return when they are ready."""
        roles = Roles(self.stack.state_dir, self.env(**changes), names=names)
        self.started.append(roles)
        await asyncio.to_thread(roles.start)
        return roles

    async def stop(self, roles: Roles) -> None:
        await asyncio.to_thread(roles.stop)
        self.started.remove(roles)

    def pids(self, *roles: Roles) -> dict[str, int]:
        """Servers and roles by name."""
        ours = {status.name: status.process.pid for each in roles for status in each.status() if status.process}
        return {**self.stack.pids(), **ours}

    async def database(self, name: str, template: str | None = None) -> str:
        """Create a database, a copy of ``template`` if one is named; its URL."""
        conn = await asyncpg.connect(self.database_url)
        try:
            await conn.execute(
                f"CREATE DATABASE {name}" + (f" TEMPLATE {template} STRATEGY file_copy" if template else "")
            )
        finally:
            await conn.close()
        url = make_url(self.database_url).set(database=name).render_as_string(hide_password=False)
        if template is None:
            await migrate(url)
        return url

    async def drop(self, name: str) -> None:
        conn = await asyncpg.connect(self.database_url)
        try:
            await conn.execute(f"DROP DATABASE {name} WITH (FORCE)")
        finally:
            await conn.close()

    async def checkpoint(self) -> None:
        """Write out what was prepared, so that no measurement pays for it."""
        conn = await asyncpg.connect(self.database_url)
        try:
            await conn.execute("CHECKPOINT", timeout=PATIENCE)
        finally:
            await conn.close()


@asynccontextmanager
async def bed(say: Say, *, temporal: bool = False) -> AsyncIterator[Bed]:
    """Fresh servers with tables and topics; everything ends, and is deleted, with the block."""
    folder = Path(tempfile.mkdtemp(prefix="bellwether-bench-"))
    stack = DevStack(folder, temporal=temporal, environ={})
    made: Bed | None = None
    try:
        say("starting the servers")
        await asyncio.to_thread(stack.up)
        given = {name.removeprefix("OTA_").lower(): value for name, value in stack.env().items()}
        settings = Settings(**given, state_dir=folder)  # pyright: ignore[reportArgumentType] - texts, as from the environment
        made = Bed(stack, settings, say)
        await migrate(settings.database_url)
        await topics.apply(settings.kafka_bootstrap)
        yield made
    finally:
        for roles in made.started if made else ():
            await asyncio.to_thread(roles.stop)
        await asyncio.to_thread(stack.down)
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def child(
    module: str, *arguments: object, env: Mapping[str, str] | None = None, quiet: bool = False
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program of this package as a process with pipes; it is gone when the block ends. ``quiet``: what it says is dropped."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"tests.bench.{module}",
        *map(str, arguments),
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL if quiet else asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL if quiet else None,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                await process.wait()


@asynccontextmanager
async def profiled(role: str, out: Path, env: Mapping[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """A role that is watched; ``out`` says where its time went once the block has ended."""
    async with child("profiled", role, out, env=env, quiet=True) as process:
        yield process
        process.terminate()
        await asyncio.wait_for(process.wait(), 30)


async def answering(port: int) -> None:
    """Wait until a role answers ``/readyz`` with 200.

    Raises:
        TimeoutError: it does not within ``PATIENCE`` seconds.
    """
    async with asyncio.timeout(PATIENCE), httpx.AsyncClient() as http:
        while True:
            try:
                if (await http.get(f"http://127.0.0.1:{port}/readyz")).is_success:
                    return
            except httpx.HTTPError:
                pass
            await asyncio.sleep(0.1)


async def reached(progress: Callable[[], Awaitable[float]], goal: float, pause: float = 0.02) -> tuple[float, float]:
    """Wait until ``progress`` is at ``goal``; (time it was seen, what it was).

    Raises:
        TimeoutError: it did not get there within ``PATIENCE`` seconds.
    """
    async with asyncio.timeout(PATIENCE):
        while True:
            now = await progress()
            if now >= goal:
                return time.perf_counter(), now
            await asyncio.sleep(pause)


# --------------------------------------------------------------------------- what is printed beside every number


async def circumstances(bed: Bed, load_before: Iterable[float]) -> dict[str, Any]:
    """The settings as the servers state them, the machine, its load average before and after, and the commit."""
    conn = await asyncpg.connect(bed.database_url)
    try:
        shown = {name: await conn.fetchval(f"SHOW {name}") for name in SERVER_SETTINGS}
    finally:
        await conn.close()
    return {
        "settings": {
            **shown,
            "acks": "all",
            "broker": "one node, replication 1, no flush per write (Kafka's default)",
            "device_events_partitions": topics.DEVICE_EVENTS.partitions,
        },
        "machine": {
            "cores": os.cpu_count(),
            "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
        "load_average": {
            "before": [round(value, 2) for value in load_before],
            "after": [round(value, 2) for value in os.getloadavg()],
        },
        "commit": commit(),
    }


def commit() -> str:
    """The checkout's commit, with ``+changes`` if tracked files differ from it."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    head = git("rev-parse", "--short=12", "HEAD")
    return (head + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")) if head else "unknown"
