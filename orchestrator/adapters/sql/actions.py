"""To whom an action id was given. Ids are ranges of ledger rows, so the answer is found by range and never forgotten."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

import asyncpg


@dataclass(frozen=True, slots=True, order=True)
class ActionRange:
    """One offer row of the ledger."""

    base: int
    campaign_no: int = field(compare=False)
    attempt: int = field(compare=False)
    gate_epoch: int = field(compare=False)
    device_nos: array[int] = field(compare=False)

    def device(self, action_id: int) -> int | None:
        """Device that ``action_id`` was given to, None outside the range."""
        index = action_id - self.base
        return self.device_nos[index] if 0 <= index < len(self.device_nos) else None


class ActionRanges:
    """Ranges seen so far, 4 bytes per offer; a miss asks the ledger, whose rows never change."""

    def __init__(self) -> None:
        self._bases: list[int] = []
        self._ranges: list[ActionRange] = []

    def known(self, action_id: int) -> ActionRange | None:
        """The range that holds ``action_id``, if it was seen before."""
        at = bisect_right(self._bases, action_id) - 1
        if at < 0:
            return None
        found = self._ranges[at]
        return found if action_id - found.base < len(found.device_nos) else None

    async def find(self, conn: asyncpg.Connection, action_id: int) -> ActionRange | None:
        """The range that holds ``action_id``; None if it was never given."""
        found = self.known(action_id)
        if found is not None:
            return found
        row = await conn.fetchrow(
            "SELECT action_base, campaign_no, attempt, gate_epoch, device_nos FROM decision_ledger"
            " WHERE action_base IS NOT NULL AND action_base <= $1 ORDER BY action_base DESC LIMIT 1",
            action_id,
        )
        if row is None:
            return None
        found = ActionRange(
            base=row["action_base"],
            campaign_no=row["campaign_no"],
            attempt=row["attempt"],
            gate_epoch=row["gate_epoch"],
            device_nos=array("i", row["device_nos"]),
        )
        at = bisect_left(self._bases, found.base)
        if self._bases[at : at + 1] != [found.base]:  # not found by another lane meanwhile
            self._bases.insert(at, found.base)
            self._ranges.insert(at, found)
        return found if found.device(action_id) is not None else None
