"""Where a role's time goes: the role as it is, whose stack is looked at again and again, and with timers around the
steps of the projection's transaction.

Run as ``python -m tests.bench.profiled ROLE OUT`` with the role's ``OTA_…`` variables; OUT is written when the role ends.
Looking costs some percent, so no other number is taken from such a run.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

import msgspec
import uvloop

PAUSE: Final = 0.004
"""Seconds of CPU between two looks."""

OTHER_THREADS: Final = "other threads"

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


EVENT_LOOP: Final = {"projector": "driver", "gateway": "event loop"}
"""Step of a stack with nothing above the loop: compiled code has no frames, so this is the loop's and what it calls of asyncpg's."""


def step_of(role: str, frames: list[tuple[str, str]]) -> str:
    """The step of a stack of (file, function), innermost first."""
    if frames and frames[0][0].endswith(("uvloop/__init__.py", "asyncio/runners.py")):
        return EVENT_LOOP[role]
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


class Watcher:
    """Looks at the main thread's stack whenever the process has used another ``PAUSE`` seconds of CPU.

    By signal, not from a thread: a thread gets its turn when the main one lets go of the interpreter, so it would see nothing but
    system calls. What the main thread used since the last look goes to its stack, the rest to the other threads; in the projector that
    is the one that fetches.
    """

    def __init__(self, role: str) -> None:
        self._role = role
        self._steps: dict[str, float] = defaultdict(float)
        self._lines: dict[str, float] = defaultdict(float)
        self._seen = (0.0, 0.0)

    def start(self) -> None:
        self._seen = (time.thread_time(), time.process_time())
        signal.signal(signal.SIGPROF, self._look)
        signal.setitimer(signal.ITIMER_PROF, PAUSE, PAUSE)

    def _look(self, _: int, frame: FrameType | None) -> None:
        seen = (time.thread_time(), time.process_time())
        main, process = (now - before for now, before in zip(seen, self._seen, strict=True))
        self._seen = seen
        frames = _frames(frame)
        # Modules are loaded once, whatever is measured afterwards.
        if any(file.startswith("<frozen importlib") for file, _ in frames):
            return
        self._steps[step_of(self._role, frames)] += main
        self._steps[OTHER_THREADS] += max(0.0, process - main)
        self._lines["/".join(frames[0][0].split("/")[-2:]) + f":{frames[0][1]}"] += main

    def stop(self) -> dict[str, Any]:
        """CPU seconds by step, and the functions that used most, as shares of all."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        total = sum(self._steps.values()) or 1
        steps, lines = (Counter(found).most_common(25) for found in (self._steps, self._lines))
        return {
            "cpu_seconds_by_step": {step: round(seconds, 2) for step, seconds in steps},
            "cpu_share_by_step": {step: round(seconds / total, 3) for step, seconds in steps},
            "innermost_share": {line: round(seconds / total, 3) for line, seconds in lines},
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
    code = uvloop.run(run_role(role, Settings()))  # pyright: ignore[reportCallIssue] (every field has a default)
    out.write_bytes(
        msgspec.json.encode(
            {
                "seconds": round(time.perf_counter() - began, 2),
                "cpu_seconds": round(time.process_time() - cpu, 2),
                **watcher.stop(),
                "transaction_seconds": timers.report(),
                "transactions": timers.calls["transaction"],
            }
        )
    )
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
