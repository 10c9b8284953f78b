"""Why a campaign, or a device in it, does not move: :mod:`.table` has the conditions of campaigns, :mod:`.device` those of devices."""

from orchestrator.domain.explain.table import CONDITIONS, MOVING, explain
from orchestrator.domain.explain.view import (
    COUNTED,
    Condition,
    Evidence,
    Flow,
    FullPlace,
    Line,
    Oldest,
    Stop,
    View,
)

__all__ = [
    "CONDITIONS",
    "COUNTED",
    "MOVING",
    "Condition",
    "Evidence",
    "Flow",
    "FullPlace",
    "Line",
    "Oldest",
    "Stop",
    "View",
    "explain",
]
