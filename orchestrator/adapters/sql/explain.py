"""``orchestrator.app.explain.ExplainReads`` on PostgreSQL: each reading of one snapshot."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.sql.engine import driver
from orchestrator.adapters.sql.explain_campaign import read_campaign
from orchestrator.adapters.sql.explain_device import read_device
from orchestrator.adapters.sql.rules import RulesCache
from orchestrator.app.explain import CampaignReading, DeviceReading


class SqlExplain:
    """Reads for people who ask why. Safe to call concurrently."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._cache = RulesCache()

    async def campaign(self, campaign_id: str, now: int) -> CampaignReading:
        async with driver(self._engine) as conn, conn.transaction(isolation="repeatable_read", readonly=True):
            return await read_campaign(conn, self._cache, campaign_id, now)

    async def device(self, device_id: str, campaign_id: str | None, now: int) -> DeviceReading:
        async with driver(self._engine) as conn, conn.transaction(isolation="repeatable_read", readonly=True):
            return await read_device(conn, self._cache, device_id, campaign_id, now)
