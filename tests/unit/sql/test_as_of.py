"""What the history takes for a campaign's state is what the campaign's own fold says, event by event."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orchestrator.adapters.sql.as_of import MOVES
from orchestrator.domain import campaign as c
from orchestrator.domain.breaker import Breaker, Stage
from orchestrator.domain.revision import Revision
from schemas.campaign_events import EVENT_TYPES, CampaignApproved, CohortEnrolled
from tests.support.world import plan

GOLDEN = Path(__file__).parents[3] / "schemas" / "golden"
HELD = Breaker(stage=Stage.OPEN, pauses=((1, 2),))
ENROLLED = CohortEnrolled(members=2, holdback=0, strata={"all": 2}, phases=[1, 1], ledger_position=1)
REVISION = Revision(digest="sha256:b", dossier={"plan": plan()}, actor="ann", reason="faster")


@pytest.mark.parametrize("name", sorted(EVENT_TYPES))
@pytest.mark.parametrize("state", [c.CampaignState.DRAFT, c.CampaignState.PAUSED])
def test_an_event_leads_to_the_state_that_its_type_stands_for(name, state):
    event: Any = msgspec.convert(json.loads((GOLDEN / f"{name}.v1.json").read_text()), EVENT_TYPES[name])
    before = c.Campaign(
        state=state,
        plan=plan(),
        dossier={"plan": plan()},
        phase=0,
        revision=REVISION,
        breaker=HELD,
        enrolment=ENROLLED,
    )
    assert c.evolve(before, event).state is MOVES.get(name, state)


def test_an_approval_that_others_must_follow_leaves_the_campaign_submitted():
    event = CampaignApproved(actor="bob", digest="d", complete=False)
    assert c.evolve(c.Campaign(state=c.CampaignState.SUBMITTED), event).state is c.CampaignState.SUBMITTED
