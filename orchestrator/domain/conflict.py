"""Several campaigns want one device: who goes first, who may take an offer over, and when the others look again.

A device has one slot, so it takes part in one campaign after the other. Among those that wait for it the one of highest priority goes
first, of equals whoever comes first. Only an offer that nobody has started may be taken over: a device that has started, is in trial
or may be, is left alone.

Not here: where devices wait and how slots change hands (transactions), and budgets (:mod:`orchestrator.domain.budget`).
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from orchestrator.domain.assignment import Assignment, State
from orchestrator.domain.plan_fields import Integer, between

MAX_PRIORITY: Final = 1_000
DEFAULT_PRIORITY: Final = 100
"""Near the lower end: there is more above the ordinary than below it."""

Priority = Annotated[Integer, between("plan.priority", 0, MAX_PRIORITY)]
"""Higher goes first."""

Supersede = Literal["never", "waiting"]
"""What a campaign does with a device that waits with an unstarted offer of a campaign of lower priority: wait too, or take it over."""

STEP_MS: Final = 5_000
"""A device that had to be passed over is looked at again after this long, at the soonest."""

LONGEST_MS: Final = 600_000
"""And never later than this, however long its line is."""

TURNOVER: Final = 6
"""Steps in which a full site can have changed at most: half a minute, faster than any device updates."""


def goes_first(priority: int, other: int) -> bool:
    """Whether a campaign of ``priority`` gets a device that waits for it and for a campaign of priority ``other``."""
    return priority > other


def may_take_over(supersede: Supersede, priority: int, holder: Assignment, holder_priority: int) -> bool:
    """Whether the holder's offer may be withdrawn for a campaign of ``priority``: it must be unstarted, known, and of a lower one."""
    return (
        supersede == "waiting"
        and goes_first(priority, holder_priority)
        and holder.state is State.OFFERED
        and holder.progress is State.OFFERED
        and holder.started_at is None
        and holder.cancel_requested_at is None
    )


def look_again(now: int, device_no: int, line: int, at_once: int) -> int:
    """When to look again (ms) at a device that was passed over.

    Devices of a line of about ``line`` are spread over so many steps that ``at_once`` of them come due in each. So a long line is not
    looked at again and again while what is behind it waits, and whoever can go is found soon all the same.
    """
    steps = min(LONGEST_MS // STEP_MS, max(1, line // at_once))
    # Knuth's multiplicative hash: spread like chance, and the same on every machine.
    share = ((device_no * 2_654_435_761 + now) & 0xFFFF_FFFF) / 0x1_0000_0000
    return now + STEP_MS + int((steps - 1) * STEP_MS * share)


def freed_at_once(limit: int) -> int:
    """Devices of a full site of so many in flight that may go in one step, at most."""
    return -(-limit // TURNOVER)
