"""Two campaigns over one fleet, with reports that come late, twice and in any order, and people who do what they like."""

from __future__ import annotations

import random
from contextlib import suppress
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from orchestrator.domain import campaign as c
from orchestrator.domain.assignment import ACTIVE, IN_TRIAL, Assignment, Observation, State, contributions
from orchestrator.domain.blast import phase_bounds
from orchestrator.domain.gate import Cell, judge
from orchestrator.domain.visibility import Shown
from orchestrator.errors import ConflictError, ForbiddenError
from schemas.campaign_events import CampaignHalted, CampaignResumed, StratumHalted
from schemas.ledger import Kind
from tests.support.rollout import DEADLINE, TTL, Fleet, Rollout, plan_of

ON_THE_WAY = [State.ACCEPTED, State.DOWNLOADING, State.INSTALLED, State.TRIAL]
GOOD = [*ON_THE_WAY, (State.CONFIRMED, None)]
OTHERS = [
    [*ON_THE_WAY, (State.REVERTED, "boot")],
    [*GOOD, (State.FAILED, "health")],
    [State.DOWNLOADING, (State.FAILED, "install")],
    [State.DOWNLOADING, (State.FAILED, "transport")],
    [(State.REJECTED, None)],
    *(ON_THE_WAY[:told] for told in range(5)),  # falls silent
]
"""What devices say until they say no more."""


class RolloutMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.fleet = Fleet({no: "sensor" if no % 3 else "gateway" for no in range(1, 61)})
        self.rollouts: list[Rollout] = []
        self.network: list[tuple[Rollout, int, int, State, str | None, int]] = []
        """(campaign, device, attempt, what it says, failure class, gate epoch of its offer)"""
        self.bad = 0.0
        """Share of devices whose story is not the good one."""
        self.known: dict[Rollout, int] = {}
        """Failures of devices that were in flight until then, in the first gate epoch: what the printed bound is about."""

    @initialize(bad=st.sampled_from([0.6, 0.3, 0.1, 0.0]))
    def launch(self, bad: float) -> None:
        self.bad = bad
        for number in (1, 2):
            rollout = Rollout(self.fleet, number, plan_of(f"salt {number}"))
            self.rollouts.append(rollout)
            self.known[rollout] = 0

    # ---- time and decisions

    @rule(ms=st.sampled_from([1, 20, 60, TTL, DEADLINE]))
    def time_passes(self, ms: int) -> None:
        self.fleet.now += ms

    @rule(which=st.integers(0, 1), rounds=st.integers(1, 6), dice=st.randoms(use_true_random=False))
    def work(self, which: int, rounds: int, dice: random.Random) -> None:
        """What workers, gateways, devices and the projector do in a while; less at a time makes histories that lead nowhere."""
        rollout = self.rollouts[which]
        for _ in range(rounds):
            rollout.advance()
            self._offer(rollout, dice.randint(1, 8))
            self._start(rollout, dice)
            self._hear(dice, dice.randint(0, 30))
            self.fleet.now += dice.choice([1, 20, 60])

    def _offer(self, rollout: Rollout, most: int) -> None:
        holders = {no for other in self.rollouts for no, row in other.rows.items() if _busy(row)}
        given = rollout.offer(most)
        assert not holders.intersection(given), "a device that is busy or in trial is offered nothing"
        if given:
            assert rollout.in_flight <= rollout.highest_cap
            assert rollout.running

    def _start(self, rollout: Rollout, dice: random.Random) -> None:
        waiting = [no for no, row in rollout.rows.items() if row.state is State.OFFERED]
        for device in dice.sample(waiting, dice.randint(0, len(waiting))):
            story = dice.choice(OTHERS) if dice.random() < self.bad else GOOD
            seen = rollout.sees(device)
            started = rollout.start(device)
            assert not started or seen is Shown.DEPLOYMENT, "nothing is started that is not shown"
            if started:
                row = rollout.rows[device]
                said = [step if isinstance(step, tuple) else (step, None) for step in story]
                self.network += [(rollout, device, row.attempt, *step, row.gate_epoch) for step in said]

    def _hear(self, dice: random.Random, most: int) -> None:
        for _ in range(min(most, len(self.network))):
            index = dice.randrange(len(self.network))
            rollout, device, attempt, state, failure_class, epoch = self.network[index]
            if dice.random() < 0.8:  # else it comes again
                self.network.pop(index)
            before = rollout.rows[device]
            seen = Observation(
                attempt=attempt, state=state, at=self.fleet.now, failure_class=failure_class, gate_epoch=epoch
            )
            rollout.hear(device, seen)
            self._count(rollout, device, before)

    @rule(which=st.integers(0, 1))
    def sweep(self, which: int) -> None:
        rollout = self.rollouts[which]
        before = dict(rollout.rows)
        rollout.sweep()
        for device, row in before.items():
            self._count(rollout, device, row)

    def _count(self, rollout: Rollout, device: int, before: Assignment) -> None:
        after = rollout.rows[device]
        fresh = after.failed_at is not None and before.failed_at is None
        if fresh and before.state in ACTIVE and after.first_started_epoch == 1:
            self.known[rollout] += 1

    # ---- people

    @rule(
        which=st.integers(0, 1),
        what=st.sampled_from(["pause", "halt", "approve", "resume", "abort"]),
        actor=st.sampled_from(["ann", "bob"]),
    )
    def a_person_decides(self, which: int, what: str, actor: str) -> None:
        rollout = self.rollouts[which]
        position = len(rollout.ledger)
        if what in {"abort", "halt"} and position < 30:
            return  # an end at the beginning is no history
        commands = {
            "pause": c.Pause(actor=actor, reason="r", ledger_position=position),
            "resume": c.Resume(actor=actor, reason="r", ledger_position=position),
            "abort": c.Abort(actor=actor, reason="r", ledger_position=position),
            "approve": c.Approve(actor=actor, digest=rollout.campaign.digest or ""),
            "halt": c.Halt(
                event=CampaignHalted(
                    by=actor,
                    reason="r",
                    phase=rollout.campaign.phase,
                    gate_epoch=rollout.campaign.gate_epoch,
                    ledger_position=position,
                )
            ),
        }
        if (
            what == "resume"
            and rollout.campaign.state is c.CampaignState.HALTED
            and not rollout.campaign.resume_approvals
        ):
            rollout.take(f"approve/{len(rollout.events)}", c.Approve(actor="bob", digest=rollout.campaign.digest or ""))
        with suppress(ConflictError, ForbiddenError):
            rollout.take(f"{what}/{len(rollout.events)}", commands[what])

    @rule(which=st.integers(0, 1), pick=st.integers(0, 500))
    def a_command_is_repeated(self, which: int, pick: int) -> None:
        rollout = self.rollouts[which]
        command_id = sorted(rollout.done)[pick % len(rollout.done)]
        before = rollout.campaign, len(rollout.events), len(rollout.ledger)
        assert rollout.take(command_id, rollout.commands[command_id]) == rollout.done[command_id]
        assert (rollout.campaign, len(rollout.events), len(rollout.ledger)) == before

    # ---- what must hold

    @invariant()
    def every_device_is_counted_once(self) -> None:
        for rollout in self.rollouts:
            states = {key: n for key, n in rollout.counters.items() if key[0] == "state"}
            held = sum(map(len, rollout.enrolment.holdback.values()))
            without_a_row = rollout.queued - rollout.rows.keys()
            assert sum(states.values()) + len(without_a_row) + held == len(self.fleet.devices)
            recounted = [key for row in rollout.rows.values() for key in contributions(row)]
            assert +rollout.counters == {key: recounted.count(key) for key in set(recounted)}

    @invariant()
    def nothing_is_offered_or_started_between_a_halt_and_its_resume(self) -> None:
        for rollout in self.rollouts:
            ends = [at for event, at in rollout.events if isinstance(event, CampaignResumed)]
            for event, at in rollout.events:
                if isinstance(event, CampaignHalted):
                    until = next((end for end in ends if end >= at), len(rollout.ledger))
                    after = rollout.ledger[at:until]
                    assert not [row for row in after if row.kind in {Kind.OFFER, Kind.START}]
                if isinstance(event, StratumHalted):
                    stratum = rollout.strata.index(event.stratum)
                    kinds = {row.kind for row in rollout.ledger[at:] if rollout.stratum[row.device] == stratum}
                    assert not kinds & {Kind.OFFER, Kind.START}

    @invariant()
    def a_stopped_campaign_shows_no_offer_that_was_not_started(self) -> None:
        for rollout in self.rollouts:
            if not rollout.running:
                waiting = [no for no, row in rollout.rows.items() if row.state is State.OFFERED]
                assert not [no for no in waiting if rollout.sees(no) is not Shown.NOTHING]

    @invariant()
    def each_resume_after_a_halt_begins_a_gate_epoch(self) -> None:
        for rollout in self.rollouts:
            stops = [event for event, _ in rollout.events if isinstance(event, CampaignHalted | CampaignResumed)]
            resumed = sum(isinstance(a, CampaignHalted) and isinstance(b, CampaignResumed) for a, b in pairwise(stops))
            assert rollout.campaign.gate_epoch == 1 + resumed

    @invariant()
    def no_halt_is_missed(self) -> None:
        for rollout in self.rollouts:
            if rollout.campaign.state in {c.CampaignState.RUNNING, c.CampaignState.PAUSED}:
                assert rollout.verdict() == (None, ())

    @invariant()
    def more_harm_never_takes_a_halt_back(self) -> None:
        for rollout in self.rollouts:
            cells = rollout.cells(max(1, rollout.campaign.gate_epoch))
            strata = [key for key, size in rollout.dossier.strata.items() if size]
            halts = judge(rollout.dossier.rules, cells, (), strata)
            for index, cell in enumerate(cells):
                if cell.f == cell.n or not (halts.campaign or halts.strata):
                    continue
                worse = [*cells[:index], Cell(cell.phase, cell.stratum, cell.n, cell.f + 1), *cells[index + 1 :]]
                found = judge(rollout.dossier.rules, worse, (), strata)
                assert found.campaign or found.strata

    @invariant()
    def failures_stay_within_the_printed_bound(self) -> None:
        for rollout in self.rollouts:
            if rollout.campaign.phase >= 0:
                bound = phase_bounds(rollout.dossier)[rollout.campaign.phase]
                assert self.known[rollout] <= bound.failures

    @invariant()
    def a_device_is_shown_one_image_and_in_trial_only_its_own(self) -> None:
        for device in self.fleet.devices:
            shown = [r for r in self.rollouts if r.sees(device) is Shown.DEPLOYMENT]
            assert len(shown) <= 1
            trials = [r for r in self.rollouts if device in r.rows and _in_trial(r.rows[device])]
            if len(trials) == 1:
                assert not shown or shown == trials

    def teardown(self) -> None:
        for rollout in self.rollouts:
            for seed in range(3):
                dice = random.Random(seed)
                order = iter(lambda dice=dice: dice.random() < 0.5, None)
                assert rollout.retold(order) == rollout.rows, "the logs, told again, give the rows"


def _busy(row: Assignment) -> bool:
    """In flight, or written off with an unconfirmed image in its slots."""
    return row.state in ACTIVE or (row.state is State.EXPIRED and row.progress in {State.INSTALLED, State.TRIAL})


def _in_trial(row: Assignment) -> bool:
    return row.state in IN_TRIAL and row.state in ACTIVE


TestRolloutMachine = RolloutMachine.TestCase
TestRolloutMachine.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
