"""What was and what would have been, over the operator API. See ``models`` for what holds of all."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from api.operator.models import Input, Output, Time


class Basis(Output):
    """How far the logs had been read for this answer."""

    events: int
    decisions: int
    facts: dict[str, int] = Field(description="Partition of the log of facts to the first offset not projected.")


class RanCount(Output):
    hardware_model: str
    release_id: str | None = Field(description="Null where it is no known release, or nothing is known.")
    version: str | None
    digest: str | None
    source: str = Field(description="confirmed, reported or unknown: whose statement decides.")
    devices: int


class CampaignAsOf(Output):
    campaign_id: str
    name: str
    release_id: str
    state: str
    since: Time
    position: int = Field(description="Of the event that brought it there.")
    in_flight: int
    in_trial: int
    devices: dict[str, int] = Field(description="Devices by assignment state.")


class FleetAsOf(Output):
    at: Time
    devices: int
    ran: list[RanCount]
    other: int = Field(description="Devices in counts that are too many to list.")
    campaigns: list[CampaignAsOf]
    campaigns_left_out: int
    basis: Basis = Field(description="Last positions that the logs held by then.")


class Ran(Output):
    source: str
    release_id: str | None
    version: str | None
    digest: str | None


class AssignmentAsOf(Output):
    campaign_id: str
    campaign_name: str
    release_id: str
    phase: int
    stratum: str
    attempt: int
    action_id: int
    state: str
    changed_at: Time
    offered_at: Time
    started_at: Time | None
    failure_class: str | None
    reason: str | None


class DeviceAsOf(Output):
    at: Time
    device_no: int
    device_id: str
    hardware_model: str
    registered_at: Time
    version: str | None = Field(description="As it last reported.")
    version_at: Time | None
    digest: str | None
    digest_at: Time | None
    confirmed_campaign_id: str | None = Field(description="Of the release that it confirmed last.")
    confirmed_at: Time | None
    ran: Ran
    assignments: list[AssignmentAsOf]
    basis: Basis


class BacktestInput(Input):
    policy: dict[str, Any] | None = Field(
        None, description="`halt`: rules as in a plan. Null replays the plan's own rules."
    )


class RuleAsked(Output):
    name: str
    test: str
    scope: str
    halts: str
    p0: float
    alpha: float | None
    min_failures: int


class WouldHalt(Output):
    at: Time = Field(description="When the crossing failure was recorded.")
    phase: int | None
    gate_epoch: int
    rule: str
    scope: str
    n: int
    f: int
    bound: int
    log_e: float | None
    p0: float
    alpha: float | None
    reason: str
    exposed: int = Field(description="Devices of the campaign that had started by then, in all gate epochs.")
    failures: int = Field(description="Release failures that had been recorded by then.")


class StratumWouldHalt(Output):
    stratum: str
    halt: WouldHalt
    started_after: int = Field(description="Devices of the stratum that started later.")


class ActualHalt(Output):
    at: Time
    by: str
    phase: int | None
    gate_epoch: int
    stratum: str | None = Field(description="The stratum that was halted alone; null if the campaign was.")
    rule: str | None
    scope: str | None
    n: int | None
    f: int | None
    bound: int | None
    position: int
    exposed: int
    failures: int


class Actual(Output):
    state: str
    ended_at: Time | None
    halts: list[ActualHalt]
    exposed: int
    failures: int


class Backtest(Output):
    campaign_id: str
    name: str
    own_rules: bool
    rules: list[RuleAsked]
    left_out: list[str] = Field(description="The plan's own rules on health: they are not replayed.")
    false_halt_at_most: float = Field(description="Of the policy in one gate epoch; thresholds promise nothing.")
    halt: WouldHalt | None = Field(description="Null: the policy would not have halted the campaign.")
    strata: list[StratumWouldHalt] = Field(description="Strata that it would have halted alone.")
    spared: int = Field(description="Devices that started after the policy's halt of the campaign.")
    actual: Actual = Field(description="What really happened.")
    assumption: str
    basis: Basis
