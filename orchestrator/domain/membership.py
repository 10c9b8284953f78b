"""Who joins a campaign while it runs (``cohort.membership: continuous``).

A late device goes where the dossier's own shares put it: a phase that names it, or the place that its salted hash has among the
shares of its stratum, holdback included. So who is where does not depend on who else came, or when. Only strata that were approved
take devices, and all members together are never more than ``max_members``, for which the halt tables were made.

Not here: which devices are looked at, and when (that is the adapter's part). A member never leaves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from orchestrator.domain.campaign import Campaign, CampaignState, PhaseState
from orchestrator.domain.cohort import HOLDBACK, Member, unit_hash
from orchestrator.domain.dossier import Dossier

PAUSE_MS: Final = 10_000
"""Between two looks at what changed: soon enough for people, seldom enough for a fleet that reports all the time."""

LONGEST_PAUSE_MS: Final = 3_600_000
"""Between two looks of a campaign that has taken devices in very often: an hour is nothing to one that runs for weeks."""

JOINS_PER_PAUSE: Final = 50
"""After so many events the pause doubles: a campaign's stream is read whole with every command and must stay short."""

_HASHES: Final = 1 << 64


class Refusal(StrEnum):
    """Why a device that matches may not join."""

    UNKNOWN_STRATUM = "unknown_stratum"
    HALTED_STRATUM = "halted_stratum"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Admission:
    """Device numbers: those that join, by phase (or ``HOLDBACK``) and stratum, and those that may not."""

    joined: dict[tuple[int, str], list[int]] = field(default_factory=dict[tuple[int, str], list[int]])
    refused: dict[int, Refusal] = field(default_factory=dict[int, Refusal])


def is_open(campaign: Campaign, now: int) -> bool:
    """Whether devices may join at ``now``.

    Not once the open phase has soaked, until it is promoted: then what is under way comes to an end, and the gate, which waits for
    that, to its verdict. So no stream of newcomers keeps a phase, or the campaign, from ending.
    """
    if campaign.state is not CampaignState.RUNNING or not campaign.enrolled:
        return False
    match campaign.phase_state:
        case PhaseState.SOAKING:
            return campaign.soak_until is not None and now < campaign.soak_until
        case PhaseState.PROMOTED:
            return campaign.phase < len(campaign.phases) - 1
        case _:
            return True


def pause_ms(joins: int) -> int:
    """Time from one look to the next, ms, of a campaign that has taken devices in so many times."""
    return min(PAUSE_MS << min(joins // JOINS_PER_PAUSE, 16), LONGEST_PAUSE_MS)


def admit(dossier: Dossier, members: Iterable[Member], *, present: int, halted: Collection[str]) -> Admission:
    """Take in what may join, in this order, into a campaign of ``present`` members with these strata halted alone."""
    admission = Admission()
    room = (dossier.plan.cohort.max_members or 0) - present
    for member in members:
        if member.stratum not in dossier.strata:
            admission.refused[member.device_no] = Refusal.UNKNOWN_STRATUM
        elif member.stratum in halted:
            admission.refused[member.device_no] = Refusal.HALTED_STRATUM
        elif room <= 0:
            admission.refused[member.device_no] = Refusal.FULL
        else:
            room -= 1
            admission.joined.setdefault((place(dossier, member), member.stratum), []).append(member.device_no)
    return admission


def place(dossier: Dossier, member: Member) -> int:
    """The phase of a late member of a known stratum, or ``HOLDBACK``."""
    if member.named is not None:
        return member.named
    numbered = [
        None if phase.names else share for phase, share in zip(dossier.plan.phases, dossier.phases, strict=True)
    ]
    shares = [share.strata.get(member.stratum, 0) if share else 0 for share in numbered]
    held = dossier.holdback.get(member.stratum, 0)
    if not sum(shares) + held:
        # All of the stratum was taken by name: then as in the whole cohort. The last phase always has a share of it.
        shares = [share.size if share else 0 for share in numbered]
        held = sum(dossier.holdback.values())
    point = unit_hash(dossier.plan.salt, member.device_id) * (sum(shares) + held)
    for index, share in enumerate(shares):
        point -= share * _HASHES
        if point < 0:
            return index
    return HOLDBACK
