"""What stands between a plan and the fleet as it is now: other campaigns, and devices that need no release or will not answer.

A snapshot to read before an approval. Nothing is decided on it and nothing is kept of it.
"""

from __future__ import annotations

from typing import Final, Protocol

from msgspec import Struct

from orchestrator.domain.plan import Plan
from orchestrator.domain.selection import Target

UNSEEN_DAYS: Final = 14
"""A device that was not heard of for so long is listed: an offer would most likely only wait for it until it expires."""

SAMPLES: Final = 5
"""Device ids that are named beside a count."""

SHOWN: Final = 20
"""Entries of a list, the largest first; models and campaigns beyond them are few devices each."""


class Conflict(Struct, frozen=True, kw_only=True):
    """Another campaign that some of the cohort's devices are in: they cannot be offered anything until they are done there."""

    campaign_id: str
    name: str
    state: str
    in_flight: int
    waiting: int
    """In the other campaign's queue: whichever campaign comes first has the device."""
    samples: list[str]
    """Some of these devices, in the order of registration."""


class NotApplicable(Struct, frozen=True, kw_only=True):
    """Devices that the plan asks for and the campaign cannot, need not or will hardly update."""

    reason: str
    """``hardware_model``, ``already_current``, ``never_seen``, ``not_seen_lately``, ``unknown_device`` or ``not_selected``."""
    detail: str | None
    """The hardware model that the release does not support."""
    devices: int
    enrolled: bool
    """True: members all the same, they wait for their offer. False: left out, and in no denominator."""
    samples: list[str]


class Inspection(Struct, frozen=True, kw_only=True):
    """What was found."""

    conflicts: list[Conflict]
    not_applicable: list[NotApplicable]


NOTHING_FOUND: Final = Inspection(conflicts=[], not_applicable=[])


class Inspector(Protocol):
    """Looks at the fleet with a plan."""

    async def inspect(self, plan: Plan, target: Target, campaign_no: int) -> Inspection:
        """Conflicts with campaigns other than this one, and devices to which the plan does not apply."""
        ...
