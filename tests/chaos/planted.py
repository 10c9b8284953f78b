"""Defects on purpose: each breaks one law, so that a harness which stays green under it is known to be blind.

``python -m tests.chaos.planted DEFECT ROLE`` runs a role with a defect in it; the product itself holds none of this. Such a projector
also stands still, as a zombie does, with records in its hands, when the file that ``STOP_FILE`` names appears.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from orchestrator import failpoints
from orchestrator.adapters.sql import dispatch, facts, positions
from orchestrator.adapters.sql.engine import transaction
from orchestrator.adapters.sql.facts import PROJECTION, FactProjection
from orchestrator.adapters.sql.positions import Claim

STOP_FILE: Final = "OTA_PLANTED_STOP"
"""Variable; the file is gone when the projector stands still."""


def position_before_effects(patch: pytest.MonkeyPatch) -> None:
    """The read position is committed first, the effects in a transaction of their own."""
    commit = FactProjection._commit

    async def apart(self: Any, records: Mapping[int, Sequence[Any]], poison: Exception | None = None) -> Any:
        ends = {partition: items[-1].offset + 1 for partition, items in records.items()}
        async with transaction(self._engine) as conn:
            await advance(conn, PROJECTION, self._topic, self._claims, ends)
        for partition, end in ends.items():
            self._claims[partition] = Claim(end, self._claims[partition].epoch)
        failpoints.hit("projector.after_position")
        return await commit(self, records, poison)

    async def nothing(*_: Any) -> None:
        pass

    advance = positions.advance
    patch.setattr(FactProjection, "_commit", apart)
    patch.setattr(positions, "advance", nothing)


def no_control_check(patch: pytest.MonkeyPatch) -> None:
    """A slice offers whatever the control row says, and does not wait for who changes it."""
    real = dispatch.control_state

    async def always_running(conn: asyncpg.Connection, campaign_no: int) -> tuple[str, int, int]:
        _, version, epoch = await real(conn, campaign_no)
        return "running", version, epoch

    async def unlocked(*_: Any) -> None:
        pass

    patch.setattr(dispatch, "control_state", always_running)
    patch.setattr(dispatch, "share_control", unlocked)


def no_fencing(patch: pytest.MonkeyPatch) -> None:
    """Positions are written without a look at who owns the partitions and where they stand."""

    async def blind(
        conn: asyncpg.Connection, projection: str, topic: str, _: Mapping[int, Claim], ends: Mapping[int, int]
    ) -> None:
        for partition, end in sorted(ends.items()):
            await conn.execute(
                "UPDATE projection_position SET next_offset = $4 WHERE projection = $1 AND topic = $2 AND partition = $3",
                projection,
                topic,
                partition,
                end,
            )

    patch.setattr(positions, "advance", blind)


def dropped_event(patch: pytest.MonkeyPatch) -> None:
    """One record of a process's life is read and forgotten."""
    real = facts.read_batch
    dropped: list[int] = []

    async def forgetful(conn: Any, actions: Any, topic: str, records: dict[int, Any], now: int) -> Any:
        if not dropped:
            partition = min(records)
            dropped.append(partition)
            records = records | {partition: records[partition][:-1]}
        return await real(conn, actions, topic, records, now)

    patch.setattr(facts, "read_batch", forgetful)


def stale_gate_read(patch: pytest.MonkeyPatch) -> None:
    """The gate is judged on a connection that does not see the failures that called for it."""
    real = FactProjection._judge

    async def stale(self: Any, conn: asyncpg.Connection, failures: Any, now: int) -> Any:
        del conn
        async with transaction(self._engine) as other:
            return await real(self, other, failures, now)

    patch.setattr(FactProjection, "_judge", stale)


DEFECTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "position-before-effects": position_before_effects,
    "no-control-check": no_control_check,
    "no-fencing": no_fencing,
    "dropped-event": dropped_event,
    "stale-gate-read": stale_gate_read,
}


def _stop_on_demand(patch: pytest.MonkeyPatch, file: Path) -> None:
    real = FactProjection.apply

    def look() -> None:
        if file.exists():
            file.unlink()
            os.kill(os.getpid(), signal.SIGSTOP)

    async def apply(self: Any, deliveries: Any) -> Any:
        look()
        return await real(self, deliveries)

    patch.setattr(FactProjection, "apply", apply)


def main(defect: str, role: str) -> int:
    from orchestrator.bootstrap import run_role
    from orchestrator.config import Settings

    patch = pytest.MonkeyPatch()
    DEFECTS[defect](patch)
    if file := os.environ.get(STOP_FILE):
        _stop_on_demand(patch, Path(file))
    return asyncio.run(run_role(role, Settings()))


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
