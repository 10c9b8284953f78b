from __future__ import annotations

from uuid import uuid4

import pytest

from orchestrator.adapters.kafka import topics
from orchestrator.config import Settings
from tests.support.site import Site
from tests.support.world import T0, World


@pytest.fixture
async def site(engine, database_url, kafka, tmp_path) -> Site:
    settings = Settings(
        database_url=database_url,
        kafka_bootstrap=kafka,
        topic_prefix=f"{uuid4().hex[:8]}.",
        state_dir=tmp_path,
        instance=f"projector-{uuid4().hex[:8]}",
    )
    await topics.apply(kafka, settings.topic_prefix)
    world = World(engine)
    await world.setup()
    await world.rows("DELETE FROM projection_position RETURNING 1")
    campaign = await world.launch(max_in_flight={"initial": 500, "maximum": 500})
    await world.open_phase(campaign.campaign_id, 0, T0)
    await world.decisions.dispatch(campaign.campaign_id, 0, 500, T0)
    return Site(world, settings, tmp_path / "projector.log", await world.offered(campaign.campaign_no))
