"""What a transaction must know of a campaign's frozen dossier, cached.

A revision puts another dossier into force and changes the pace in it, nothing else (:mod:`orchestrator.domain.revision`). So whoever
asks for strata, halt tables, deadlines or the schedule may go on with a dossier of before (``get``); whoever paces asks for the one
that is in force (``current``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import asyncpg

from orchestrator.domain import breaker
from orchestrator.domain.assignment import bucket_ms
from orchestrator.domain.dossier import Dossier
from orchestrator.domain.window import ALWAYS


@dataclass(frozen=True, slots=True)
class CampaignRules:
    """One campaign's dossier with the derived numbers of hot transactions."""

    campaign_no: int
    campaign_id: str
    release_id: str
    dossier: Dossier
    strata: tuple[str, ...]
    """Stratum keys by stratum number: the dossier's, sorted."""
    bucket: int
    """Width of a maturity bucket, ms."""
    delivery: int | None
    """Width of a bucket of the breaker's counts, ms; None without a breaker."""

    @property
    def offer_ttl(self) -> int:
        return self.dossier.plan.offer_ttl

    @property
    def holds_starts(self) -> bool:
        """Whether an offer may have to wait before it is shown and started, also if its device's owner has said nothing."""
        plan = self.dossier.plan
        return (
            plan.schedule != ALWAYS
            or plan.preconditions is not None
            or plan.owner.consent == "required"
            or any(phase.jitter is not None for phase in plan.phases)
        )

    @property
    def confirm_deadline(self) -> int:
        return self.dossier.plan.confirm_deadline


class RulesCache:
    """Rules by campaign number, filled on demand inside the caller's transaction."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[str, CampaignRules]] = {}

    def known(self, campaign_no: int) -> CampaignRules | None:
        """Rules that are here already."""
        return self._known[campaign_no][1] if campaign_no in self._known else None

    async def get(self, conn: asyncpg.Connection, campaign_nos: Iterable[int]) -> dict[int, CampaignRules]:
        """Rules of these campaigns. A campaign that was never submitted has none and cannot have assignments."""
        wanted = set(campaign_nos)
        await self._read(conn, [no for no in wanted if no not in self._known])
        return {no: self._known[no][1] for no in wanted if no in self._known}

    async def current(self, conn: asyncpg.Connection, campaign_nos: Iterable[int]) -> dict[int, CampaignRules]:
        """Rules by the dossier that is in force in the transaction's next statement: the pace is of the last revision."""
        wanted = set(campaign_nos)
        rows = await conn.fetch(
            "SELECT campaign_no, digest FROM campaign WHERE campaign_no = ANY($1::int[]) AND digest IS NOT NULL", wanted
        )
        await self._read(conn, [row["campaign_no"] for row in rows if not self._knows(*row)])
        return {no: self._known[no][1] for no in wanted if no in self._known}

    def _knows(self, campaign_no: int, digest: str) -> bool:
        known = self._known.get(campaign_no)
        return known is not None and known[0] == digest

    async def _read(self, conn: asyncpg.Connection, campaign_nos: Sequence[int]) -> None:
        if not campaign_nos:
            return
        rows = await conn.fetch(
            "SELECT campaign_no, campaign_id, release_id, digest, dossier FROM campaign"
            " WHERE campaign_no = ANY($1::int[]) AND digest IS NOT NULL",
            campaign_nos,
        )
        for row in rows:
            self._known[row["campaign_no"]] = (row["digest"], parse(row))


def parse(row: asyncpg.Record) -> CampaignRules:
    """Rules from a row of ``campaign``."""
    dossier = Dossier.model_validate(row["dossier"])
    return CampaignRules(
        campaign_no=row["campaign_no"],
        campaign_id=row["campaign_id"],
        release_id=row["release_id"],
        dossier=dossier,
        strata=tuple(sorted(dossier.strata)),
        bucket=bucket_ms(dossier.plan.confirm_deadline),
        delivery=None if dossier.plan.breaker is None else breaker.bucket_ms(dossier.plan.breaker),
    )
