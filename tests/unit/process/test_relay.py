import asyncio
from contextlib import asynccontextmanager

from orchestrator.adapters.temporal.processes import TemporalConsumer
from orchestrator.adapters.temporal.repair import repair
from orchestrator.app.ports import Meta, Recorded
from orchestrator.app.relay import Relay
from schemas import campaign_events as e
from tests.support.waiting import until


def recorded(position, event=None, stream="campaign/cmp_1"):
    event = event or e.PhaseApproved(actor="bob", phase=0, digest="d")
    return Recorded(
        position=position,
        stream=stream,
        version=position,
        event_id=f"e{position}",
        type=type(event).__name__,
        event=event,
        meta=Meta(actor="ann"),
        command_id=f"c{position}",
        recorded_at=0,
    )


class Store:
    def __init__(self, events=()):
        self.events = list(events)
        self.marks = {}

    async def read(self, after_position, limit):
        return [event for event in self.events if event.position > after_position][:limit]

    async def load(self, consumer):
        return self.marks.get(consumer, 0)

    async def store(self, consumer, position):
        self.marks[consumer] = max(position, self.marks.get(consumer, 0))


class Election:
    """Whoever asks first leads, until the lock is broken."""

    def __init__(self):
        self.leader = None

    def seat(self):
        return Seat(self)


class Seat:
    def __init__(self, election):
        self.election = election

    async def acquire(self):
        if self.election.leader is None:
            self.election.leader = self
        return await self.held()

    async def held(self):
        return self.election.leader is self

    async def release(self):
        if self.election.leader is self:
            self.election.leader = None


class Sink:
    def __init__(self, name="sink"):
        self.name = name
        self.taken = []
        self.failures = 0

    async def deliver(self, events):
        if self.failures:
            self.failures -= 1
            raise OSError("down")
        self.taken += [event.position for event in events]

    async def until(self, count):
        await until(lambda: len(self.taken) >= count)


@asynccontextmanager
async def running(store, sinks, seat=None):
    relay = Relay(store, store, seat or Election().seat(), sinks, poll_ms=1, election_ms=1, first_pause_ms=1)
    stop = asyncio.Event()
    task = asyncio.create_task(relay.run(stop))
    try:
        yield relay
    finally:
        stop.set()
        await task


async def test_every_consumer_takes_the_log_in_its_order():
    store, sinks = Store(map(recorded, range(1, 1201))), [Sink("a"), Sink("b")]
    async with running(store, sinks):
        for sink in sinks:
            await sink.until(1200)
        store.events.append(recorded(1201))
        await sinks[0].until(1201)
    assert sinks[0].taken == list(range(1, 1202))


async def test_a_consumer_that_is_down_is_tried_again_and_does_not_stop_the_others():
    store, broken, sound = Store(map(recorded, range(1, 4))), Sink("broken"), Sink("sound")
    broken.failures = 10**9
    async with running(store, [broken, sound]):
        await sound.until(3)
        assert store.marks == {"sound": 3}
        broken.failures = 1
        await broken.until(3)
    assert broken.taken == [1, 2, 3]


async def test_a_relay_goes_on_where_the_last_one_stopped():
    store, sink = Store(map(recorded, range(1, 6))), Sink()
    store.marks["sink"] = 3
    async with running(store, [sink]):
        await sink.until(2)
    assert sink.taken == [4, 5]


async def test_one_of_two_relays_leads_and_the_other_takes_over():
    store, election, first, second = Store([recorded(1)]), Election(), Sink(), Sink()
    async with running(store, [first], election.seat()) as leader:
        await first.until(1)
        async with running(store, [second], election.seat()) as standby:
            assert (leader.leading, standby.leading) == (True, False)
            election.leader = None  # as when the database ends the leader's session
            await until(lambda: not leader.leading)
            store.events.append(recorded(2))
            await until(lambda: store.marks == {"sink": 2})
    assert sorted(first.taken + second.taken) == [1, 2]


async def test_a_database_that_is_away_ends_no_relay():
    store, sink, seat = Store([recorded(1)]), Sink(), Election().seat()
    answers = [OSError("down"), OSError("down")]
    acquire = seat.acquire

    async def flaky():
        if answers:
            raise answers.pop()
        return await acquire()

    seat.acquire = flaky
    async with running(store, [sink], seat):
        await sink.until(1)


class Processes:
    def __init__(self, running=()):
        self.calls = []
        self.up = set(running)

    async def start(self, campaign_id):
        self.calls.append(("start", campaign_id))

    async def signal_moved(self, campaign_id, position):
        self.calls.append(("moved", campaign_id, position))

    async def running(self, campaign_id):
        return campaign_id in self.up


async def test_launches_and_resumes_start_a_process_and_changes_of_control_signal_it():
    processes = Processes()
    control = {"reason": "r", "ledger_position": 0}
    await TemporalConsumer(processes).deliver(
        [
            recorded(1, e.CampaignLaunched(actor="ann", gate_epoch=1, ledger_position=0)),
            recorded(2, e.SoakStarted(phase=0, at=0, until=1)),
            recorded(3, e.CampaignHalted(by="gate", phase=0, gate_epoch=1, **control)),
            recorded(4, e.CampaignResumed(actor="ann", gate_epoch=2, **control)),
            recorded(5, stream="release/rel_1"),
            recorded(6, e.CampaignAborted(actor="ann", **control), stream="campaign/cmp_2"),
        ]
    )
    assert processes.calls == [
        ("start", "cmp_1"),
        ("moved", "cmp_1", 3),
        ("start", "cmp_1"),
        ("moved", "cmp_1", 4),
        ("moved", "cmp_2", 6),
    ]


async def test_repair_starts_what_should_run_and_does_not():
    processes = Processes(running=["cmp_2"])

    class Unfinished:
        async def campaigns(self):
            return ["cmp_1", "cmp_2", "cmp_3"]

    assert await repair(Unfinished(), processes) == ["cmp_1", "cmp_3"]
    assert processes.calls == [("start", "cmp_1"), ("start", "cmp_3")]
