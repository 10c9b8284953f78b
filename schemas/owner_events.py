"""What owners of devices want, in streams ``owner/<device_no>``. Times are milliseconds since the epoch.

Each event states the whole will, so the last one of a stream is what holds.
"""

from __future__ import annotations

import msgspec


class Consent(msgspec.Struct, frozen=True, kw_only=True):
    """The owner agrees to one release, by whichever campaign, or to one campaign: exactly one of the two is named."""

    release_id: str | None = None
    campaign_id: str | None = None
    until: int | None = None
    """From then on it counts no more."""


class OwnerWillStated(msgspec.Struct, frozen=True, kw_only=True):
    """What the owner of a device wants from now on."""

    device_no: int
    device_id: str
    opted_out: bool
    postponed_until: int | None
    consents: list[Consent]
    reason: str
    on_behalf_of: str | None
    """Whom the actor passes it on for, where that is somebody else: a customer's number, a ticket. No names."""
    at: int
    actor: str


EVENT_TYPES: dict[str, type[msgspec.Struct]] = {"OwnerWillStated": OwnerWillStated}
