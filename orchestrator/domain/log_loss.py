"""The log of facts, as a projection left it and as the broker has it now: whether unread facts are gone, and which.

A projection never goes on by itself over facts that it has not read. Three things destroy them: retention (the log begins after the
position), a topic or cluster made anew under the same name, and a broker restored from an older copy (the log ends before the
position). A loss is exact: which partition, from the first fact that was not read, to the offset at which reading can go on.

Not seen: a restored log that has grown past the position again before anyone looked; its offsets look as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from orchestrator.errors import UnavailableError

_NAMED: Final = 3
"""Losses that an error names one by one: a topic made anew has one per partition."""


class LossKind(StrEnum):
    """What happened to the log."""

    FORGOTTEN = "forgotten"
    """It begins after the position: retention, or records deleted by hand."""
    RECREATED = "recreated"
    """It is another log: offsets of the one before mean nothing in it."""
    REWOUND = "rewound"
    """It ends before the position: the broker came back from an older copy."""


@dataclass(frozen=True, slots=True)
class LogIdentity:
    """Which incarnation of the topic this is."""

    cluster_id: str
    topic_id: str


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Where a projection reads on in one partition, and of which incarnation of the topic."""

    identity: LogIdentity
    next_offset: int


@dataclass(frozen=True, slots=True)
class LogState:
    """The topic as the broker has it."""

    identity: LogIdentity
    bounds: Mapping[int, tuple[int, int]]
    """Partition to log start and log end (the offset of the next record)."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Facts of one partition that nobody can read any more."""

    topic: str
    partition: int
    kind: LossKind
    start: int
    """Offset of the first fact that was not read, in the log that it was written to."""
    end: int
    """Offset at which reading can go on, in the log that there is now."""
    before: LogIdentity
    after: LogIdentity

    def __str__(self) -> str:
        where = f"{self.topic}/{self.partition}"
        match self.kind:
            case LossKind.FORGOTTEN:
                return f"{where}: the log starts at {self.end}, unread events begin at {self.start}."
            case LossKind.RECREATED:
                return (
                    f"{where}: the position {self.start} belongs to topic id {self.before.topic_id} of cluster"
                    f" {self.before.cluster_id}, the broker has {self.after.topic_id} of {self.after.cluster_id}."
                )
            case LossKind.REWOUND:
                return f"{where}: the log ends at {self.end}, the position is {self.start}."

    @property
    def command(self) -> str:
        """The command that accepts exactly this."""
        return (
            f"ota projection accept-loss --topic {self.topic} --partition {self.partition}"
            f" --from {self.start} --to {self.end} --reason TEXT"
        )


class LogDamageError(UnavailableError):
    """The log no longer holds what the projection has not read yet."""

    code = "projection.log_damaged"
    remedy = "Restore the topic; the projector never skips unread events by itself. `ota projection status` says what is missing."

    @classmethod
    def of(cls, losses: Sequence[Loss]) -> LogDamageError:
        """An error that names the losses and the way out of each."""
        more = len(losses) - _NAMED
        named = " ".join(str(loss) for loss in losses[:_NAMED])
        return cls(named + (f" So in {more} more partitions." if more > 0 else ""), remedy=remedy_for(losses))


def remedy_for(losses: Sequence[Loss]) -> str:
    """What to do, as a sentence with the exact commands."""
    commands = " ".join(f"`{loss.command}`" for loss in losses[:_NAMED])
    more = "; `ota projection status` has the others" if len(losses) > _NAMED else ""
    return f"Restore the topic if you can; else accept the loss: {commands}{more}. It stops the campaigns that it concerns."


def find_loss(topic: str, partition: int, bookmark: Bookmark, log: LogState) -> Loss | None:
    """What is gone from this partition; None if everything that was not read is there."""
    start, end = log.bounds[partition]
    if bookmark.identity != log.identity:
        kind, goes_on = LossKind.RECREATED, start
    elif bookmark.next_offset < start:
        kind, goes_on = LossKind.FORGOTTEN, start
    elif bookmark.next_offset > end:
        kind, goes_on = LossKind.REWOUND, end
    else:
        return None
    return Loss(topic, partition, kind, bookmark.next_offset, goes_on, bookmark.identity, log.identity)


def find_losses(topic: str, bookmarks: Mapping[int, Bookmark], log: LogState) -> list[Loss]:
    """By partition. One that was never read has to be there from offset 0: a projection never begins in the middle of history."""
    unread = Bookmark(log.identity, 0)
    found = [find_loss(topic, partition, bookmarks.get(partition, unread), log) for partition in sorted(log.bounds)]
    return [loss for loss in found if loss is not None]
