"""The read position of a projection: in the database, fenced by an epoch, checked against the broker's log.

A claim bumps the epoch, so whoever held the partitions before can no longer commit. A claim is refused, and the projector stops
with its own exit code, when the log no longer holds what has not been read (``orchestrator.domain.log_loss``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import asyncpg

from orchestrator.domain.log_loss import Bookmark, LogDamageError, LogIdentity, LogState, find_losses
from orchestrator.errors import OtaError

__all__ = [
    "BrokenChainError",
    "Claim",
    "FencedError",
    "LogDamageError",
    "LogIdentity",
    "advance",
    "bookmarks",
    "claim",
    "positions",
]


class FencedError(OtaError):
    """Another process claimed these partitions."""

    code = "projection.fenced"


class BrokenChainError(OtaError):
    """A batch was delivered that does not follow the position."""

    code = "projection.chain_broken"


@dataclass(frozen=True, slots=True)
class Claim:
    """A partition that this process may move."""

    next_offset: int
    epoch: int


async def claim(
    conn: asyncpg.Connection,
    projection: str,
    topic: str,
    identity: LogIdentity,
    bounds: Mapping[int, tuple[int, int]],
) -> dict[int, Claim]:
    """Take over partitions; ``bounds`` gives log start and log end of each.

    A partition that was never claimed starts at offset 0, never at the log's start: a projection that begins in the middle of
    history must be created on purpose. Raises LogDamageError.
    """
    partitions = sorted(bounds)
    await conn.execute(
        "INSERT INTO projection_position (projection, topic, partition, topic_id, cluster_id, next_offset, epoch)"
        " SELECT $1, $2, p, $4, $5, 0, 0 FROM unnest($3::int[]) p ON CONFLICT DO NOTHING",
        projection,
        topic,
        partitions,
        identity.topic_id,
        identity.cluster_id,
    )
    rows = await conn.fetch(
        "WITH held AS MATERIALIZED (SELECT partition FROM projection_position"
        " WHERE projection = $1 AND topic = $2 AND partition = ANY($3::int[]) ORDER BY partition FOR UPDATE)"
        " UPDATE projection_position p SET epoch = p.epoch + 1 FROM held"
        " WHERE p.projection = $1 AND p.topic = $2 AND p.partition = held.partition"
        " RETURNING p.partition, p.next_offset, p.epoch, p.topic_id, p.cluster_id",
        projection,
        topic,
        partitions,
    )
    found = {row["partition"]: _bookmark(row) for row in rows}
    if losses := find_losses(topic, found, LogState(identity, bounds)):
        raise LogDamageError.of(losses)
    return {row["partition"]: Claim(row["next_offset"], row["epoch"]) for row in rows}


async def advance(
    conn: asyncpg.Connection,
    projection: str,
    topic: str,
    claims: Mapping[int, Claim],
    ends: Mapping[int, int],
) -> None:
    """Compare-and-set all positions; the first statement of a projecting transaction. Raises FencedError."""
    partitions = sorted(ends)
    moved = await conn.fetch(
        "WITH held AS MATERIALIZED (SELECT partition, next_offset, epoch FROM projection_position"
        " WHERE projection = $1 AND topic = $2 AND partition = ANY($3::int[]) ORDER BY partition FOR UPDATE)"
        " UPDATE projection_position p SET next_offset = u.after FROM held,"
        " unnest($3::int[], $4::bigint[], $5::bigint[], $6::bigint[]) u(partition, before, after, epoch)"
        " WHERE p.projection = $1 AND p.topic = $2 AND p.partition = u.partition AND held.partition = u.partition"
        " AND p.next_offset = u.before AND p.epoch = u.epoch RETURNING p.partition",
        projection,
        topic,
        partitions,
        [claims[p].next_offset for p in partitions],
        [ends[p] for p in partitions],
        [claims[p].epoch for p in partitions],
    )
    if len(moved) != len(partitions):
        lost = sorted(set(partitions) - {row["partition"] for row in moved})
        raise FencedError(f"{topic}: partitions {lost} were claimed by another process.")


async def positions(conn: asyncpg.Connection, projection: str, topic: str) -> dict[int, int]:
    """Next offset by partition."""
    rows = await conn.fetch(
        "SELECT partition, next_offset FROM projection_position WHERE projection = $1 AND topic = $2", projection, topic
    )
    return {row["partition"]: row["next_offset"] for row in rows}


async def bookmarks(conn: asyncpg.Connection, projection: str, topic: str) -> dict[int, Bookmark]:
    """Where the projection reads on, and in which incarnation of the topic, by partition."""
    rows = await conn.fetch(
        "SELECT partition, topic_id, cluster_id, next_offset FROM projection_position"
        " WHERE projection = $1 AND topic = $2",
        projection,
        topic,
    )
    return {row["partition"]: _bookmark(row) for row in rows}


def _bookmark(row: asyncpg.Record) -> Bookmark:
    return Bookmark(LogIdentity(row["cluster_id"], row["topic_id"]), row["next_offset"])
