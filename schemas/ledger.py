"""Decisions about single devices, in slices: one row of ``decision_ledger`` speaks for many devices at once."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Kind(StrEnum):
    """What a ledger row decides."""

    ENROL = "enrol"
    """Freezes members: ``phase`` (-1 = holdback) and ``stratum`` of the row hold for all its devices, in queue order. With the cause
    ``joined`` they came late, in order of their numbers."""
    OFFER = "offer"
    """Assigns attempt ``attempt``; device i's action id is ``action_base + i``."""
    START = "start"
    """The image is about to be revealed to these devices."""
    EXPIRE = "expire"
    """The offer's time to live or the confirm deadline passed; ``cause`` says which."""
    WITHDRAW = "withdraw"
    """Offers that were not started are taken back."""
    CANCEL = "cancel"
    """Started devices that have not installed are asked to stop; they stay in flight until they answer."""
    RETRY = "retry"
    """These devices wait again in the offer queue for a further attempt."""
    UNQUEUE = "unqueue"
    """These devices no longer wait for attempt ``attempt``: a late report of the one before took the reason away, or, with a cause,
    the campaign ends without them, or is not for them any more."""
    UNKNOWN = "unknown"
    """Reports of these devices may have been destroyed with a part of the log; ``seen`` is where they were last seen."""


class Cause(StrEnum):
    """Why a row was written, where the kind leaves it open."""

    OFFER_TTL = "offer_ttl"
    SILENT = "silent"
    """Confirm deadline passed, last seen before ``installed``: infrastructure."""
    SILENT_TRIAL = "silent_trial"
    """Confirm deadline passed, last seen in ``installed`` or ``trial``: a release failure."""
    HALTED = "halted"
    ABORTED = "aborted"
    SUPERSEDED = "superseded"
    """The device was taken over by a campaign of higher priority, whose offer follows in the same transaction."""
    JOINED = "joined"
    """Of an enrol row: these devices joined while the campaign ran."""
    LOG_LOSS = "log_loss"
    """What the device reported may have been destroyed: nobody is to blame for its silence."""
    REJECTED = "rejected"
    """Of a retry, as all that follow: what the attempt before ended in."""
    CANCELLED = "cancelled"
    TRANSPORT = "transport"
    INTEGRITY = "integrity"
    COMPATIBILITY = "compatibility"
    INSTALL = "install"
    BOOT = "boot"
    HEALTH = "health"
    REVERTED = "reverted"
    OPTED_OUT = "opted_out"
    """Of an unqueue, as all that follow: why the campaign ended without the device."""
    POSTPONED = "postponed"
    CONSENT = "consent"
    PRECONDITIONS = "preconditions"
    NOT_UPDATED = "not_updated"
    """It does not run what a remediation would take off it; with ``silent_trial`` it may, and nothing may be offered to it."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One ledger row."""

    campaign_no: int
    kind: Kind
    device_nos: list[int]
    at: int
    """Milliseconds since the epoch."""
    phase: int | None = None
    stratum: int | None = None
    gate_epoch: int | None = None
    attempt: int | None = None
    cause: Cause | None = None
    action_base: int | None = None
    control_version: int = 0
    command_id: str | None = None
    not_before: int | None = None
    """For retries: earliest time of the next offer, milliseconds since the epoch; with a cause, each device has its own shortly
    before it (``domain.retry.spread``)."""
    seen: str | msgspec.UnsetType = msgspec.UNSET
    """For ``unknown``: the state in which the devices were last seen. Left out where it is unset, so that rows from before there
    was this field keep their hashes."""
    position: int = 0
    """Set by the store."""
