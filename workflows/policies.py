"""How long steps may take and how they are tried again.

Every step is idempotent, so trying again is always right; what cannot get better by itself is raised non-retryable by the activity.
"Not yet" is a benign failure that brings its own delay: looking again costs no history event, however often it happens.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from temporalio.common import RetryPolicy

NOT_YET: Final = "not_yet"
"""Type of the benign failure."""

BEATS: Final = 4
"""Heartbeats within the time after which an activity counts as lost."""

QUICK: Final = timedelta(seconds=30)
"""Longest attempt of a look: some statements, or a bounded wait for the projection."""

LONG: Final = timedelta(minutes=10)
"""Longest attempt that writes: enrolling a million devices takes minutes."""

TURN: Final = timedelta(seconds=30)
"""How long one attempt of the dispatcher goes on before it lets go of its slot."""

RETRY: Final = RetryPolicy(
    initial_interval=timedelta(milliseconds=500), backoff_coefficient=2.0, maximum_interval=timedelta(seconds=5)
)
"""For real failures, which are the database or the broker restarting: a campaign should go on soon after they are back."""
