"""An outage holds a campaign and does not count against the release; a bad release halts it all the same."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.adapters.sql.engine import transaction
from orchestrator.adapters.sql.locks import own_control
from orchestrator.adapters.sql.process import SqlEnrolments
from orchestrator.app.process import CampaignProcess, GateResult
from orchestrator.domain import campaign as c
from orchestrator.domain.breaker import Stage
from schemas import device_events as d
from tests.support.memory_process import Heard
from tests.support.waiting import until
from tests.support.world import T0, World

SECOND = 1_000
BREAKER = {"share": 0.3, "minimum": 20, "window": "10s", "cool_down": "5s", "probes": 4, "stale": "30s"}
HALT = [{"name": "failures", "scope": "campaign", "p0": 0.02, "alpha": 0.01}]


class Outage:
    """A campaign of one phase whose 60 offered devices are in the hands of the test."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.facts = Heard()
        self.process = CampaignProcess(world.store, world.decisions, SqlEnrolments(world.engine), self.facts)

    async def begin(self, **changes) -> None:
        phases = [{"name": "all", "percent": 100.0, "soak": "1s"}]
        plan = {"phases": phases, "breaker": BREAKER, "halt": HALT} | changes
        campaign = await self.world.launch(**plan)
        self.id, self.no = campaign.campaign_id, campaign.campaign_no
        assert await self.process.open_phase(self.id, 0, T0) == "running"
        await self.process.dispatch(self.id, 0, T0)
        self.offers = await self.world.offered(self.no)
        assert len(self.offers) == 60

    async def say(self, devices, kind: str, at: int, **report) -> None:
        for item in list(devices):
            self.world.fact(*item, kind, at, **report)
        await self.world.project()

    async def fails(self, count: int, at: int) -> None:
        """So many downloads fail."""
        await self.say(list(self.offers.items())[:count], d.FAILED, at, failure_class="transport")

    async def campaign(self) -> c.Campaign:
        return await self.world.store.load(self.id)

    async def events(self, kind: str) -> list:
        rows = await self.world.rows(
            "SELECT data FROM event_log WHERE stream = $1 AND type = $2 ORDER BY version", f"campaign/{self.id}", kind
        )
        return [row["data"] for row in rows]

    async def expired(self) -> int:
        return await self.world.value("SELECT count(*) FROM assignment WHERE state = 'expired'")


@pytest.fixture
async def outage(engine) -> Outage:
    world = World(engine)
    await world.setup()
    return Outage(world)


async def test_an_outage_holds_offers_and_deadlines_probes_and_lets_the_campaign_complete(outage):
    await outage.begin()
    devices = list(outage.offers.items())
    silent, waiting = devices[40:42], devices[45]
    await outage.say(silent, d.DOWNLOADING, T0 + SECOND)
    await outage.fails(19, T0 + SECOND)
    await outage.process.sweep(outage.id, T0 + 2 * SECOND)
    assert not (await outage.campaign()).breaker.held, "one outcome too few"
    await outage.fails(30, T0 + SECOND)
    await outage.process.sweep(outage.id, T0 + 2 * SECOND)
    await outage.process.sweep(outage.id, T0 + 2 * SECOND)

    held = await outage.campaign()
    assert (held.state, held.breaker.stage, held.setbacks) == ("running", Stage.OPEN, 1)
    (opened,) = await outage.events("BreakerOpened")
    assert (opened["cause"], opened["outcomes"], opened["failures"]) == ("failures", 30, 30)
    assert opened["classes"] == {"transport": 30}
    stopped = await outage.process.dispatch(outage.id, 0, T0 + 3 * SECOND)
    assert (stopped.granted, stopped.state) == (0, "running")
    assert "breaker" in (stopped.hold or "")
    assert stopped.remaining
    view = await outage.world.offers.current(waiting[0])
    assert view is not None
    assert view.shown == "nothing"
    assert await outage.world.offers.start(*waiting) is None
    started = await outage.world.offers.current(silent[0][0])
    assert started is not None
    assert started.shown == "deployment", "what has started goes on"

    probing_at = T0 + 100 * SECOND
    outage.facts.until_ms = T0 + 60 * SECOND  # behind by more than the limit: nobody knows how things stand
    await outage.process.sweep(outage.id, probing_at)
    assert (await outage.campaign()).breaker.stage is Stage.OPEN
    outage.facts.until_ms = None
    await outage.process.sweep(outage.id, probing_at)
    assert (await outage.campaign()).breaker.stage is Stage.PROBING
    assert await outage.expired() == 0, "neither the offers' time to live nor the confirm deadline has passed"
    first = await outage.process.dispatch(outage.id, 0, probing_at)
    second = await outage.process.dispatch(outage.id, 0, probing_at + 1)
    assert (first.granted, second.granted) == (4, 0)
    assert await outage.world.offers.start(*waiting) is None, "an offer of before the outage is no probe"
    probes = {no: action for no, action in (await outage.world.offered(outage.no)).items() if no not in outage.offers}
    assert len(probes) == 4
    for item in probes.items():
        assert await outage.world.offers.start(*item) is not None
    assert (await outage.process.evaluate_gate(outage.id, 0, probing_at)).result is GateResult.NOT_YET
    await outage.say(list(probes.items())[:2], d.INSTALLED, probing_at + SECOND)
    await outage.process.sweep(outage.id, probing_at + 2 * SECOND)
    assert (await outage.campaign()).breaker.stage is Stage.PROBING
    await outage.say(list(probes.items())[:3], d.INSTALLED, probing_at + SECOND)
    closed_at = probing_at + 3 * SECOND
    await outage.process.sweep(outage.id, closed_at)
    after = await outage.campaign()
    assert (after.breaker.stage, after.breaker.pauses) == (Stage.CLOSED, ((T0 + 2 * SECOND, closed_at),))
    assert await outage.expired() == 0

    assert (await outage.process.dispatch(outage.id, 0, closed_at)).granted
    view = await outage.world.offers.current(waiting[0])
    assert view is not None
    assert view.shown == "deployment"
    due = closed_at + 19 * SECOND  # one second of the deadline had passed before the outage
    await outage.process.sweep(outage.id, due - 1)
    assert await outage.expired() == 0
    await outage.process.sweep(outage.id, due)
    lost = await outage.world.rows("SELECT device_no, reason FROM assignment WHERE state = 'expired' ORDER BY 1")
    assert lost == [{"device_no": no, "reason": "silent"} for no, _ in sorted(silent)]

    now = due
    for _ in range(100):
        now += SECOND
        await outage.process.dispatch(outage.id, 0, now)
        going = await outage.world.rows(
            "SELECT device_no, action_id FROM assignment WHERE state IN ('offered', 'accepted', 'installed')"
        )
        await outage.say([(row["device_no"], row["action_id"]) for row in going], d.CONFIRMED, now)
        await outage.process.sweep(outage.id, now)
        if (await outage.process.evaluate_gate(outage.id, 0, now)).result is GateResult.PROMOTED:
            break
    assert (await outage.process.finish(outage.id, now)).state == "completed"
    assert await outage.world.value("SELECT sum(failed)::int FROM gate_count") == 0, "nothing is blamed on the release"
    await outage.world.recount()


async def test_probes_that_fail_open_it_again_for_twice_as_long(outage):
    await outage.begin()
    await outage.fails(30, T0 + SECOND)
    now = T0 + 2 * SECOND
    await outage.process.sweep(outage.id, now)
    for repeats in (1, 2):
        now = (await outage.campaign()).breaker.until
        await outage.process.sweep(outage.id, now)
        await outage.process.dispatch(outage.id, 0, now)
        probes = {n: a for n, a in (await outage.world.offered(outage.no)).items() if n not in outage.offers}
        await outage.say(list(probes.items())[:2], d.FAILED, now + 1, failure_class="integrity")
        await outage.process.sweep(outage.id, now + 2)
        breaker = (await outage.campaign()).breaker
        assert (breaker.stage, breaker.repeats, breaker.openings) == (Stage.OPEN, repeats, repeats + 1)
        assert breaker.until == now + 2 + (5_000 << repeats)
    assert (await outage.campaign()).setbacks == 1
    assert len(breaker.pauses) == 1, "deadlines stood still all the while"


async def test_a_probing_that_nobody_takes_ends_with_the_offers_time_to_live(outage):
    await outage.begin()
    await outage.fails(30, T0 + SECOND)
    await outage.process.sweep(outage.id, T0 + 2 * SECOND)
    began = T0 + 10 * SECOND
    await outage.process.sweep(outage.id, began)
    await outage.process.dispatch(outage.id, 0, began)
    await outage.process.sweep(outage.id, began + 60 * SECOND - 1)
    assert (await outage.campaign()).breaker.held
    await outage.process.sweep(outage.id, began + 60 * SECOND)
    (closed,) = await outage.events("BreakerClosed")
    assert closed["cause"] == "no_probes"


async def test_release_failures_halt_while_it_is_open_and_a_resume_begins_with_it_closed(outage):
    await outage.begin()
    devices = list(outage.offers.items())
    await outage.say(devices[30:], d.TRIAL, T0 + SECOND)
    await outage.fails(30, T0 + SECOND)
    await outage.process.sweep(outage.id, T0 + 2 * SECOND)
    assert (await outage.campaign()).breaker.stage is Stage.OPEN
    await outage.say(devices[30:], d.REVERTED, T0 + 3 * SECOND, failure_class="boot")
    halted = await outage.campaign()
    assert (halted.state, halted.breaker.stage, halted.setbacks) == ("halted", Stage.OPEN, 0)
    await outage.process.sweep(outage.id, T0 + 4 * SECOND)
    (closed,) = await outage.events("BreakerClosed")
    assert closed["cause"] == "stopped"
    await outage.world.command(outage.id, lambda *_: c.Approve(actor="bob", digest=halted.digest))
    await outage.world.command(
        outage.id, lambda _, s: c.Resume(actor="ann", reason="fixed", ledger_position=s.ledger_position)
    )
    await outage.process.sweep(outage.id, T0 + 5 * SECOND)
    resumed = await outage.campaign()
    assert (resumed.state, resumed.breaker.stage) == ("running", Stage.CLOSED)
    assert (await outage.process.dispatch(outage.id, 0, T0 + 6 * SECOND)).hold is None


async def test_devices_that_are_not_heard_open_it_and_their_silence_halts_nobody(outage):
    await outage.begin(confirm_deadline="40s")
    await outage.say(outage.offers.items(), d.TRIAL, T0 + SECOND)
    outage.facts.until_ms = heard = T0 + 2 * SECOND
    for now in range(T0 + 2 * SECOND, T0 + 90 * SECOND, SECOND):
        await outage.process.sweep(outage.id, now)
    (opened,) = await outage.events("BreakerOpened")
    assert (opened["cause"], opened["since"], opened["at"]) == ("stale", heard, heard + 31 * SECOND)
    assert (await outage.campaign()).setbacks == 0
    assert (await outage.process.dispatch(outage.id, 0, T0 + 80 * SECOND)).granted == 0

    outage.facts.until_ms = None
    closed_at = T0 + 90 * SECOND
    await outage.process.sweep(outage.id, closed_at)
    (closed,) = await outage.events("BreakerClosed")
    assert (closed["cause"], closed["resumes_at"]) == ("heard", closed_at + 30 * SECOND)
    due = closed_at + (30 + 39) * SECOND
    await outage.process.sweep(outage.id, due - 1)
    assert (await outage.expired(), (await outage.campaign()).state) == (0, "running")
    await outage.process.sweep(outage.id, due)
    assert (await outage.campaign()).state == "halted", "heard all the while, silence in trial is the release's failure"


async def test_matured_is_one_deadline_of_running_time_old(outage):
    await outage.begin()
    await outage.say(outage.offers.items(), d.CONFIRMED, T0 + SECOND)
    reading = await outage.world.decisions.read_gate(outage.id, 0, T0 + 22 * SECOND)
    assert reading.matured == 60
    outage.facts.until_ms = T0 + 2 * SECOND
    for now in range(T0 + 2 * SECOND, T0 + 40 * SECOND, SECOND):
        await outage.process.sweep(outage.id, now)
    assert (await outage.campaign()).breaker.pauses[0][0] == T0 + 2 * SECOND
    reading = await outage.world.decisions.read_gate(outage.id, 0, T0 + 60 * SECOND)
    assert reading.matured == 0


async def test_a_plan_without_one_is_never_held(outage):
    await outage.begin(breaker=None)
    await outage.fails(60, T0 + SECOND)
    outage.facts.until_ms = T0
    for now in range(T0 + 2 * SECOND, T0 + 50 * SECOND, SECOND):
        await outage.process.sweep(outage.id, now)
    assert (await outage.campaign()).breaker.openings == 0
    assert await outage.world.value("SELECT count(*) FROM delivery") == 0


async def test_counts_equal_a_recount_of_the_rows(outage):
    await outage.begin()
    devices = list(outage.offers.items())
    await outage.say(devices[:20], d.INSTALLED, T0 + SECOND)
    await outage.say(devices[:10], d.CONFIRMED, T0 + 2 * SECOND)
    await outage.say(devices[15:18], d.FAILED, T0 + 3 * SECOND, failure_class="boot")
    await outage.say(devices[20:30], d.FAILED, T0 + 2 * SECOND, failure_class="transport")
    found = await outage.world.rows(
        "SELECT bucket, outcome, sum(n)::int AS n FROM delivery GROUP BY 1, 2 HAVING sum(n) <> 0 ORDER BY 1, 2"
    )
    assert [(row["bucket"] - T0 // 500, row["outcome"], row["n"]) for row in found] == [
        (2, "delivered", 7),
        (4, "delivered", 10),
        (4, "transport", 10),
        (6, "delivered", 3),
    ]


@pytest.mark.parametrize("opens_first", [True, False])
@pytest.mark.parametrize("what", ["slice", "start"])
async def test_an_opening_and_an_offer_at_once_come_one_after_the_other(outage, what, opens_first):
    await outage.begin()
    await outage.fails(30, T0 + SECOND)
    last = list(outage.offers.items())[-1]

    async def decide():
        if what == "start":
            return int(await outage.world.offers.start(*last) is not None)
        return (await outage.process.dispatch(outage.id, 0, T0 + 2 * SECOND)).granted

    async def waiting(n: int) -> None:
        async def so_many():
            return await outage.world.value("SELECT count(*) FROM pg_locks WHERE NOT granted") == n

        await until(so_many)

    both = [lambda: outage.process.sweep(outage.id, T0 + 2 * SECOND), decide]
    order = both if opens_first else both[::-1]
    async with transaction(outage.world.engine) as conn:
        await own_control(conn, outage.no)
        tasks = []
        for number, each in enumerate(order, 1):
            tasks.append(asyncio.create_task(each()))
            await waiting(number)
    results = await asyncio.gather(*tasks)
    granted = results[1] if opens_first else results[0]
    assert (granted == 0) == opens_first
    (opened,) = await outage.events("BreakerOpened")
    after = await outage.world.value(
        "SELECT count(*) FROM decision_ledger WHERE position > $1 AND kind IN ('offer', 'start')",
        opened["ledger_position"],
    )
    assert after == 0


async def test_two_workers_look_at_once_and_it_opens_once(outage):
    await outage.begin()
    await outage.fails(30, T0 + SECOND)
    other = CampaignProcess(outage.world.store, outage.world.decisions, SqlEnrolments(outage.world.engine), Heard())
    await asyncio.gather(*(each.sweep(outage.id, T0 + 2 * SECOND) for each in (outage.process, other)))
    assert len(await outage.events("BreakerOpened")) == 1
