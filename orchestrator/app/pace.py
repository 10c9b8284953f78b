"""What people do to the pace of a campaign that runs: brake it, release the brake, propose other values.

Each is one command in one transaction of the store, exactly once under its command id. A brake is in force at its commit. A revision
is worked out before the transaction, from the dossier in force, and refused if that is another one by then.

Not here: approving a revision, which is approving like any other (:mod:`orchestrator.app.campaigns`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from orchestrator.app.campaigns import require_reason
from orchestrator.app.ports import CampaignStore, Executed, Meta, Standing
from orchestrator.app.registry import Traceparent, untraced
from orchestrator.domain import campaign as c
from orchestrator.domain.brake import Brake
from orchestrator.domain.dossier import Dossier, dossier_digest
from orchestrator.domain.revision import revised


class PaceCommands:
    """Each raises CampaignTransitionError, NotFoundError, VersionConflictError, and ReasonError without a reason."""

    def __init__(self, store: CampaignStore, *, traceparent: Traceparent = untraced) -> None:
        self._store = store
        self._traceparent = traceparent

    async def brake(self, campaign_id: str, limits: Brake, reason: str, *, actor: str, command_id: str) -> Executed:
        """Lower rate, devices in flight or both from this commit on. Never refused for being stale.

        Raises NoLimitError, LoosensError and AboveApprovedError.
        """
        require_reason(reason)

        def build(_: c.Campaign, standing: Standing) -> c.Command:
            return c.ApplyBrake(actor=actor, reason=reason, limits=limits, ledger_position=standing.ledger_position)

        return await self._store.execute(campaign_id, build, command_id=command_id, meta=self._meta(actor, reason))

    async def release_brake(
        self,
        campaign_id: str,
        left: Brake,
        reason: str,
        *,
        actor: str,
        command_id: str,
        expected_version: int | None = None,
    ) -> Executed:
        """Loosen the brake to what is ``left`` of it, or take it off. Raises TightensError and AboveApprovedError."""
        require_reason(reason)

        def build(_: c.Campaign, standing: Standing) -> c.Command:
            return c.ReleaseBrake(actor=actor, reason=reason, left=left, ledger_position=standing.ledger_position)

        return await self._store.execute(
            campaign_id,
            build,
            command_id=command_id,
            meta=self._meta(actor, reason),
            expected_version=expected_version,
        )

    async def revise(
        self,
        campaign_id: str,
        changes: Mapping[str, Any],
        reason: str,
        *,
        actor: str,
        command_id: str,
        expected_version: int | None = None,
    ) -> Executed:
        """Propose another pace; it changes nothing before it is approved. Raises PlanError, UnchangedError, StaleRevisionError."""
        require_reason(reason)
        campaign = await self._store.load(campaign_id)
        replaces, digest, dossier = campaign.digest or "", "", dict[str, Any]()
        if campaign.state in c.LIVE:  # a command in any other state is refused for that
            # Its tables are as long as a fleet is large: not on the event loop.
            digest, dossier = await asyncio.to_thread(_worked_out, campaign.dossier, changes)

        def build(_: c.Campaign, __: Standing) -> c.Command:
            return c.Revise(actor=actor, reason=reason, replaces=replaces, digest=digest, dossier=dossier)

        return await self._store.execute(
            campaign_id,
            build,
            command_id=command_id,
            meta=self._meta(actor, reason),
            expected_version=expected_version,
        )

    def _meta(self, actor: str, reason: str) -> Meta:
        return Meta(actor=actor, reason=reason, traceparent=self._traceparent())


def _worked_out(dossier: dict[str, Any], changes: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    found = revised(Dossier.model_validate(dossier), changes)
    return dossier_digest(found), found.canonical()
