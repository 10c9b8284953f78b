"""How full an exposure budget is: devices in flight by value of its labels.

Counted from the devices' slots whenever it is asked for, not kept: so it holds for all campaigns, with or without a budget, whatever
ended or changed meanwhile, and there is nothing that a rebuild would have to make again. A device that holds its slot because it fell
silent in trial counts, and every device counts where its attributes say now that it is.

Not here: what may be in flight (:mod:`orchestrator.domain.budget`) and who is offered (``claims``).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

import asyncpg

from orchestrator.adapters.sql.selection import attribute_names, value_columns
from orchestrator.domain.budget import BudgetLimits, Place, Usage

_HOLDERS: Final = """SELECT {value} AS value, c.campaign_id, count(*)::bigint AS n FROM device_slot s
JOIN device USING (device_no) JOIN campaign c ON c.campaign_no = s.campaign_no WHERE {value} = ANY($1::text[]) GROUP BY 1, 2"""
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


async def holders(conn: asyncpg.Connection, label: str, values: Sequence[str]) -> dict[str, dict[str, int]]:
    """By which campaigns these values of a label are filled: devices in flight by value and campaign id."""
    (value,) = value_columns([label], 2)
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for row in await conn.fetch(_HOLDERS.format(value=value), list(values), *attribute_names([label])):
        found[row["value"]][row["campaign_id"]] = row["n"]
    return found
