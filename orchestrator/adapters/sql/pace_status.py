"""What is said of a campaign's pace, out of its stream: the brake in force and the revision that waits."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.app.ports import Recorded
from orchestrator.app.queries import BrakeStatus, RevisionStatus
from orchestrator.domain import campaign as c
from orchestrator.domain.brake import OFF
from orchestrator.domain.revision import pace_changes
from schemas.campaign_events import BrakeReleased, PaceBraked, RevisionProposed


def brake_status(campaign: c.Campaign, recorded: Sequence[Recorded]) -> BrakeStatus | None:
    """The limits in force and who set them; None without a brake."""
    if campaign.brake == OFF:
        return None
    last = next(item for item in reversed(recorded) if isinstance(item.event, PaceBraked | BrakeReleased))
    return BrakeStatus(
        per_minute=campaign.brake.per_minute,
        max_in_flight=campaign.brake.max_in_flight,
        by=last.event.actor,
        reason=last.event.reason,
        at=last.recorded_at,
        position=last.event.ledger_position,
    )


def revision_status(campaign: c.Campaign, recorded: Sequence[Recorded]) -> RevisionStatus | None:
    """The proposal that waits; None if none does."""
    waiting = campaign.revision
    if waiting is None:
        return None
    proposed = next(item for item in reversed(recorded) if isinstance(item.event, RevisionProposed))
    return RevisionStatus(
        digest=waiting.digest,
        by=waiting.actor,
        reason=waiting.reason,
        at=proposed.recorded_at,
        approvals=list(waiting.approvals),
        changes=pace_changes(campaign.plan, waiting.dossier["plan"]),
    )
