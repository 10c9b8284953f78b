"""What a device was, and ran, at a moment: folded from the records of both logs up to then.

An assignment as of a moment is the fold of what was recorded up to it (:mod:`orchestrator.domain.assignment`), so it is what the live
row would be if nothing had been said since. What a device ran is decided by the later of two statements: a release that it confirmed,
and the version or digest that it reported of itself.

Not here: reading the logs, and counting, which the database does over what :func:`place` and :func:`ran` say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

from msgspec import Struct

from orchestrator.domain.assignment import (
    RANK,
    Assignment,
    Observation,
    Offer,
    State,
    observe,
    offered,
    offered_again,
    standing,
)

PLACES: Final = 64
"""More than there are ranks within an attempt."""

_STATES: Final = {rank: state for state, rank in RANK.items()}


def place(attempt: int, state: State, progress: State = State.OFFERED) -> int:
    """A record's place among all records of an assignment: the highest one is the state that the row shows.

    By attempt, then by rank: so an assignment's state is a maximum, which a database finds in one pass.
    """
    return attempt * PLACES + standing(state, progress)


def state_at(highest: int) -> State:
    """The state that the highest place means."""
    return _STATES.get(highest % PLACES, State.UNKNOWN)


class Member(Struct, frozen=True, kw_only=True):
    """A device in a campaign: what never changes of its row."""

    campaign_no: int
    device_no: int
    phase: int
    stratum: int


def folded(member: Member, offers: Iterable[Offer], said: Iterable[Observation]) -> Assignment | None:
    """The row after these offers and records, in whatever order they are given; None before the first offer.

    Records of attempts that are not offered here are left out: their offer was recorded later.
    """
    row: Assignment | None = None
    records = list(said)
    for offer in sorted(offers, key=lambda offer: offer.attempt):
        if row is None:
            row = offered(member.campaign_no, member.device_no, member.phase, member.stratum, offer)
        else:
            row = offered_again(row, offer)
        for record in records:
            if record.attempt == offer.attempt:
                row = observe(row, record)
    return row


# --------------------------------------------------------------------------- what a device ran


class Source(StrEnum):
    """Whose statement decides what a device ran."""

    CONFIRMED = "confirmed"
    """A campaign's assignment: the device confirmed its release."""
    REPORTED = "reported"
    """What the device says of itself."""
    UNKNOWN = "unknown"
    """It has said nothing yet."""


class Released(Struct, frozen=True, kw_only=True):
    """A release for one hardware model."""

    release_id: str
    version: str
    digest: str | None
    """sha256 of the model's artifact."""


class Reported(Struct, frozen=True, kw_only=True):
    """What a device said of itself last, each part with its time in ms."""

    version: str | None = None
    version_at: int = 0
    digest: str | None = None
    digest_at: int = 0

    def after(self, moment: int) -> Reported:
        """Only what was said after a moment (ms)."""
        version, digest = self.version_at > moment, self.digest_at > moment
        return Reported(
            version=self.version if version else None,
            version_at=self.version_at if version else 0,
            digest=self.digest if digest else None,
            digest_at=self.digest_at if digest else 0,
        )


class Ran(Struct, frozen=True, kw_only=True):
    """What a device ran."""

    source: Source
    release_id: str | None = None
    """None where what it reports is no release that was known."""
    version: str | None = None
    digest: str | None = None


def ran(confirmed: Released | None, news: Reported, releases: Mapping[str, Released]) -> Ran:
    """What a device ran.

    Args:
        confirmed: the release that it confirmed last.
        news: what it reported after that (:meth:`Reported.after`), or ever if it confirmed none.
        releases: releases for its hardware model by their artifact's sha256.
    """
    version, digest = news.version, news.digest
    known = None if digest is None else releases.get(digest)
    older = digest is not None and version is not None and news.digest_at < news.version_at
    if older and (known is None or known.version != version):
        # A later report named a version only, and the digest of before does not belong to it.
        digest, known = None, None
    if version is None and digest is None:
        if confirmed is None:
            return Ran(source=Source.UNKNOWN)
        return _confirmed(confirmed)
    if confirmed is not None and version in {None, confirmed.version} and digest in {None, confirmed.digest}:
        return _confirmed(confirmed)
    if known is not None:
        # The digest says which bytes run; the version is a name that the device gives them.
        return Ran(source=Source.REPORTED, release_id=known.release_id, version=version or known.version, digest=digest)
    return Ran(source=Source.REPORTED, version=version, digest=digest)


def _confirmed(release: Released) -> Ran:
    return Ran(source=Source.CONFIRMED, release_id=release.release_id, version=release.version, digest=release.digest)
