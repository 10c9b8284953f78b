"""Selectors over devices: a subset of RSQL, the same in Python and in SQL.

``hardware_model==sensor-a;attribute.region=in=(eu,us);version=lt=2.0``. See :mod:`.parse` for the grammar, :mod:`.evaluate`
for what it means.
"""

from orchestrator.domain.query.ast import And, Comparison, Operator, Or, Query
from orchestrator.domain.query.evaluate import Subject, matches
from orchestrator.domain.query.failing import Failing, failing
from orchestrator.domain.query.parse import QueryError, parse, render

__all__ = [
    "And",
    "Comparison",
    "Failing",
    "Operator",
    "Or",
    "Query",
    "QueryError",
    "Subject",
    "failing",
    "matches",
    "parse",
    "render",
]
