"""What the operator API needs from the rest of the system."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Annotated

from fastapi import Depends, Request

from api.paging import Cursors
from orchestrator.app.as_of import AsOf
from orchestrator.app.backtest import Backtests
from orchestrator.app.campaigns import Campaigns
from orchestrator.app.devices import Devices
from orchestrator.app.explain import Explanations
from orchestrator.app.fleet import FleetCommands
from orchestrator.app.idempotency import Answers
from orchestrator.app.keys import ApiKeys
from orchestrator.app.owners import OwnerWills
from orchestrator.app.pace import PaceCommands
from orchestrator.app.queries import Queries
from orchestrator.app.releases import Releases
from orchestrator.app.remediation import Remediations
from orchestrator.app.verdicts import ExternalVerdicts
from orchestrator.app.webhooks import Webhooks
from orchestrator.config import Settings
from orchestrator.telemetry.health import Check


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorServices:
    """Everything the operator API is made of. Whoever makes these starts and stops them."""

    settings: Settings
    campaigns: Campaigns
    pace: PaceCommands
    remediations: Remediations
    verdicts: ExternalVerdicts
    webhooks: Webhooks
    releases: Releases
    devices: Devices
    owners: OwnerWills
    keys: ApiKeys
    queries: Queries
    backtests: Backtests
    as_of: AsOf
    explanations: Explanations
    fleet: FleetCommands
    answers: Answers
    clock: Callable[[], int]
    """Milliseconds since the epoch."""
    metrics: Callable[[], bytes]
    """Everything measured so far, in Prometheus' text format."""
    readiness: Sequence[Check] = ()
    transient: tuple[type[Exception], ...] = (OSError, TimeoutError)
    """Errors of the database that pass by themselves: 503."""
    traceparent: Callable[[], str | None] = lambda: None
    """Context of the current span."""
    cursors: Cursors = field(init=False)

    def __post_init__(self) -> None:
        # A key of its own would be one more secret to hand out; all processes of a deployment have this one in common.
        secret = sha256(b"cursor\0" + self.settings.database_url.encode()).digest()
        object.__setattr__(self, "cursors", Cursors(secret))


def _services(request: Request) -> OperatorServices:
    return request.app.state.services


Services = Annotated[OperatorServices, Depends(_services)]
