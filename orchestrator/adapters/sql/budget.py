"""How full an exposure budget is: devices in flight by value of its labels.

Counted from the devices' slots whenever it is asked for, not kept: so it holds for all campaigns, with or without a budget, whatever
ended or changed meanwhile, and there is nothing that a rebuild would have to make again. A device that holds its slot because it fell
silent in trial counts, and every device counts where its attributes say now that it is.

Not here: what may be in flight (:mod:`orchestrator.domain.budget`) and who is offered (``claims``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import asyncpg

from orchestrator.adapters.sql.fleet import attribute_names, value_columns
from orchestrator.domain.budget import BudgetLimits, Place, Usage

_IN_FLIGHT: Final = """SELECT {values}, count(*)::bigint AS n FROM device_slot JOIN device USING (device_no)
GROUP BY {numbers}"""


async def usage(conn: asyncpg.Connection, budget: Sequence[BudgetLimits]) -> Usage:
    """How many devices hold a slot, by place. Room may be granted on it only under the budget's lock (``locks.own_budget``)."""
    labels = [rule.label for rule in budget]
    values = value_columns(labels, 1)
    query = _IN_FLIGHT.format(
        values=", ".join(values), numbers=", ".join(str(number) for number, _ in enumerate(labels, 1))
    )
    in_flight: Counter[Place] = Counter()
    for *row, n in await conn.fetch(query, *attribute_names(labels)):
        for number, value in enumerate(row):
            in_flight[number, value] += n
    return Usage(in_flight)
