"""``orchestrator.app.ports.Decisions`` on PostgreSQL: a façade over the transactions, each in its own module."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncEngine

from orchestrator.adapters.sql import closing
from orchestrator.adapters.sql.breaker import read_breaker
from orchestrator.adapters.sql.campaigns import CampaignNotFoundError
from orchestrator.adapters.sql.dispatch import dispatch
from orchestrator.adapters.sql.engine import transaction
from orchestrator.adapters.sql.enrolment import enrol
from orchestrator.adapters.sql.gate_reading import read_gate
from orchestrator.adapters.sql.health_gate import judge_health
from orchestrator.adapters.sql.joining import join
from orchestrator.adapters.sql.rules import RulesCache
from orchestrator.adapters.sql.sweep import sweep
from orchestrator.app.ports import BreakerReading, DeadlineSweep, DispatchedSlice, GateReading
from orchestrator.domain.campaign import Campaign


class SqlDecisions:
    """Decisions about devices. Shares one cache of dossiers; safe to call concurrently."""

    def __init__(self, engine: AsyncEngine, ids: AsyncEngine) -> None:
        """``ids`` reserves action ids while a slice holds a connection of ``engine``: of one pool, slices could starve each other."""
        self._engine = engine
        self._ids = ids
        self._cache = RulesCache()
        self._numbers: dict[str, int] = {}

    async def _no(self, campaign_id: str) -> int:
        if campaign_id not in self._numbers:
            async with transaction(self._engine) as conn:
                no = await conn.fetchval("SELECT campaign_no FROM campaign WHERE campaign_id = $1", campaign_id)
            if no is None:
                raise CampaignNotFoundError(f"There is no campaign {campaign_id}.")
            self._numbers[campaign_id] = no
        return self._numbers[campaign_id]

    async def enrol(self, campaign_id: str, now: int) -> Campaign:
        return await enrol(self._engine, self._cache, campaign_id, now)

    async def dispatch(self, campaign_id: str, phase: int, limit: int, now: int) -> DispatchedSlice:
        return await dispatch(self._engine, self._ids, self._cache, await self._no(campaign_id), phase, limit, now)

    async def sweep(self, campaign_id: str, now: int, facts_until: int) -> DeadlineSweep:
        return await sweep(self._engine, self._cache, await self._no(campaign_id), now, facts_until)

    async def judge_health(self, campaign_id: str, facts_until: int) -> bool:
        return await judge_health(self._engine, self._cache, await self._no(campaign_id), facts_until)

    async def close_withheld(self, campaign_id: str, now: int) -> dict[str, int]:
        return await closing.close_withheld(self._engine, await self._no(campaign_id), now)

    async def join(self, campaign_id: str, now: int) -> int:
        no = await self._no(campaign_id)
        rules = self._cache.known(no)
        if rules is None:
            async with transaction(self._engine) as conn:
                rules = (await self._cache.get(conn, [no])).get(no)
        if rules is None or rules.dossier.plan.cohort.membership != "continuous":
            return 0
        return await join(self._engine, rules, now)

    async def read_gate(self, campaign_id: str, phase: int, now: int) -> GateReading:
        return await read_gate(self._engine, self._cache, await self._no(campaign_id), phase, now)

    async def read_breaker(self, campaign_id: str, now: int, heard_until: int) -> BreakerReading | None:
        return await read_breaker(self._engine, self._cache, await self._no(campaign_id), now, heard_until)
