"""What a transaction must know of a campaign's frozen dossier. Dossiers never change once submitted, so they are cached."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import asyncpg

from orchestrator.domain import breaker
from orchestrator.domain.assignment import bucket_ms
from orchestrator.domain.dossier import Dossier


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
    def confirm_deadline(self) -> int:
        return self.dossier.plan.confirm_deadline


class RulesCache:
    """Rules by campaign number, filled on demand inside the caller's transaction."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[str, CampaignRules]] = {}

    async def get(self, conn: asyncpg.Connection, campaign_nos: Iterable[int]) -> dict[int, CampaignRules]:
        """Rules of these campaigns. A campaign that was never submitted has none and cannot have assignments."""
        wanted = set(campaign_nos)
        missing = [no for no in wanted if no not in self._known]
        if missing:
            rows = await conn.fetch(
                "SELECT campaign_no, campaign_id, release_id, digest, dossier FROM campaign"
                " WHERE campaign_no = ANY($1::int[]) AND digest IS NOT NULL",
                missing,
            )
            for row in rows:
                self._known[row["campaign_no"]] = (row["digest"], parse(row))
        return {no: self._known[no][1] for no in wanted if no in self._known}


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
