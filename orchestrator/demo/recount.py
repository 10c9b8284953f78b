"""Queries that count the rows again and return what differs from the counters that the product keeps."""

from __future__ import annotations

from typing import Final

_MATURITY_PARTS: Final = 64
_LEAST_MATURITY_MS: Final = 250
"""A maturity bucket is 1/64 of the confirm deadline wide, at least 250 ms: see ``orchestrator.domain.assignment``."""


def _differing(counters: str, rows: str) -> str:
    """Count the result rows of either query that the other does not have."""
    either = f"(({counters}) EXCEPT ALL ({rows})) UNION ALL (({rows}) EXCEPT ALL ({counters}))"
    return f"SELECT count(*) FROM ({either}) AS differing"


DIFFERENCES: Final = (
    _differing(
        """
        SELECT campaign_no, phase, stratum, state, sum(n)::bigint
        FROM counter GROUP BY 1, 2, 3, 4 HAVING sum(n) <> 0
        """,
        """
        SELECT campaign_no, phase, stratum, state, count(*)
        FROM assignment GROUP BY 1, 2, 3, 4
        """,
    ),
    _differing(
        """
        SELECT campaign_no, gate_epoch, phase, stratum, sum(started)::bigint, sum(failed)::bigint
        FROM gate_count GROUP BY 1, 2, 3, 4 HAVING sum(started) <> 0 OR sum(failed) <> 0
        """,
        """
        SELECT campaign_no, first_started_epoch, phase, stratum, count(*), count(failed_at)
        FROM assignment WHERE first_started_epoch IS NOT NULL GROUP BY 1, 2, 3, 4
        """,
    ),
    _differing(
        """
        SELECT campaign_no, phase, gate_epoch, bucket, stratum,
            sum(started)::bigint, sum(good)::bigint, sum(excluded)::bigint
        FROM maturity GROUP BY 1, 2, 3, 4, 5
        HAVING sum(started) <> 0 OR sum(good) <> 0 OR sum(excluded) <> 0
        """,
        f"""
        SELECT a.campaign_no, a.phase, a.first_started_epoch, a.first_started_at
                / greatest({_LEAST_MATURITY_MS}, (c.plan->>'confirm_deadline')::bigint / {_MATURITY_PARTS}) AS bucket,
            a.stratum, count(*),
            count(*) FILTER (WHERE a.state = 'confirmed' AND a.failed_at IS NULL),
            count(*) FILTER (WHERE a.state IN ('cancelled', 'superseded', 'not_applicable'))
        FROM assignment a JOIN campaign c USING (campaign_no)
        WHERE a.first_started_epoch IS NOT NULL GROUP BY 1, 2, 3, 4, 5
        """,
    ),
)
"""One query for each table of counters: display, gate, maturity."""

DOUBLE_ASSIGNMENTS: Final = """
    SELECT (SELECT count(*) FROM
                (SELECT device_no FROM assignment WHERE state = ANY($1) GROUP BY device_no HAVING count(*) > 1) AS twice)
         + (SELECT count(*) FROM assignment a LEFT JOIN device_slot s USING (device_no)
            WHERE a.state = ANY($1) AND s.campaign_no IS DISTINCT FROM a.campaign_no)
    """
"""Takes the states in flight; counts devices with two such assignments, and such assignments without the device's slot."""
