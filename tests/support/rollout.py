"""Campaigns over one small fleet, driven by the pure core alone: two logs in lists, rows and counters in dictionaries.

Does in memory what the transactions do on PostgreSQL, each as one method: offer, start, hear a report, sweep, take a command. So what
the core promises can be asked of any history, without a server. Time only moves when it is told to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from orchestrator.domain import campaign as c
from orchestrator.domain.assignment import (
    ACTIVE,
    IN_TRIAL,
    Assignment,
    Observation,
    Offer,
    State,
    cancel_requested,
    contributions,
    expiry,
    holds_slot,
    observe,
    offered,
    offered_again,
    overdue,
    start,
    withdrawal,
)
from orchestrator.domain.cohort import Member, assign_phases, interleave
from orchestrator.domain.dossier import dossier_digest, freeze
from orchestrator.domain.gate import Cell, evaluate_promote, judge
from orchestrator.domain.pacing import grant, in_flight_cap
from orchestrator.domain.plan import Plan, parse_plan
from orchestrator.domain.visibility import Shown, shown
from schemas.campaign_events import CampaignHalted, StratumHalted
from schemas.ledger import Cause, Kind

DEADLINE = 1_000
"""Confirm deadline, ms."""

TTL = 300
"""An offer's time to live, ms."""


def plan_of(salt: str) -> Plan:
    """Two strata, three phases, rules of every scope."""
    data: dict[str, Any] = {
        "release": "rel_1",
        "cohort": {"stratify_by": ["hardware_model"], "holdback_percent": 10.0, "salt": salt},
        "phases": [
            {"name": "canary", "count": 8, "soak": 50},
            {"name": "some", "percent": 50.0, "soak": 50},
            {"name": "rest", "percent": 100.0, "soak": 50},
        ],
        "confirm_deadline": DEADLINE,
        "offer_ttl": TTL,
        "halt": [
            {"name": "fleet", "scope": "campaign", "p0": 0.02, "alpha": 0.004},
            {"name": "phase", "scope": "phase", "p0": 0.02, "alpha": 0.003},
            {"name": "alone", "scope": "stratum", "halts": "stratum", "p0": 0.02, "alpha": 0.003},
        ],
        "max_in_flight": {"initial": 5, "maximum": 12},
        "retry": {"max_attempts": 3},
    }
    return parse_plan(data)


@dataclass(frozen=True, slots=True)
class Decided:
    """A ledger row about one device."""

    kind: Kind
    device: int
    attempt: int
    at: int
    epoch: int
    action_id: int = 0
    cause: Cause | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """A fact as the log of facts holds it."""

    device: int
    seen: Observation


@dataclass
class Fleet:
    """What campaigns share: the devices, who holds each one's slot, the clock, and the last action id given."""

    devices: dict[int, str]
    """Device number to hardware model."""
    slots: dict[int, Rollout] = field(default_factory=dict)
    now: int = 1_000
    actions: int = 100
    rollouts: list[Rollout] = field(default_factory=list)

    def settle(self, device: int) -> None:
        """Give the slot to the row that holds it; of two, to the one in trial, else to the one offered last."""
        holders = [
            (row.progress in IN_TRIAL, row.action_id, rollout)
            for rollout in self.rollouts
            if (row := rollout.rows.get(device)) is not None and holds_slot(row)
        ]
        self.slots.pop(device, None)
        if holders:
            self.slots[device] = max(holders, key=lambda holder: holder[:2])[2]


class Rollout:
    """One campaign."""

    def __init__(self, fleet: Fleet, number: int, plan: Plan) -> None:
        self.fleet = fleet
        fleet.rollouts.append(self)
        self.number = number
        members = [Member(f"dev-{no}", f"hardware_model={model}", no) for no, model in sorted(fleet.devices.items())]
        sizes = Counter(member.stratum for member in members)
        self.plan = plan
        self.dossier = freeze(plan, strata_sizes=sizes, release_digest="sha256:r")
        self.strata = sorted(self.dossier.strata)
        self.enrolment = assign_phases(members, plan)
        self.stratum = {
            no: self.strata.index(key)
            for phase in self.enrolment.phases
            for key, devices in phase.items()
            for no in devices
        }
        self.queue: dict[int, list[tuple[int, int, int]]] = {
            index: [(0, no, 1) for no in interleave(phase)] for index, phase in enumerate(self.enrolment.phases)
        }
        """Phase to (not before, device, attempt), in the order of offers."""
        self.rows: dict[int, Assignment] = {}
        self.counters: Counter[Any] = Counter()
        self.ledger: list[Decided] = []
        self.facts: list[Heard] = []
        self.campaign = c.Campaign()
        self.events: list[tuple[Any, int]] = []
        """Each event with the length of the ledger at its commit."""
        self.done: dict[str, list[Any]] = {}
        self.commands: dict[str, c.Command] = {}
        self.highest_cap = 0
        """Largest in-flight cap that a slice obeyed in this gate epoch."""
        self._set_up()

    def _set_up(self) -> None:
        digest = dossier_digest(self.dossier)
        create = c.Create(
            campaign_id=f"cmp_{self.number}",
            campaign_no=self.number,
            name="n",
            release_id="rel_1",
            plan=self.plan.canonical(),
            actor="ann",
        )
        self.take("create", create)
        self.take("submit", c.Submit(actor="ann", digest=digest, dossier=self.dossier.canonical()))
        self.take("approve", c.Approve(actor="bob", digest=digest))
        self.take("launch", c.Launch(actor="ann", ledger_position=0))
        sizes = [sum(map(len, phase.values())) for phase in self.enrolment.phases]
        held = sum(map(len, self.enrolment.holdback.values()))
        enrol = c.Enrol(
            members=sum(sizes) + held,
            holdback=held,
            strata=self.enrolment.strata,
            phases=sizes,
            ledger_position=0,
        )
        self.take("enrol", enrol)

    # ---- commands

    def take(self, command_id: str, command: c.Command) -> list[Any]:
        """Decide and append; a command id that has taken effect does nothing more."""
        if command_id in self.done:
            return self.done[command_id]
        self.commands[command_id] = command
        events = c.decide(self.campaign, command)
        for event in events:
            epoch = self.campaign.gate_epoch
            self.campaign = c.evolve(self.campaign, event)
            self.events.append((event, len(self.ledger)))
            if self.campaign.gate_epoch != epoch:
                self.highest_cap = 0
        if events:
            self.done[command_id] = list(events)
        return list(events)

    @property
    def running(self) -> bool:
        return self.campaign.state is c.CampaignState.RUNNING

    @property
    def halted_alone(self) -> set[int]:
        return {self.strata.index(key) for key in self.campaign.halted_strata}

    # ---- decisions about devices

    def offer(self, most: int) -> list[int]:
        """A slice of the open phase, or of what waits again in earlier ones."""
        if not self.running or self.campaign.phase < 0:
            return []
        limits = self.plan.max_in_flight
        cap = in_flight_cap(limits.initial, limits.maximum, self.campaign.promoted_since_halt)
        self.highest_cap = max(self.highest_cap, cap)
        room = grant(cap=cap, in_flight=self.in_flight, available=None, slice_size=most)
        given: list[int] = []
        for phase in range(self.campaign.phase + 1):
            for entry in list(self.queue[phase]):
                not_before, device, attempt = entry
                if len(given) == room:
                    return given
                if (
                    not_before > self.fleet.now
                    or self.stratum[device] in self.halted_alone
                    or device in self.fleet.slots
                ):
                    continue
                self.queue[phase].remove(entry)
                self.fleet.actions += 1
                self._decide(Decided(Kind.OFFER, device, attempt, *self._when, action_id=self.fleet.actions))
                given.append(device)
        return given

    def start(self, device: int) -> bool:
        """What a gateway commits before it reveals the image."""
        row = self.rows.get(device)
        if row is None or row.state is not State.OFFERED or self.fleet.slots.get(device) is not self:
            return False
        if not self.running or row.stratum in self.halted_alone or row.cancel_requested_at is not None:
            return False
        self._decide(Decided(Kind.START, device, row.attempt, *self._when))
        return True

    def sees(self, device: int) -> Shown:
        """What the device is shown."""
        row = self.rows.get(device)
        if row is None or self.fleet.slots.get(device) is not self:
            return Shown.NOTHING
        control = self.campaign.state
        if row.stratum in self.halted_alone:
            control = c.CampaignState.HALTED
        assert control is not None
        return shown(row.state, control, cancel_requested=row.cancel_requested_at is not None, progress=row.progress)

    def hear(self, device: int, seen: Observation) -> None:
        """A fact reaches the projection."""
        self.facts.append(Heard(device, seen))
        self._move(device, observe(self.rows[device], seen))

    def sweep(self) -> None:
        """End what is overdue; take back and cancel what a stop has left out."""
        for device, row in sorted(self.rows.items()):
            cause = overdue(row, self.fleet.now, self.plan.offer_ttl, self.plan.confirm_deadline)
            if cause is not None:
                self._decide(Decided(Kind.EXPIRE, device, row.attempt, *self._when, cause=cause))
                live = self.campaign.state in {c.CampaignState.RUNNING, c.CampaignState.PAUSED}
                if cause is Cause.OFFER_TTL and row.attempt < self.plan.retry.max_attempts and live:
                    self._again(row)
                continue
            aborted = self.campaign.state is c.CampaignState.ABORTED
            alone = row.stratum in self.halted_alone
            if not (aborted or alone or self.campaign.state is c.CampaignState.HALTED):
                continue
            stop = Cause.ABORTED if aborted else Cause.HALTED
            if row.state is State.OFFERED:
                self._decide(Decided(Kind.WITHDRAW, device, row.attempt, *self._when, cause=stop))
                if not aborted and not alone:
                    self._again(row)
            elif row.state in ACTIVE - IN_TRIAL and row.cancel_requested_at is None:
                self._decide(Decided(Kind.CANCEL, device, row.attempt, *self._when, cause=stop))

    def _again(self, row: Assignment) -> None:
        self.queue[row.phase].append((self.fleet.now + TTL, row.device_no, row.attempt + 1))

    @property
    def _when(self) -> tuple[int, int]:
        return self.fleet.now, self.campaign.gate_epoch

    def _decide(self, decided: Decided) -> None:
        self.ledger.append(decided)
        self._move(decided.device, self.applied(self.rows.get(decided.device), decided))

    def applied(self, row: Assignment | None, decided: Decided) -> Assignment:
        """The row after a ledger row, as the transaction and the replay both make it."""
        if decided.kind is Kind.OFFER:
            offer = Offer(attempt=decided.attempt, action_id=decided.action_id, gate_epoch=decided.epoch, at=decided.at)
            if row is None:
                phase = next(
                    index
                    for index, strata in enumerate(self.enrolment.phases)
                    if any(decided.device in devices for devices in strata.values())
                )
                return offered(self.number, decided.device, phase, self.stratum[decided.device], offer)
            return offered_again(row, offer)
        assert row is not None
        match decided.kind:
            case Kind.START:
                return observe(row, start(decided.attempt, decided.at, decided.epoch))
            case Kind.EXPIRE:
                return observe(row, expiry(decided.attempt, decided.cause or Cause.OFFER_TTL, decided.at))
            case Kind.WITHDRAW:
                return observe(row, withdrawal(decided.attempt, decided.cause or Cause.HALTED, decided.at))
            case _:
                return cancel_requested(row, decided.attempt, decided.at)

    # ---- rows, counters, verdicts

    def _move(self, device: int, new: Assignment) -> None:
        old = self.rows.get(device)
        if old is not None:
            self.counters.subtract(contributions(old))
        self.counters.update(contributions(new))
        self.rows[device] = new
        self.fleet.settle(device)
        if new.failed_at is not None and (old is None or old.failed_at is None):
            self._judge()

    def cells(self, epoch: int) -> list[Cell]:
        """The counters that the halt rules read."""
        keys = {(phase, stratum) for kind, phase, stratum, of in self.counters if kind == "started" and of == epoch}
        return [
            Cell(
                phase,
                self.strata[stratum],
                self.counters["started", phase, stratum, epoch],
                self.counters["failed", phase, stratum, epoch],
            )
            for phase, stratum in sorted(keys)
        ]

    def verdict(self) -> tuple[Any, ...]:
        """The halt of the campaign, and the strata that halt now."""
        sized = [key for key, size in self.dossier.strata.items() if size]
        found = judge(self.dossier.rules, self.cells(self.campaign.gate_epoch), set(self.campaign.halted_strata), sized)
        return found.campaign, found.strata

    def _judge(self) -> None:
        if self.campaign.state not in {c.CampaignState.RUNNING, c.CampaignState.PAUSED}:
            return
        epoch = self.campaign.gate_epoch
        whole, alone = self.verdict()
        for verdict in alone:
            event = StratumHalted(
                stratum=verdict.scope_key.removeprefix("stratum/"),
                reason=verdict.detail,
                phase=self.campaign.phase,
                gate_epoch=epoch,
                ledger_position=len(self.ledger),
                rule=verdict.rule,
                n=verdict.n,
                f=verdict.f,
                bound=verdict.f_star,
                log_e=verdict.log_e,
                p0=verdict.p0,
                alpha=verdict.alpha,
            )
            self.take(f"halt/{verdict.scope_key}/alone/{epoch}", c.HaltStratum(event=event))
        if whole is not None:
            event = CampaignHalted(
                by="gate",
                reason=whole.detail,
                phase=self.campaign.phase,
                gate_epoch=epoch,
                ledger_position=len(self.ledger),
                rule=whole.rule,
                n=whole.n,
                f=whole.f,
            )
            self.take(f"halt/{whole.scope_key}/{epoch}", c.Halt(event=event))

    @property
    def in_flight(self) -> int:
        return sum(n for (kind, _, _, state), n in self.counters.items() if kind == "state" and state in ACTIVE)

    @property
    def queued(self) -> set[int]:
        return {device for entries in self.queue.values() for _, device, _ in entries}

    # ---- the process

    def advance(self) -> None:
        """The next step of the phases, if it is due: open, soak, promote, complete."""
        at = {"ledger_position": len(self.ledger), "at": self.fleet.now}
        epoch, phase = self.campaign.gate_epoch, self.campaign.phase
        if not self.running:
            return
        if phase < 0 or (self.campaign.phase_state is c.PhaseState.PROMOTED and phase + 1 < len(self.campaign.phases)):
            devices = sum(map(len, self.enrolment.phases[phase + 1].values()))
            self.take(f"open/{phase + 1}", c.OpenPhase(phase=phase + 1, devices=devices, **at))
        elif self.campaign.phase_state is c.PhaseState.PROMOTED:
            if not self.in_flight and not self._waiting(len(self.campaign.phases)):
                self.take("complete", c.Complete(confirmed=0, failed=0, **at))
        elif self.campaign.phase_state is c.PhaseState.OPEN:
            if not self._waiting(phase + 1):
                self.take(f"soak/{phase}/{epoch}", c.StartSoak(phase=phase, at=self.fleet.now))
        elif not self.in_flight:
            soaked = self.campaign.soak_until is not None and self.fleet.now >= self.campaign.soak_until
            verdict = evaluate_promote(
                0, 0, None, None, soaked=soaked, approval_missing=False, stale=False, strata_covered=True
            )
            if verdict.verdict == "promote":
                promote = c.Promote(phase=phase, matured=0, failures=0, log_e=None, ledger_digest="d", **at)
                self.take(f"promote/{phase}/{epoch}", promote)

    def _waiting(self, phases: int) -> list[tuple[int, int, int]]:
        return [
            entry
            for phase in range(phases)
            for entry in self.queue[phase]
            if self.stratum[entry[1]] not in self.halted_alone
        ]

    # ---- telling it again

    def retold(self, order: Iterator[bool]) -> dict[int, Assignment]:
        """Rows made again from the two logs, each in its order, taken from as ``order`` says; no effect before its cause."""
        rows: dict[int, Assignment] = {}
        decided, heard = list(self.ledger), list(self.facts)
        while decided or heard:
            fact_first = next(order) and heard
            if fact_first or not decided:
                device, seen = heard[0].device, heard[0].seen
                row = rows.get(device)
                if row is not None and row.attempt >= seen.attempt:
                    rows[device] = observe(row, seen)
                    heard.pop(0)
                    continue
            entry = decided.pop(0)
            rows[entry.device] = self.applied(rows.get(entry.device), entry)
        return rows
