"""What the process manager reports of a campaign, as events. Repetition is harmless: a step already taken gives no event.

Not here: commands of people and verdicts of the gate (``campaign``).
"""

from __future__ import annotations

from orchestrator.domain._campaign_state import (
    LIVE,
    Campaign,
    CampaignState,
    CampaignTransitionError,
    PhaseState,
    only,
    require,
    told,
)
from orchestrator.domain.commands import (
    Complete,
    EndSoak,
    Enrol,
    Join,
    OpenPhase,
    OutlastHold,
    Promote,
    StartSoak,
)
from orchestrator.domain.external import missing
from schemas import campaign_events as e


def progress(
    campaign: Campaign, command: Enrol | Join | OpenPhase | StartSoak | EndSoak | OutlastHold | Promote | Complete
) -> list[e.CampaignEvent]:
    """What the process manager reports. Repetition is harmless: a step already taken gives no event."""
    match command:
        case Enrol():
            if campaign.enrolled:
                return []
            require(campaign, LIVE, "enrolling")
            return [
                e.CohortEnrolled(
                    members=command.members,
                    holdback=command.holdback,
                    strata=command.strata,
                    phases=command.phases,
                    ledger_position=command.ledger_position,
                )
            ]
        case Join():
            require(campaign, only(CampaignState.RUNNING), "joining")
            if not campaign.enrolled:
                raise CampaignTransitionError("Nobody joins a campaign before its cohort is enrolled.")
            return [
                e.MembersJoined(
                    members=command.members,
                    holdback=command.holdback,
                    strata=command.strata,
                    phases=command.phases,
                    refused=command.refused,
                    cut=command.cut,
                    at=command.at,
                    ledger_position=command.ledger_position,
                )
            ]
        case OpenPhase():
            if command.phase <= campaign.phase:
                return []
            require(campaign, only(CampaignState.RUNNING), "opening a phase")
            if command.phase != campaign.phase + 1 or (
                campaign.phase >= 0 and campaign.phase_state is not PhaseState.PROMOTED
            ):
                raise CampaignTransitionError(
                    f"Phase {command.phase} cannot open after phase {campaign.phase} ({campaign.phase_state})."
                )
            return [
                e.PhaseOpened(
                    phase=command.phase,
                    name=campaign.phases[command.phase]["name"],
                    devices=command.devices,
                    at=command.at,
                    ledger_position=command.ledger_position,
                )
            ]
        case StartSoak():
            if command.phase != campaign.phase or campaign.phase_state is not PhaseState.OPEN:
                return []
            require(campaign, only(CampaignState.RUNNING), "soaking")
            plan = campaign.phases[command.phase]
            return [
                e.SoakStarted(
                    phase=command.phase,
                    at=command.at,
                    until=command.at + plan["soak"],
                    gate_epoch=campaign.gate_epoch,
                    external=list(missing(plan, command.phase, campaign.verdicts)),
                )
            ]
        case EndSoak():
            if not _soaking(campaign, command.phase) or campaign.soak_ended_at is not None:
                return []
            require(campaign, only(CampaignState.RUNNING), "ending a soak")
            return [
                e.SoakEnded(
                    phase=command.phase,
                    at=command.at,
                    gate_epoch=campaign.gate_epoch,
                    matured=command.matured,
                    wanted=campaign.phases[command.phase].get("soak_devices") or 0,
                )
            ]
        case OutlastHold():
            hold = command.event
            current = campaign.state is CampaignState.RUNNING and hold.gate_epoch == campaign.gate_epoch
            if not current or not _soaking(campaign, hold.phase) or told(campaign, hold):
                return []
            return [hold]
        case Promote():
            if command.phase != campaign.phase or campaign.phase_state is PhaseState.PROMOTED:
                return []
            require(campaign, only(CampaignState.RUNNING), "promoting")
            if campaign.phase_state is not PhaseState.SOAKING:
                raise CampaignTransitionError(f"Phase {command.phase} has not soaked.")
            promote: dict[str, float] = campaign.phases[command.phase].get("promote") or {}
            return [
                e.PhasePromoted(
                    phase=command.phase,
                    matured=command.matured,
                    failures=command.failures,
                    log_e=command.log_e,
                    p1=promote.get("p1"),
                    beta=promote.get("beta"),
                    at=command.at,
                    ledger_position=command.ledger_position,
                    ledger_digest=command.ledger_digest,
                )
            ]
        case Complete():
            if campaign.state is CampaignState.COMPLETED:
                return []
            require(campaign, only(CampaignState.RUNNING), "completing")
            if campaign.phase != len(campaign.phases) - 1 or campaign.phase_state is not PhaseState.PROMOTED:
                raise CampaignTransitionError("The last phase is not closed.")
            return [
                e.CampaignCompleted(
                    at=command.at,
                    ledger_position=command.ledger_position,
                    confirmed=command.confirmed,
                    failed=command.failed,
                    withheld=command.withheld,
                )
            ]


def _soaking(campaign: Campaign, phase: int) -> bool:
    return phase == campaign.phase and campaign.phase_state is PhaseState.SOAKING
