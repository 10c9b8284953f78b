"""The campaign's state machine: whatever people and the orchestrator do, in whatever order."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orchestrator.domain import campaign as c
from orchestrator.domain.brake import Brake
from orchestrator.errors import ConflictError, ForbiddenError
from schemas.campaign_events import CampaignHalted

PLAN = {
    "phases": [
        {"name": "canary", "soak": 5, "promote": {"p1": 0.1, "beta": 0.05}, "external": [{"name": "lab"}]},
        {"name": "rest", "soak": 5, "promote": None},
    ],
    "approvals": {"required": 2, "separation": True},
    "max_in_flight": {"initial": 10, "maximum": 50},
}
ACTORS = st.sampled_from(["ann", "bob", "cid", "dee"])


class CampaignMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.events: list = []
        self.campaign = c.Campaign()
        self._do(c.Create(campaign_id="cmp_1", campaign_no=1, name="n", release_id="rel_1", plan=PLAN, actor="ann"))

    def _do(self, command: c.Command) -> bool:
        before = self.campaign
        try:
            events = c.decide(before, command)
        except (c.CampaignTransitionError, ForbiddenError, ConflictError):
            return False
        for event in events:
            self.campaign = c.evolve(self.campaign, event)
        self.events += events
        return bool(events)

    @rule(actor=ACTORS)
    def submit(self, actor: str) -> None:
        self._do(c.Submit(actor=actor, digest="sha256:d", dossier={}))

    @rule(actor=ACTORS, digest=st.sampled_from(["sha256:d", "sha256:r1", "sha256:r2", "sha256:other"]))
    def approve(self, actor: str, digest: str) -> None:
        before = self.campaign
        if before.revision is not None:
            given, asked = before.revision.approvals, before.revision.digest
        else:
            given, asked = before.resume_approvals, before.digest
            given = given if before.state is c.CampaignState.HALTED else before.approvals
        if self._do(c.Approve(actor=actor, digest=digest)):
            assert actor != "ann", "the author never approves"
            assert before.revision is None or actor != before.revision.actor, "nor who proposed it"
            assert actor not in given
            assert digest == asked

    @rule(actor=ACTORS, digest=st.sampled_from(["sha256:r1", "sha256:r2"]))
    def propose(self, actor: str, digest: str) -> None:
        before = self.campaign
        plan = PLAN | {"max_in_flight": {"initial": 10, "maximum": 60}}
        command = c.Revise(
            actor=actor, reason="r", replaces=str(before.digest), digest=digest, dossier={"plan": plan, "of": digest}
        )
        if self._do(command):
            now = self.campaign
            assert (now.plan, now.dossier, now.digest) == (before.plan, before.dossier, before.digest)

    @rule(limits=st.builds(Brake, per_minute=st.integers(1, 9), max_in_flight=st.none() | st.integers(1, 60)))
    def brake(self, limits: Brake) -> None:
        before = self.campaign.brake
        if self._do(c.ApplyBrake(actor="eve", reason="r", limits=limits, ledger_position=3)):
            now = self.campaign.brake
            assert (now.per_minute or 99) <= (before.per_minute or 99)
            assert (now.max_in_flight or 99) <= (before.max_in_flight or 99)

    @rule(actor=ACTORS)
    def launch(self, actor: str) -> None:
        if self._do(c.Launch(actor=actor, ledger_position=0)):
            assert len(set(self.campaign.approvals)) == 2

    @rule()
    def enrol(self) -> None:
        self._do(c.Enrol(members=10, holdback=1, strata={}, phases=[4, 5], ledger_position=1))

    @rule(phase=st.integers(0, 1))
    def open_phase(self, phase: int) -> None:
        self._do(c.OpenPhase(phase=phase, devices=4, at=1, ledger_position=1))

    @rule(phase=st.integers(0, 1))
    def soak(self, phase: int) -> None:
        self._do(c.StartSoak(phase=phase, at=10))

    @rule(phase=st.integers(0, 1))
    def promote(self, phase: int) -> None:
        self._do(
            c.Promote(
                phase=phase, matured=40, failures=0, log_e=3.0, at=20, ledger_position=2, ledger_digest="sha256:l"
            )
        )

    @rule(actor=ACTORS)
    def pause(self, actor: str) -> None:
        self._do(c.Pause(actor=actor, reason="r", ledger_position=2))

    @rule(actor=ACTORS)
    def resume(self, actor: str) -> None:
        halted = self.campaign.state is c.CampaignState.HALTED
        approved, epoch = self.campaign.resume_approved, self.campaign.gate_epoch
        if self._do(c.Resume(actor=actor, reason="r", ledger_position=2)):
            assert approved or not halted, "a halt is left only with an approval given after it"
            assert self.campaign.gate_epoch == epoch + halted, "each resume after a halt opens a new epoch"

    @rule(by=st.sampled_from(["gate", "ann"]), late=st.booleans())
    def halt(self, by: str, late: bool) -> None:
        epoch = self.campaign.gate_epoch - late
        state = self.campaign.state
        event = CampaignHalted(by=by, reason="r", phase=0, gate_epoch=epoch, ledger_position=3)
        halted = self._do(c.Halt(event=event))
        if by != "gate" and state in {c.CampaignState.RUNNING, c.CampaignState.PAUSED}:
            assert halted, "a person's halt is never refused while the campaign can offer"
        if by == "gate" and late:
            assert not halted, "evidence of a past epoch halts nothing"

    @rule(verdict=st.sampled_from(["promote", "hold", "halt"]), epoch=st.sampled_from([None, 1, 2]))
    def speak(self, verdict: str, epoch: int | None) -> None:
        before = self.campaign
        said = c.GiveVerdict(
            phase=0,
            gate="lab",
            verdict=verdict,
            reason="r",
            evidence=None,
            gate_epoch=epoch,
            at=12,
            ledger_position=3,
            actor="lab",
        )
        given = self._do(said)
        stoppable = before.state in {c.CampaignState.RUNNING, c.CampaignState.PAUSED}
        if verdict == "halt" and stoppable:
            assert given
            assert self.campaign.state is c.CampaignState.HALTED, "a gate's halt is never refused"
        if verdict != "halt":
            assert self.campaign.state is before.state
            assert not given or (stoppable and epoch in {None, before.gate_epoch})

    @invariant()
    def verdicts_are_of_the_running_epoch(self) -> None:
        assert all(each.gate_epoch == self.campaign.gate_epoch for each in self.campaign.verdicts)

    @rule(actor=ACTORS)
    def abort(self, actor: str) -> None:
        self._do(c.Abort(actor=actor, reason="r", ledger_position=4))

    @rule()
    def complete(self) -> None:
        if self._do(c.Complete(at=30, ledger_position=5, confirmed=9, failed=0)):
            assert self.campaign.phase_state is c.PhaseState.PROMOTED

    @invariant()
    def the_state_is_the_fold_of_the_events(self) -> None:
        assert c.fold(self.events) == self.campaign
        assert self.campaign.version == len(self.events)

    @invariant()
    def a_revision_waits_only_where_the_campaign_goes_on(self) -> None:
        assert self.campaign.revision is None or self.campaign.state in {
            c.CampaignState.RUNNING,
            c.CampaignState.PAUSED,
        }
        assert self.campaign.digest is None or self.campaign.dossier.get("of", "sha256:d") == self.campaign.digest

    @precondition(lambda self: self.campaign.state in c.TERMINAL)
    @invariant()
    def terminal_states_are_terminal(self) -> None:
        for command in (
            c.Resume(actor="bob", reason="r", ledger_position=9),
            c.Launch(actor="bob", ledger_position=9),
            c.OpenPhase(phase=self.campaign.phase + 1, devices=1, at=1, ledger_position=9),
        ):
            try:
                assert c.decide(self.campaign, command) == []
            except c.CampaignTransitionError:
                continue


TestCampaignMachine = CampaignMachine.TestCase
TestCampaignMachine.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
