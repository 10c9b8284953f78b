import asyncio

import pytest

from orchestrator.app.process import CampaignProcess, GateResult, PhaseNotFoundError
from orchestrator.domain import campaign as c
from orchestrator.domain.breaker import BreakerSpec, Probes, Reading
from orchestrator.domain.owner import DEFAULT_PATIENCE_MS
from orchestrator.errors import NotFoundError
from schemas import campaign_events as e
from tests.support.memory_process import Heard, MemoryCampaigns, MemoryDecisions, phase

SOAK = 1_000
ID = "cmp_1"


class Bench:
    def __init__(self, **decisions):
        self.campaigns = MemoryCampaigns()
        self.decisions = MemoryDecisions(self.campaigns, **decisions)
        self.facts = Heard()
        self.process = CampaignProcess(self.campaigns, self.decisions, self.decisions, self.facts, slice_size=8)

    async def launch(self, *phases):
        await self.campaigns.launch(ID, list(phases))

    async def drain(self, number, now=0):
        assert await self.process.open_phase(ID, number, now) == "running"
        while (await self.process.dispatch(ID, number, now)).granted:
            pass

    async def soak(self, number, now=0):
        """Open, offer everything, begin the soak."""
        await self.drain(number, now)
        assert (await self.gate(number, now)).result is GateResult.NOT_YET

    async def gate(self, number, now):
        return await self.process.evaluate_gate(ID, number, now)

    def types(self):
        return [type(event).__name__ for event in self.campaigns.events(ID)][4:]

    def last(self):
        return self.campaigns.events(ID)[-1]


@pytest.fixture
def bench():
    return Bench(sizes=[10, 20])


TWO = (phase("canary", SOAK), phase("rest", SOAK))


async def test_opening_a_phase_enrols_once_and_records_its_size(bench):
    await bench.launch(*TWO)
    for _ in range(3):
        assert await bench.process.open_phase(ID, 0, now=5) == "running"
    assert bench.types() == ["CohortEnrolled", "PhaseOpened"]
    assert bench.last() == e.PhaseOpened(phase=0, name="canary", devices=10, at=5, ledger_position=7)


async def test_a_stopped_campaign_opens_nothing(bench):
    await bench.launch(*TWO)
    await bench.campaigns.order(ID, c.Pause(actor="ann", reason="lunch", ledger_position=0))
    assert await bench.process.open_phase(ID, 0, now=5) == "paused"
    assert bench.types() == ["CampaignPaused"]


async def test_a_fleet_that_no_longer_fits_halts_instead_of_opening(bench):
    await bench.launch(*TWO)

    async def refuse(campaign_id, now):
        await bench.campaigns.halt(campaign_id)
        return await bench.campaigns.load(campaign_id)

    bench.decisions.enrol = refuse
    assert await bench.process.open_phase(ID, 0, now=5) == "halted"
    assert bench.types() == ["CampaignHalted"]


async def test_unknown_campaigns_and_phases_are_refused(bench):
    await bench.launch(*TWO)
    with pytest.raises(NotFoundError):
        await bench.process.open_phase("cmp_9", 0, now=5)
    for number in (-1, 2):
        with pytest.raises(PhaseNotFoundError):
            await bench.process.open_phase(ID, number, now=5)
        with pytest.raises(PhaseNotFoundError):
            await bench.gate(number, 5)


async def test_a_phase_that_jumps_ahead_is_a_defect_and_raises(bench):
    await bench.launch(*TWO)
    with pytest.raises(c.CampaignTransitionError):
        await bench.process.open_phase(ID, 1, now=5)


async def test_one_dispatch_offers_one_slice(bench):
    await bench.launch(*TWO)
    await bench.process.open_phase(ID, 0, now=0)
    done = await bench.process.dispatch(ID, 0, now=0)
    assert (done.granted, done.remaining) == (8, 2)


async def test_a_drained_phase_dispatches_what_waits_again_in_earlier_ones(bench):
    await bench.launch(*TWO)
    await bench.soak(0)
    assert (await bench.gate(0, SOAK)).result is GateResult.PROMOTED
    await bench.drain(1)
    bench.decisions.queues[ID, 0] = 3
    assert (await bench.process.dispatch(ID, 1, now=0)).granted == 3
    assert bench.decisions.offered == {(ID, 0): 13, (ID, 1): 20}


async def test_earlier_phases_wait_while_the_open_one_has_devices_left(bench):
    await bench.launch(*TWO)
    await bench.soak(0)
    await bench.gate(0, SOAK)
    await bench.process.open_phase(ID, 1, now=0)
    bench.decisions.queues[ID, 0] = 3
    bench.decisions.room = 0
    assert (await bench.process.dispatch(ID, 1, now=0)).remaining == 20
    assert bench.decisions.queues[ID, 0] == 3


async def test_the_soak_begins_when_the_queue_is_empty(bench):
    await bench.launch(*TWO)
    await bench.process.open_phase(ID, 0, now=0)
    assert (await bench.gate(0, 10)).result is GateResult.NOT_YET
    assert "SoakStarted" not in bench.types()
    await bench.drain(0)
    await bench.gate(0, 20)
    assert bench.last() == e.SoakStarted(phase=0, at=20, until=20 + SOAK, gate_epoch=1)


async def test_a_phase_promotes_when_its_soak_is_over_and_not_before(bench):
    await bench.launch(*TWO)
    await bench.soak(0, now=20)
    assert (await bench.gate(0, 20 + SOAK - 1)).result is GateResult.NOT_YET
    assert (await bench.gate(0, 20 + SOAK)).result is GateResult.PROMOTED
    promoted = bench.last()
    assert (promoted.phase, promoted.ledger_position, promoted.ledger_digest) == (0, 7, "d7")


async def test_a_promoted_phase_stays_promoted_whatever_the_campaign_does(bench):
    await bench.launch(*TWO)
    await bench.soak(0)
    await bench.gate(0, SOAK)
    await bench.campaigns.halt(ID)
    assert (await bench.gate(0, SOAK)).result is GateResult.PROMOTED


async def test_a_promotion_waits_for_its_approval():
    bench = Bench(sizes=[10, 20])
    await bench.launch(phase("canary", SOAK, approval=True), phase("rest", SOAK))
    await bench.soak(0)
    assert "approval" in (await bench.gate(0, SOAK)).reason
    await bench.campaigns.order(ID, c.ApprovePhase(actor="bob", phase=0, digest="d"))
    assert (await bench.gate(0, SOAK)).result is GateResult.PROMOTED


def verdict(said, gate="lab"):
    return c.GiveVerdict(
        phase=0,
        gate=gate,
        verdict=said,
        reason="r",
        evidence=None,
        gate_epoch=None,
        at=0,
        ledger_position=7,
        actor="lab",
    )


async def test_a_promotion_waits_for_every_external_gate(bench):
    gates = [{"name": "lab", "patience": None}, {"name": "field", "patience": None}]
    await bench.launch(phase("canary", SOAK, external=gates), phase("rest", SOAK))
    await bench.soak(0)
    assert bench.last().external == ["lab", "field"]
    assert "'lab'" in (await bench.gate(0, SOAK)).reason
    await bench.campaigns.order(ID, verdict("promote"))
    assert "'field'" in (await bench.gate(0, SOAK)).reason
    await bench.campaigns.order(ID, verdict("promote", "field"))
    assert (await bench.gate(0, SOAK)).result is GateResult.PROMOTED


async def test_after_a_halt_and_a_resume_external_gates_are_asked_again(bench):
    await bench.launch(phase("canary", SOAK, external=[{"name": "lab", "patience": None}]), phase("rest", SOAK))
    await bench.soak(0)
    await bench.campaigns.order(ID, verdict("promote"))
    await bench.campaigns.order(ID, verdict("halt"))
    assert (await bench.gate(0, SOAK)).result is GateResult.STOPPED
    await bench.campaigns.resume(ID)
    await bench.gate(0, SOAK)
    assert (bench.last().gate_epoch, bench.last().external) == (2, ["lab"])
    assert "'lab'" in (await bench.gate(0, 2 * SOAK)).reason
    await bench.campaigns.order(ID, verdict("promote"))
    assert (await bench.gate(0, 2 * SOAK)).result is GateResult.PROMOTED


async def test_a_soak_lasts_until_enough_devices_have_matured_and_then_stays_over(bench):
    await bench.launch(phase("canary", SOAK, soak_devices=8), phase("rest", SOAK))
    await bench.soak(0)
    bench.decisions.reading = {"matured": 5, "outstanding": 4}
    assert "5 of 8 devices have matured" in (await bench.gate(0, SOAK)).reason
    bench.decisions.reading = {"matured": 8, "outstanding": 1}
    assert (await bench.gate(0, SOAK - 1)).reason == "The phase is still soaking."
    await bench.gate(0, SOAK + 1)
    assert bench.last() == e.SoakEnded(phase=0, at=SOAK + 1, gate_epoch=1, matured=8, wanted=8)
    bench.decisions.reading = {"matured": 7, "outstanding": 2}
    assert (await bench.gate(0, SOAK + 2)).result is GateResult.PROMOTED


async def test_a_soak_that_waits_for_more_devices_than_there_are_ends_with_the_last(bench):
    await bench.launch(phase("canary", SOAK, soak_devices=8), phase("rest", SOAK))
    await bench.soak(0)
    bench.decisions.reading = {"matured": 6, "outstanding": 1}
    assert "6 of 7 devices have matured" in (await bench.gate(0, SOAK)).reason
    bench.decisions.reading = {"matured": 6, "outstanding": 0}
    await bench.gate(0, SOAK)
    assert (bench.last().matured, bench.last().wanted) == (6, 8)
    assert (await bench.gate(0, SOAK)).result is GateResult.PROMOTED


async def test_a_hold_that_outlasts_its_patience_is_told_once_and_decides_nothing(bench):
    await bench.launch(phase("canary", SOAK, approval=True, patience=100), phase("rest", SOAK))
    await bench.soak(0)
    await bench.gate(0, SOAK + 99)
    assert "HoldOutlasted" not in bench.types()
    for now in (SOAK + 100, SOAK + 200):
        assert (await bench.gate(0, now)).result is GateResult.NOT_YET
    assert bench.types().count("HoldOutlasted") == 1
    told = bench.last()
    assert (told.phase, told.reason, told.since, told.at) == (0, "approval", SOAK, SOAK + 100)
    assert (await bench.campaigns.load(ID)).state is c.CampaignState.RUNNING
    await bench.campaigns.order(ID, c.ApprovePhase(actor="bob", phase=0, digest="d"))
    assert (await bench.gate(0, SOAK + 300)).result is GateResult.PROMOTED


async def test_two_processes_tell_of_a_hold_once(bench):
    await bench.launch(phase("canary", SOAK, approval=True, patience=100), phase("rest", SOAK))
    await bench.soak(0)
    await asyncio.gather(*(bench.gate(0, SOAK + 100 + i) for i in range(3)))
    assert bench.types().count("HoldOutlasted") == 1


async def test_patience_counts_from_when_the_devices_of_the_soak_had_matured(bench):
    await bench.launch(phase("canary", SOAK, approval=True, patience=100, soak_devices=8), phase("rest", SOAK))
    await bench.soak(0)
    bench.decisions.reading = {"matured": 5, "outstanding": 4}
    await bench.gate(0, 10 * SOAK)
    assert "HoldOutlasted" not in bench.types(), "soaking is no hold that anybody has to be told of"
    bench.decisions.reading = {"matured": 8}
    await bench.gate(0, 20 * SOAK)
    await bench.gate(0, 20 * SOAK + 99)
    assert "HoldOutlasted" not in bench.types()
    await bench.gate(0, 20 * SOAK + 100)
    assert bench.last().since == 20 * SOAK


async def test_without_a_promote_test_everything_in_flight_must_end_first():
    bench = Bench(sizes=[10, 20], confirm=False)
    await bench.launch(*TWO)
    await bench.soak(0)
    assert "10 are in flight" in (await bench.gate(0, SOAK)).reason
    bench.decisions.in_flight[ID] = 0
    assert (await bench.gate(0, SOAK)).result is GateResult.PROMOTED


TESTED = phase("canary", SOAK, promote={"p1": 0.1, "beta": 0.05})


async def test_a_promote_test_promotes_on_matured_devices_while_others_are_in_flight():
    bench = Bench(sizes=[40, 20], confirm=False)
    await bench.launch(TESTED, phase("rest", SOAK))
    await bench.soak(0)
    bench.decisions.reading = {"matured": 5, "failures": 0, "strata": {"a": 5}}
    assert (await bench.gate(0, SOAK)).result is GateResult.NOT_YET
    bench.decisions.reading = {"matured": 39, "failures": 0, "strata": {"a": 39}}
    assert (await bench.gate(0, SOAK)).result is GateResult.PROMOTED
    promoted = bench.last()
    assert (promoted.matured, promoted.failures, promoted.p1, promoted.beta) == (39, 0, 0.1, 0.05)
    assert promoted.log_e >= 2.99


async def test_a_promote_test_wants_a_matured_device_of_every_stratum():
    bench = Bench(sizes=[40, 20])
    await bench.launch(TESTED, phase("rest", SOAK))
    await bench.soak(0)
    bench.decisions.reading = {"matured": 39, "failures": 0, "strata": {"a": 39, "b": 0}}
    assert (await bench.gate(0, SOAK)).result is GateResult.NOT_YET


async def test_the_last_phase_waits_for_everything_even_with_a_promote_test():
    bench = Bench(sizes=[40])
    await bench.launch(TESTED)
    await bench.soak(0)
    bench.decisions.reading = {"matured": 39, "failures": 0, "strata": {"a": 39}, "in_flight": 1}
    assert (await bench.gate(0, SOAK)).result is GateResult.NOT_YET
    bench.decisions.reading["in_flight"] = 0
    assert (await bench.gate(0, SOAK)).result is GateResult.PROMOTED


async def test_the_last_phase_waits_for_queues_of_the_phases_before_it(bench):
    await bench.launch(*TWO)
    await bench.soak(0)
    await bench.gate(0, SOAK)
    await bench.soak(1, SOAK)
    bench.decisions.queues[ID, 0] = 3
    assert "3 devices wait" in (await bench.gate(1, 2 * SOAK)).reason


async def test_nothing_promotes_on_facts_that_were_not_heard(bench):
    await bench.launch(*TWO)
    await bench.soak(0)
    bench.facts.until_ms = SOAK - 1
    assert "too old" in (await bench.gate(0, SOAK)).reason
    bench.facts.until_ms = None
    assert (await bench.gate(0, SOAK)).result is GateResult.PROMOTED


async def test_the_counters_are_read_again_after_the_facts_were_heard():
    bench = Bench(sizes=[40, 20])
    await bench.launch(TESTED, phase("rest", SOAK))
    await bench.soak(0)
    bench.decisions.reading = {"matured": 39, "failures": 0, "strata": {"a": 39}}

    async def hear(now):
        bench.decisions.reading = {"matured": 39, "failures": 20, "strata": {"a": 39}}
        return now

    bench.facts.until = hear
    assert (await bench.gate(0, SOAK)).result is GateResult.NOT_YET


async def test_a_change_between_look_and_promotion_decides_anew(bench):
    await bench.launch(*TWO)
    await bench.soak(0)

    async def halt_meanwhile(now):
        await bench.campaigns.halt(ID)
        return now

    bench.facts.until = halt_meanwhile
    stopped = await bench.gate(0, SOAK)
    assert (stopped.result, stopped.state) == (GateResult.STOPPED, "halted")
    assert "PhasePromoted" not in bench.types()


async def test_evidence_of_an_epoch_that_ended_promotes_nothing(bench):
    await bench.launch(*TWO)
    await bench.soak(0)

    async def halt_and_resume_meanwhile(now):
        await bench.campaigns.halt(ID)
        await bench.campaigns.resume(ID)
        return now

    bench.facts.until = halt_and_resume_meanwhile
    assert (await bench.gate(0, SOAK)).result is GateResult.NOT_YET
    assert "PhasePromoted" not in bench.types()


async def test_a_resume_after_a_halt_soaks_again_under_a_new_command(bench):
    await bench.launch(*TWO)
    await bench.soak(0)
    await bench.campaigns.halt(ID)
    assert (await bench.gate(0, SOAK)).result is GateResult.STOPPED
    await bench.campaigns.resume(ID)
    assert (await bench.gate(0, SOAK)).result is GateResult.NOT_YET
    soaks = [event.at for event in bench.campaigns.events(ID) if isinstance(event, e.SoakStarted)]
    assert soaks == [0, SOAK]
    assert (await bench.gate(0, 2 * SOAK)).result is GateResult.PROMOTED


async def test_a_campaign_completes_once_with_its_counts(bench):
    await bench.launch(*TWO)
    for number, at in ((0, 0), (1, SOAK)):
        await bench.soak(number, at)
        await bench.gate(number, at + SOAK)
    for _ in range(2):
        assert (await bench.process.finish(ID, now=9_999)).state == "completed"
    assert bench.last() == e.CampaignCompleted(at=9_999, ledger_position=7, confirmed=30, failed=0)
    assert bench.types().count("CampaignCompleted") == 1


async def test_a_campaign_does_not_complete_while_a_device_is_in_flight(bench):
    await bench.launch(*TWO)
    for number, at in ((0, 0), (1, SOAK)):
        await bench.soak(number, at)
        await bench.gate(number, at + SOAK)
    bench.decisions.in_flight[ID] = 1
    waiting = await bench.process.finish(ID, now=9_999)
    assert (waiting.state, bool(waiting.reason)) == ("running", True)


async def at_its_end(bench):
    await bench.launch(*TWO)
    for number, at in ((0, 0), (1, SOAK)):
        await bench.soak(number, at)
        await bench.gate(number, at + SOAK)


async def test_a_campaign_waits_for_owners_as_long_as_its_patience_and_then_ends_without_them(bench):
    await at_its_end(bench)
    bench.decisions.reading = {"withheld": 2}
    bench.decisions.closed = {"opted_out": 3, "consent": 1}
    over = 2 * SOAK + DEFAULT_PATIENCE_MS
    waiting = await bench.process.finish(ID, now=over - 1)
    assert waiting.state == "running"
    assert "4 devices are withheld" in waiting.reason
    assert (await bench.process.finish(ID, now=over)).state == "completed"
    assert bench.last().withheld == {"opted_out": 3, "consent": 1}
    assert (await bench.campaigns.load(ID)).withheld == {"opted_out": 3, "consent": 1}


async def test_without_anybody_withheld_nobody_is_waited_for(bench):
    await at_its_end(bench)
    assert (await bench.process.finish(ID, now=2 * SOAK)).state == "completed"


async def test_an_owner_who_agrees_while_the_campaign_waits_is_offered(bench):
    await at_its_end(bench)
    bench.decisions.reading = {"withheld": 1}
    bench.decisions.queues[ID, 0] = 1
    offered = dict(bench.decisions.offered)
    assert (await bench.process.finish(ID, now=3 * SOAK)).state == "running"
    assert bench.decisions.offered[ID, 0] == offered[ID, 0] + 1


async def test_the_outlook_names_the_next_phase(bench):
    await bench.launch(*TWO)
    assert (await bench.process.outlook(ID)).next_phase == 0
    await bench.soak(0)
    assert (await bench.process.outlook(ID)).next_phase == 0
    await bench.gate(0, SOAK)
    assert (await bench.process.outlook(ID)).next_phase == 1
    await bench.soak(1, SOAK)
    await bench.gate(1, 2 * SOAK)
    assert (await bench.process.outlook(ID)).next_phase is None


async def test_a_sweep_hands_on_what_was_heard_and_settles_when_the_last_device_has_landed(bench):
    await bench.launch(*TWO)
    await bench.drain(0)
    bench.facts.until_ms = 40
    bench.decisions.in_flight[ID] = 1
    assert not (await bench.process.sweep(ID, now=50)).settled
    assert bench.decisions.sweeps == [(50, 40)]
    await bench.campaigns.order(ID, c.Abort(actor="ann", reason="no", ledger_position=0))
    assert not (await bench.process.sweep(ID, now=60)).settled
    bench.decisions.in_flight[ID] = 0
    assert (await bench.process.sweep(ID, now=70)).settled


async def test_two_processes_of_one_campaign_take_every_decision_once(bench):
    await bench.launch(*TWO)

    async def drive():
        for number in (0, 1):
            now = 0
            await bench.process.open_phase(ID, number, now)
            while (await bench.gate(number, now)).result is not GateResult.PROMOTED:
                await bench.process.dispatch(ID, number, now)
                await asyncio.sleep(0)
                now += 100
        await bench.process.finish(ID, 0)

    await asyncio.gather(drive(), drive())
    types = bench.types()
    assert len(types) == len(["CohortEnrolled", *["PhaseOpened", "SoakStarted", "PhasePromoted"] * 2, "Completed"])
    assert bench.decisions.offered == {(ID, 0): 10, (ID, 1): 20}


async def test_nothing_is_promoted_while_the_breaker_is_not_closed_and_halts_go_on(bench):
    await bench.launch(*TWO)
    await bench.soak(0)
    bench.decisions.breaker = BreakerSpec()
    bench.decisions.outcomes = Reading(counts={"transport": 20})
    await bench.process.sweep(ID, 5)
    assert bench.last().cause == "failures"
    held = await bench.gate(0, 2 * SOAK)
    assert (held.result, "Infrastructure" in held.reason) == (GateResult.NOT_YET, True)
    bench.decisions.outcomes = Reading(counts={}, probes=Probes(offered=10, delivered=10))
    await bench.process.sweep(ID, 5 + 300_000)
    assert isinstance(bench.last(), e.BreakerProbing)
    assert (await bench.gate(0, 300_006)).result is GateResult.NOT_YET
    await bench.process.sweep(ID, 300_007)
    assert bench.last().cause == "delivered"
    assert (await bench.gate(0, 300_008)).result is GateResult.PROMOTED


async def test_a_worker_that_was_away_does_not_take_its_own_absence_for_silence(bench):
    await bench.launch(*TWO)
    bench.decisions.breaker = BreakerSpec()
    bench.facts.until_ms = 0
    for now in (10**9, 2 * 10**9, 2 * 10**9 + 1_000):
        await bench.process.sweep(ID, now)
    assert (await bench.campaigns.load(ID)).breaker.openings == 0
    for step in range(2, 400):
        await bench.process.sweep(ID, 2 * 10**9 + step * 1_000)
    opened = bench.last()
    assert (opened.cause, opened.since, opened.at) == ("stale", 2 * 10**9, 2 * 10**9 + 301_000)


async def test_a_paused_campaign_is_not_probed_and_an_aborted_one_lets_go(bench):
    await bench.launch(*TWO)
    bench.decisions.breaker = BreakerSpec()
    bench.decisions.outcomes = Reading(counts={"silence": 20})
    await bench.campaigns.order(ID, c.Pause(actor="ann", reason="lunch", ledger_position=0))
    await bench.process.sweep(ID, 5)
    assert isinstance(bench.last(), e.BreakerOpened)
    await bench.process.sweep(ID, 400_000)
    assert isinstance(bench.last(), e.BreakerOpened)
    await bench.campaigns.order(ID, c.Abort(actor="ann", reason="over", ledger_position=0))
    await bench.process.sweep(ID, 400_001)
    assert bench.last().cause == "stopped"
