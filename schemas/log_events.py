"""Decisions about the log of facts itself.

Stored in the event log beside the campaigns' and the registry's events, one stream per partition of the topic: the version of an event
in its stream is the number of the loss.
"""

from __future__ import annotations

import msgspec


class LogLossAccepted(msgspec.Struct, frozen=True, kw_only=True):
    """A person accepted that facts were destroyed before they were read. See ``orchestrator.domain.log_loss``."""

    topic: str
    partition: int
    kind: str
    """``forgotten``, ``recreated`` or ``rewound``."""
    from_offset: int
    """The first fact that was not read, in the log with ``before_topic_id``."""
    to_offset: int
    """Where reading goes on, in the log with ``after_topic_id``."""
    before_cluster_id: str
    before_topic_id: str
    after_cluster_id: str
    after_topic_id: str
    archived: int
    """Facts of this partition that had been read: kept in ``fact_archive``, which stands in for the log from here on."""
    devices: int
    """Assignments that became unknown."""
    campaigns: list[str]
    """Campaigns that they belong to."""
    paused: list[str]
    """Those of them that ran, and hold until people resume them."""
    ledger_position: int
    at: int
    """Milliseconds since the epoch."""
    actor: str
    reason: str


EVENT_TYPES: dict[str, type[msgspec.Struct]] = {"LogLossAccepted": LogLossAccepted}
