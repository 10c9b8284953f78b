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
    if frames and frames[0][1] in {"wait", "_worker"} and "lib/python" in frames[0][0]:
        return "idle"
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
    """Counts what each thread is doing."""

    def __init__(self, role: str) -> None:
        super().__init__(daemon=True)
        self.role = role
        self.steps: dict[str, Counter[str]] = defaultdict(Counter)
        self.lines: Counter[str] = Counter()

    def run(self) -> None:
        while True:
            time.sleep(PAUSE)
            names = {thread.ident: thread.name for thread in threading.enumerate()}
            for ident, frame in sys._current_frames().items():
                frames = _frames(frame)
                # Modules are loaded once, whatever is measured afterwards.
                if ident == self.ident or any(file.startswith("<frozen importlib") for file, _ in frames):
                    continue
                step = step_of(self.role, frames)
                self.steps[names.get(ident, "?")][step] += 1
                if step not in {"waiting", "idle"}:
                    self.lines["/".join(frames[0][0].split("/")[-2:]) + f":{frames[0][1]}"] += 1

    def report(self) -> dict[str, Any]:
        """Seconds by thread and step, as far as looks can tell, and the functions that were seen most."""
        busy = {
            name: {step: round(n * PAUSE, 2) for step, n in steps.most_common()}
            for name, steps in self.steps.items()
            if set(steps) - {"waiting", "idle"}
        }
        total = sum(self.lines.values()) or 1
        return {
            "looked_seconds_by_thread": busy,
            "innermost_share": {line: round(n / total, 3) for line, n in self.lines.most_common(25)},
        }


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

    def report(self) -> dict[str, float]:
        """Seconds by step; what the timers do not see by itself is the difference of what they do see."""
        seen = dict(self.seconds)
        if "transaction" in seen:
            rows = seen.pop("rows")
            seen["fold"] = rows - seen["read"] - seen["write"]
            seen["timeline, overlay, commit"] = (
                seen["transaction"] - rows - sum(seen[n] for n in ("decode", "positions", "judge"))
            )
        return {name: round(each, 3) for name, each in seen.items()}


def _time_the_projection(timers: Timers) -> None:
    from orchestrator.adapters.sql import facts, positions, rows

    timers.around(facts.FactProjection, "_commit", "transaction")
    timers.around(facts, "read_batch", "decode")
    timers.around(positions, "advance", "positions")
    timers.around(rows, "lock", "read")
    timers.around(rows.Changes, "write", "write")
    timers.around(facts.FactProjection, "_write", "rows")
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
    out.write_bytes(
        msgspec.json.encode(
            {
                "seconds": round(time.perf_counter() - began, 2),
                "cpu_seconds": round(time.process_time() - cpu, 2),
                **watcher.report(),
                "transaction_seconds": timers.report(),
                "transactions": timers.calls["transaction"],
            }
        )
    )
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
