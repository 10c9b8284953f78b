"""Verdicts of external gates: what laboratories and test benches say of a phase.

One command in one transaction, exactly once under its command id. A verdict that halts has halted when this returns.

Not here: who may speak (a scope, or the signature of a webhook's answer; both belong to the API).
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from orchestrator.app.campaigns import require_reason
from orchestrator.app.ports import CampaignStore, Meta, Standing
from orchestrator.app.registry import Traceparent, untraced
from orchestrator.domain import campaign as c
from orchestrator.domain.gate import Verdict
from orchestrator.errors import InvalidInputError
from schemas.campaign_events import ExternalVerdictGiven

MAX_EVIDENCE: Final = 2_000
"""Characters of the address of the evidence."""


class VerdictError(InvalidInputError):
    """That is no verdict of an external gate."""

    code = "campaign.external.verdict"
    remedy = "Say promote, hold or halt; evidence, if there is any, by an http or https address."


class Given(Struct, frozen=True, kw_only=True):
    """What became of a verdict."""

    campaign_id: str
    phase: int
    gate: str
    verdict: str
    gate_epoch: int
    state: str
    """Of the campaign, after it."""


class ExternalVerdicts:
    """The one thing that external gates may do."""

    def __init__(self, store: CampaignStore, *, traceparent: Traceparent = untraced) -> None:
        self._store = store
        self._traceparent = traceparent

    async def give(
        self,
        campaign_id: str,
        phase: int,
        gate: str,
        verdict: str,
        reason: str,
        *,
        actor: str,
        command_id: str,
        evidence: str | None = None,
        gate_epoch: int | None = None,
    ) -> Given:
        """Record the verdict; the last one of a gate counts. ``gate_epoch`` refuses it if the question was of another epoch.

        Raises NotFoundError, VerdictError, ReasonError, CampaignTransitionError, ExternalEpochError.
        """
        require_reason(reason)
        if verdict not in set(Verdict):
            raise VerdictError(f"{verdict[:64]!r} is no verdict.")
        if evidence is not None and not (
            evidence.startswith(("https://", "http://")) and len(evidence) <= MAX_EVIDENCE
        ):
            raise VerdictError("The evidence is no http or https address.")

        def build(_: c.Campaign, standing: Standing) -> c.Command:
            return c.GiveVerdict(
                phase=phase,
                gate=gate,
                verdict=verdict,
                reason=reason,
                evidence=evidence,
                gate_epoch=gate_epoch,
                at=standing.now,
                ledger_position=standing.ledger_position,
                actor=actor,
            )

        meta = Meta(actor=actor, reason=reason, traceparent=self._traceparent())
        done = await self._store.execute(campaign_id, build, command_id=command_id, meta=meta)
        first = done.events[0].event if done.events else None
        said = first if isinstance(first, ExternalVerdictGiven) else None
        return Given(
            campaign_id=campaign_id,
            phase=phase,
            gate=gate,
            verdict=said.verdict if said else verdict,
            gate_epoch=said.gate_epoch if said else done.campaign.gate_epoch,
            state=str(done.campaign.state),
        )
