"""People who ask again until they are answered, each time under the same Idempotency-Key, so that the API may be killed under them.

What they were told is kept for the oracle: a command that was answered has taken effect once, one that was refused never.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final
from uuid import uuid4

from orchestrator.client.errors import ApiError, ApiUnreachableError
from orchestrator.client.models import CampaignDetail
from orchestrator.demo.operators import APPROVER, AUTHOR, Desk
from orchestrator.demo.system import System

PAUSE: Final = 0.3
"""Seconds before a request is sent again, on top of the client's own."""

PATIENCE: Final = 180.0
"""Seconds after which an API that does not answer counts as lost."""

_AGAIN: Final = frozenset({429, 500, 502, 503, 504})
_IN_FLIGHT: Final = "idempotency.in_flight"

EVENTS: Final = {
    "create": "CampaignCreated",
    "submit": "CampaignSubmitted",
    "approve": "CampaignApproved",
    "launch": "CampaignLaunched",
    "pause": "CampaignPaused",
    "resume": "CampaignResumed",
}
"""What a command leaves in the log when it takes effect."""


class Callers(Desk):
    """A desk whose people never give up."""

    def __init__(self, system: System) -> None:
        super().__init__(system, lambda _: None)
        self._asking: set[str] = set()
        self.told: Counter[tuple[str, str]] = Counter()
        """(campaign id, event type) to how often somebody was told that it was done."""

    @property
    def asking(self) -> bool:
        """Whether a request is unanswered at this moment."""
        return bool(self._asking)

    def act(
        self, who: str, campaign_id: str, action: str, *arguments: Any, version: int | None = None
    ) -> CampaignDetail:
        """Raises ApiError when it is refused."""
        client = self._clients[who]
        return self._ask(
            action, lambda key: client.act(campaign_id, action, *arguments, version=version, idempotency_key=key)
        )

    def create(self, name: str, plan: dict[str, Any]) -> CampaignDetail:
        return self._ask("create", lambda key: self._clients[AUTHOR].create_campaign(name, plan, idempotency_key=key))

    def _launch(self, name: str, plan: dict[str, Any]) -> str:
        draft = self.create(name, plan)
        campaign_id = draft["campaign_id"]
        submitted = self.act(AUTHOR, campaign_id, "submit", version=draft["version"])
        digest = {"digest": submitted["digest"]}
        approved = self.act(APPROVER, campaign_id, "approve", digest, version=submitted["version"])
        self.act(AUTHOR, campaign_id, "launch", version=approved["version"])
        return campaign_id

    def _ask(self, action: str, ask: Callable[[str], CampaignDetail]) -> CampaignDetail:
        key, deadline = uuid4().hex, time.monotonic() + PATIENCE
        self._asking.add(key)
        try:
            while True:
                try:
                    answer = ask(key)
                    break
                except ApiUnreachableError:
                    if time.monotonic() > deadline:
                        raise
                except ApiError as refusal:
                    if (refusal.status not in _AGAIN and refusal.code != _IN_FLIGHT) or time.monotonic() > deadline:
                        raise
                time.sleep(PAUSE)
        finally:
            self._asking.discard(key)
        self.told[answer["campaign_id"], EVENTS[action]] += 1
        return answer
