"""Where a role's time goes: the role as it is, watched by a thread that looks at the event loop's stack, and with timers around the
steps of the projection's transaction.

Run as ``python -m tests.bench.profiled ROLE OUT`` with the role's ``OTA_…`` variables; OUT is written when the role ends.
Looking costs some percent, so no other number is taken from such a run.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

import msgspec

PAUSE: Final = 0.004
"""Seconds between two looks."""

STEPS: Final = {
    "projector": (
        ("orchestrator/adapters/sql/fact_batch.py", "read_batch", "decode"),
        ("orchestrator/adapters/sql/rows.py", "lock", "read"),
        ("orchestrator/adapters/sql/rows.py", "write", "write"),
        ("orchestrator/adapters/sql/rows.py", "add", "fold"),
        ("orchestrator/domain/assignment.py", "observe", "fold"),
        ("orchestrator/adapters/sql/facts.py", "_write", "fold"),
        ("orchestrator/adapters/sql/facts.py", "apply", "fold"),
        ("orchestrator/adapters/sql/facts.py", "", "write"),
        ("orchestrator/adapters/sql/positions.py", "", "write"),
        ("orchestrator/adapters/sql/halting.py", "", "judge"),
        ("asyncpg/", "", "driver"),
        ("orchestrator/stream/", "", "fetch"),
        ("aiokafka/", "", "fetch"),
        ("faust/", "", "fetch"),
        ("mode/", "", "fetch"),
        ("opentelemetry/", "", "telemetry"),
        ("orchestrator/telemetry/", "", "telemetry"),
    ),
    "gateway": (
        ("orchestrator/adapters/sql/identities.py", "", "identities"),
        ("orchestrator/adapters/sql/presence.py", "", "presence"),
        ("orchestrator/adapters/kafka/", "", "producer"),
        ("aiokafka/", "", "producer"),
        ("orchestrator/adapters/sql/", "", "database"),
        ("sqlalchemy/", "", "database"),
        ("asyncpg/", "", "database"),
        ("opentelemetry/", "", "telemetry"),
        ("orchestrator/telemetry/", "", "telemetry"),
        ("api/devices/", "", "handlers"),
        ("uvicorn/", "", "server"),
        ("asyncio/", "", "event loop"),
    ),
}
"""By role. Of a stack, from the innermost frame outwards, the first that is one of these says which step it belongs to."""


def step_of(role: str, frames: list[tuple[str, str]]) -> str:
    """The step of a stack of (file, function), innermost first."""
    if frames and frames[0][1] == "select" and frames[0][0].endswith("selectors.py"):
        return "waiting"
    for file, function in frames:
        for part, name, step in STEPS[role]:
            if part in file and (not name or function == name):
                return step
    return "other"


def _frames(frame: FrameType | None) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    while frame is not None:
        found.append((frame.f_code.co_filename, frame.f_code.co_name))
        frame = frame.f_back
    return found


class Watcher(threading.Thread):
    """Counts what the main thread is doing."""

    def __init__(self, role: str) -> None:
        super().__init__(daemon=True)
        self.role = role
        self.steps: Counter[str] = Counter()
        self.lines: Counter[str] = Counter()
        self.main = threading.main_thread().ident

    def run(self) -> None:
        while True:
            time.sleep(PAUSE)
            frames = _frames(sys._current_frames().get(self.main or 0))
            # Modules are loaded once, whatever is measured afterwards.
            if frames and not any(file.startswith("<frozen importlib") for file, _ in frames):
                step = step_of(self.role, frames)
                self.steps[step] += 1
                if step != "waiting":
                    file, function = frames[0]
                    self.lines[f"{'/'.join(file.split('/')[-2:])}:{function}"] += 1


class Timers:
    """Wall time inside coroutine functions, both lanes together."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()

    def around(self, owner: Any, name: str, label: str) -> None:
        inner: Callable[..., Any] = getattr(owner, name)

        async def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return await inner(*args, **kwargs)
            finally:
                self.seconds[label] += time.perf_counter() - began
                self.calls[label] += 1

        setattr(owner, name, timed)


def _time_the_projection(timers: Timers) -> None:
    from orchestrator.adapters.sql import facts, positions, rows

    timers.around(facts.FactProjection, "_commit", "transaction")
    timers.around(facts, "read_batch", "decode")
    timers.around(positions, "advance", "positions")
    timers.around(rows, "lock", "read")
    timers.around(rows.Changes, "write", "write")
    timers.around(facts.FactProjection, "_write", "read+fold+write")
    timers.around(facts.FactProjection, "_judge", "judge")


def main(role: str, out: Path) -> None:
    from orchestrator.bootstrap import run_role
    from orchestrator.config import Settings

    timers, watcher = Timers(), Watcher(role)
    if role == "projector":
        _time_the_projection(timers)
    watcher.start()
    began, cpu = time.perf_counter(), time.process_time()
    code = asyncio.run(run_role(role, Settings()))  # pyright: ignore[reportCallIssue] (every field has a default)
    looks = sum(watcher.steps.values()) or 1
    out.write_bytes(
        msgspec.json.encode(
            {
                "seconds": round(time.perf_counter() - began, 2),
                "cpu_seconds": round(time.process_time() - cpu, 2),
                "event_loop_share": {step: round(n / looks, 3) for step, n in watcher.steps.most_common()},
                "innermost": {line: round(n / looks, 3) for line, n in watcher.lines.most_common(25)},
                "transaction_seconds": {name: round(each, 3) for name, each in timers.seconds.items()},
                "transactions": timers.calls["transaction"],
            }
        )
    )
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
