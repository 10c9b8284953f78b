"""What another halt policy would have done with a campaign, beside what really happened. A read: nothing is decided.

The answer names the positions of the logs that it stands on, and the assumption that it makes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from msgspec import Struct

from orchestrator.app.ports import Recorded
from orchestrator.domain import campaign as c
from orchestrator.domain.backtest import (
    Course,
    Replay,
    StratumWouldHalt,
    Tally,
    WouldHalt,
    parse_policy,
    policy_tables,
)
from orchestrator.domain.dossier import Dossier
from orchestrator.domain.halt_rule import HaltTable, false_halt_bound
from orchestrator.errors import ConflictError
from schemas import campaign_events as e

ASSUMPTION: Final = (
    "Offers and reports went as they really went until the policy halts, each report heard when it was recorded. "
    "A live gate hears of reports a little later, when more devices have started."
)


class NotLaunchedError(ConflictError):
    """The campaign has not been launched: nothing has happened yet."""

    code = "backtest.not_launched"
    remedy = "`ota campaign preview` shows what a plan means before it is launched."


class Basis(Struct, frozen=True, kw_only=True):
    """How far the logs had been read: the answer follows from what they hold up to here."""

    events: int
    """Position of the event log."""
    decisions: int
    """Position of the decision ledger."""
    facts: dict[str, int]
    """Partition of the log of facts to the first offset that had not been projected."""


class RuleAsked(Struct, frozen=True, kw_only=True):
    name: str
    test: str
    scope: str
    halts: str
    p0: float
    alpha: float | None
    """Of one process; None for a threshold."""
    min_failures: int


class ActualHalt(Struct, frozen=True, kw_only=True):
    """A halt that really happened."""

    at: int
    by: str
    phase: int | None
    gate_epoch: int
    stratum: str | None
    """The stratum that was halted alone; None if the campaign was."""
    rule: str | None
    """None for a halt that people or an external gate ordered, as all numbers of the rule."""
    scope: str | None
    n: int | None
    f: int | None
    bound: int | None
    position: int
    """Head of the ledger at the halt."""
    exposed: int
    """Devices that had started by then, in all epochs."""
    failures: int


class Actual(Struct, frozen=True, kw_only=True):
    """What really happened."""

    state: str
    ended_at: int | None
    halts: list[ActualHalt]
    exposed: int
    """Devices that started up to now."""
    failures: int


class Backtest(Struct, frozen=True, kw_only=True):
    """A policy's answer beside the campaign's."""

    campaign_id: str
    name: str
    own_rules: bool
    """The plan's own rules were asked."""
    rules: list[RuleAsked]
    left_out: list[str]
    """The plan's own rules on health, which are not replayed."""
    false_halt_at_most: float
    """Probability that the policy halts a good release in one gate epoch; thresholds promise nothing and are left out."""
    halt: WouldHalt | None
    """None: the policy would not have halted the campaign."""
    strata: list[StratumWouldHalt]
    """Strata that it would have halted alone."""
    spared: int
    """Devices that started after the policy's halt of the campaign."""
    actual: Actual
    assumption: str
    basis: Basis


@dataclass(frozen=True, slots=True)
class Told:
    """A campaign's past, of one snapshot."""

    recorded: Sequence[Recorded]
    """Its stream."""
    dossier: Dossier | None
    """What it runs under; None before it is submitted."""
    tallies: AsyncIterator[Sequence[Tally]]
    """Starts and failures in the order of their moments; to be read while the snapshot is open."""
    basis: Basis


class CampaignHistory(Protocol):
    """The past of campaigns, as the logs tell it."""

    def told(self, campaign_id: str) -> AbstractAsyncContextManager[Told]:
        """Open a snapshot. Raises NotFoundError (``campaign.not_found``)."""
        ...


class Backtests:
    """The use case."""

    def __init__(self, history: CampaignHistory) -> None:
        self._history = history

    async def run(self, campaign_id: str, policy: Mapping[str, Any] | None = None) -> Backtest:
        """Replay the campaign under ``policy``, or under its own rules.

        Raises:
            NotFoundError: there is no such campaign.
            NotLaunchedError: nothing has happened yet.
            PlanError: the policy is not valid, with every problem.
            UnsupportedRuleError: it has a rule that cannot be replayed.
        """
        parsed = None if policy is None else parse_policy(policy)
        async with self._history.told(campaign_id) as told:
            launched = any(isinstance(item.event, e.CampaignLaunched) for item in told.recorded)
            if told.dossier is None or not launched:
                raise NotLaunchedError
            # A rule takes about a second for a million devices, judging a long campaign more: not on the event loop.
            tables = (
                told.dossier.rules if parsed is None else await asyncio.to_thread(policy_tables, parsed, told.dossier)
            )
            halts = [item for item in told.recorded if isinstance(item.event, e.CampaignHalted | e.StratumHalted)]
            replay = Replay(tables, _course(told.recorded, told.dossier), [item.recorded_at for item in halts])
            async for tallies in told.tallies:
                await asyncio.to_thread(replay.take, tallies)
            await asyncio.to_thread(replay.finish)
        return _answer(told, tables, replay, halts, own=parsed is None)


def _course(recorded: Sequence[Recorded], dossier: Dossier) -> Course:
    epochs: list[tuple[int, int]] = []
    ended: int | None = None
    for item in recorded:
        match item.event:
            case e.CampaignLaunched() | e.CampaignResumed():
                if not epochs or epochs[-1][1] != item.event.gate_epoch:
                    epochs.append((item.recorded_at, item.event.gate_epoch))
            case e.CampaignAborted() | e.CampaignCompleted():
                ended = item.recorded_at
            case _:
                pass
    return Course(
        strata=tuple(key for key, size in dossier.strata.items() if size),
        epochs=tuple(epochs),
        phases=tuple((i.event.at, i.event.phase) for i in recorded if isinstance(i.event, e.PhaseOpened)),
        ended_at=ended,
    )


def _answer(
    told: Told, tables: Sequence[HaltTable], replay: Replay, halts: Sequence[Recorded], *, own: bool
) -> Backtest:
    campaign = c.fold([item.event for item in told.recorded])
    assert campaign.state is not None
    ended = next(
        (i.recorded_at for i in told.recorded if isinstance(i.event, e.CampaignAborted | e.CampaignCompleted)), None
    )
    # A rule's share of alpha: what one process has, times its processes.
    spent = [{"alpha": None if t.alpha is None else t.alpha * t.processes} for t in tables]
    return Backtest(
        campaign_id=campaign.campaign_id,
        name=campaign.name,
        own_rules=own,
        rules=[
            RuleAsked(
                name=table.name,
                test=table.test,
                scope=table.scope,
                halts=table.halts,
                p0=table.p0,
                alpha=table.alpha,
                min_failures=table.min_failures,
            )
            for table in tables
        ],
        left_out=[gate.name for gate in told.dossier.health] if own and told.dossier is not None else [],
        false_halt_at_most=false_halt_bound(spent, 1),
        halt=replay.halt,
        strata=replay.strata,
        spared=0 if replay.halt is None else replay.total.exposed - replay.halt.exposed,
        actual=Actual(
            state=campaign.state.value,
            ended_at=ended,
            halts=[_actual(item, replay) for item in halts],
            exposed=replay.total.exposed,
            failures=replay.total.failures,
        ),
        assumption=ASSUMPTION,
        basis=told.basis,
    )


def _actual(item: Recorded, replay: Replay) -> ActualHalt:
    event: e.CampaignHalted | e.StratumHalted = item.event
    exposure = replay.exposure(item.recorded_at)
    return ActualHalt(
        at=item.recorded_at,
        by="gate" if isinstance(event, e.StratumHalted) else event.by,
        phase=event.phase,
        gate_epoch=event.gate_epoch,
        stratum=event.stratum if isinstance(event, e.StratumHalted) else None,
        rule=event.rule,
        scope=f"stratum/{event.stratum}" if isinstance(event, e.StratumHalted) else event.scope,
        n=event.n,
        f=event.f,
        bound=event.bound,
        position=event.ledger_position,
        exposed=exposure.exposed,
        failures=exposure.failures,
    )
