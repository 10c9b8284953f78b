"""Rules on health: devices confirm a release and then crash."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import log
from typing import Any

import pytest

from orchestrator.adapters.clock import now_ms
from orchestrator.adapters.sql.engine import transaction
from orchestrator.adapters.sql.health_gate import LATE_MS, readings
from orchestrator.domain import campaign as c
from orchestrator.domain.health_rule import HELD, Reading
from schemas import device_events as d
from tests.support.world import World

HOUR = 3_600_000
FAILURES = {"name": "failures", "scope": "campaign", "p0": 0.02, "alpha": 0.004}
CRASHES = {
    "test": "exposure",
    "name": "crashes",
    "signal": "crash",
    "scope": "campaign",
    "per_hour": 0.01,
    "alpha": 0.002,
}
VERSUS = {"test": "canary-vs-holdback", "name": "against-holdback", "signal": "crash", "alpha": 0.004, "span": "1h"}


@pytest.fixture
async def world(engine):
    made = World(engine)
    await made.setup()
    return made


@dataclass
class Fleet:
    """A campaign whose devices have all confirmed the release; the log's time is the real one, so hours count from here."""

    world: World
    campaign: c.Campaign
    treated: list[int]
    held: list[int]
    base: int

    def at(self, hour: float) -> int:
        return self.base + round(hour * HOUR)

    async def live(self, hour: int, crashing: Iterable[int] = ()) -> None:
        """Every device reports the hour before ``hour``; some crashed once."""
        crashed = set(crashing)
        for device in (*self.treated, *self.held):
            self.world.health(device, hour, self.at(hour), events=int(device in crashed))
        await self.world.project()

    async def judge(self, hour: float) -> bool:
        """A look of the worker, when everything up to ``hour`` has been heard."""
        return await self.world.decisions.judge_health(self.campaign.campaign_id, self.at(hour) + LATE_MS + 1)

    async def now(self) -> c.Campaign:
        return await self.world.store.load(self.campaign.campaign_id)

    async def reading(self, rule: str, epoch: int = 1) -> Reading:
        async with transaction(self.world.engine) as conn:
            return (await readings(conn, self.campaign.campaign_no, epoch))[rule]


async def confirmed(world: World, holdback: float, *rules: dict[str, Any]) -> Fleet:
    campaign = await world.launch(
        cohort={"stratify_by": ["hardware_model"], "holdback_percent": holdback, "salt": "salt"},
        phases=[{"name": "all", "percent": 100.0, "soak": "0s"}],
        halt=[FAILURES, *rules],
        max_in_flight={"initial": 200, "maximum": 200},
        confirm_deadline="1h",
    )
    await world.open_phase(campaign.campaign_id, 0, now_ms())
    await world.decisions.dispatch(campaign.campaign_id, 0, 500, now_ms())
    treated = sorted(await world.offered(campaign.campaign_no))
    for device, action in (await world.offered(campaign.campaign_no)).items():
        await world.offers.start(device, action)
        world.fact(device, action, d.CONFIRMED, now_ms())
    await world.project()
    return Fleet(world, campaign, treated, sorted(world.fleet.keys() - set(treated)), now_ms() + 1_000)


# ---- exposure


async def test_a_release_whose_devices_crash_after_confirming_halts_the_campaign(world):
    fleet = await confirmed(world, 1.0, CRASHES)
    await fleet.live(1, fleet.treated[:6])
    assert not await fleet.judge(1), "six crashes in 198 hours are not enough"
    await fleet.live(2, fleet.treated[6:20])
    assert await fleet.judge(2)
    campaign = await fleet.now()
    assert campaign.state is c.CampaignState.HALTED
    halt = campaign.halt
    assert halt is not None
    assert (halt.by, halt.rule, halt.scope, halt.signal) == ("gate", "crashes", "campaign", "crash")
    assert (halt.events, halt.exposure_ms) == (20, 2 * len(fleet.treated) * HOUR)
    assert halt.expected == pytest.approx(0.01 * 2 * len(fleet.treated))
    assert halt.log_e >= -log(halt.alpha)
    assert (halt.alpha, halt.held_events, halt.n, halt.bound) == (0.002, None, None, None)
    assert "20 times 'crash' in 396.0 device hours" in halt.reason
    # It is taken once, and everything else that a halt does is done.
    assert not await fleet.judge(3)
    assert (await fleet.now()).version == campaign.version
    assert (await world.decisions.dispatch(campaign.campaign_id, 0, 500, now_ms())).state == "halted"


async def test_as_many_crashes_as_are_acceptable_halt_nothing(world):
    fleet = await confirmed(world, 1.0, CRASHES)
    for hour in range(1, 9):
        await fleet.live(hour, fleet.treated[2 * hour : 2 * hour + 2])
        assert not await fleet.judge(hour)
    assert (await fleet.now()).state is c.CampaignState.RUNNING
    (cell,) = [sum(cell.events for cell in (await fleet.reading("crashes")).cells)]
    assert cell == 16


async def test_what_was_not_heard_yet_is_counted_at_a_later_look(world):
    fleet = await confirmed(world, 1.0, CRASHES)
    await fleet.live(1, fleet.treated[:60])
    assert not await fleet.judge(0.5)
    assert await fleet.judge(1)


async def test_other_signals_and_periods_from_before_the_start_do_not_count(world):
    fleet = await confirmed(world, 1.0, CRASHES)
    for device in fleet.treated:
        world.health(device, 1, fleet.at(1), events=1, signal="reset")
        world.health(device, 2, fleet.at(1), events=1, exposure_ms=2 * HOUR)
    for device in fleet.held:
        world.health(device, 3, fleet.at(1), events=9)
    await world.project()
    assert not await fleet.judge(1)
    assert (await fleet.reading("crashes")).cells == ()


async def test_a_paused_campaign_halts_too_and_a_new_epoch_begins_afresh(world):
    fleet = await confirmed(world, 1.0, CRASHES)
    campaign_id = fleet.campaign.campaign_id
    await world.command(campaign_id, lambda _, s: c.Pause(actor="ann", reason="l", ledger_position=s.ledger_position))
    await fleet.live(1, fleet.treated[:60])
    assert await fleet.judge(1)
    digest = (await fleet.now()).digest
    await world.command(campaign_id, lambda *_: c.Approve(actor="bob", digest=digest))
    await world.command(campaign_id, lambda _, s: c.Resume(actor="ann", reason="f", ledger_position=s.ledger_position))
    await fleet.live(2, fleet.treated[60:])
    assert not await fleet.judge(2), "devices that an earlier epoch started are no evidence in this one"
    assert (await fleet.now()).gate_epoch == 2
    assert (await fleet.reading("crashes", 2)).cells == ()


async def test_what_a_device_does_in_a_later_campaign_says_nothing_about_this_one(world):
    first = await confirmed(world, 1.0, CRASHES)
    second = await confirmed(world, 1.0, CRASHES)
    both = set(first.treated) & set(second.treated)
    assert len(both) > 100
    await second.live(1, second.treated[:60])
    assert not await first.judge(2)
    assert await second.judge(1)
    alone = len(first.treated) - len(both)
    assert sum(cell.exposure_ms for cell in (await first.reading("crashes")).cells) == alone * HOUR


# ---- canary versus holdback


async def test_an_incident_that_hits_both_arms_does_not_halt(world):
    fleet = await confirmed(world, 50.0, VERSUS)
    assert len(fleet.treated) == len(fleet.held) == 100
    await fleet.live(1)
    await fleet.live(2, world.fleet)
    await fleet.live(3, world.fleet)
    assert not await fleet.judge(5)
    assert (await fleet.now()).state is c.CampaignState.RUNNING
    scores = (await fleet.reading("against-holdback")).scores.values()
    assert sum(score.failures for score in scores) == 200, "every device counts once"


async def test_what_hits_only_the_treated_halts(world):
    fleet = await confirmed(world, 50.0, VERSUS)
    await fleet.live(1, [*fleet.treated[:2], *fleet.held[:2]])
    assert not await fleet.judge(2)
    await fleet.live(2, fleet.treated[:30])
    assert not await fleet.judge(2), "the span is not over"
    assert await fleet.judge(3.5)
    halt = (await fleet.now()).halt
    assert halt is not None
    assert (halt.rule, halt.scope, halt.events, halt.held_events) == ("against-holdback", "campaign", 30, 2)
    assert halt.log_e >= -log(halt.alpha)
    assert "30 of 32 devices that showed 'crash' were treated" in halt.reason


async def test_one_device_that_always_crashes_is_one_failure(world):
    fleet = await confirmed(world, 50.0, VERSUS)
    for hour in range(1, 40):
        await fleet.live(hour, fleet.treated[:1])
    assert not await fleet.judge(41)
    scores = (await fleet.reading("against-holdback")).scores.values()
    assert sum(score.failures for score in scores) == 1


# ---- any order, any number of looks


async def test_repetition_order_and_the_number_of_looks_change_nothing(world):
    lax = CRASHES | {"per_hour": 50.0}
    fleet = await confirmed(world, 30.0, lax, VERSUS | {"alpha": 1e-6})
    dice = random.Random(4)
    for hour in range(1, 6):
        await fleet.live(hour, dice.sample(sorted(world.fleet), 10))
        await fleet.judge(hour)
    await fleet.judge(7)
    rows = await world.rows("SELECT * FROM health_report ORDER BY 1, 2, 3")
    looked = {rule: await fleet.reading(rule) for rule in ("crashes", "against-holdback")}
    # Everything is said again, in another order and with other numbers; and then counted at once.
    said = [*rows, *rows]
    dice.shuffle(said)
    for row in said:
        more = {"events": row["events"] + 1, "exposure_ms": row["exposure_ms"]}
        world.health(row["device_no"], row["period"], row["recorded_at"] + dice.randrange(1, 9), **more)
    await world.project()
    assert await world.rows("SELECT * FROM health_report ORDER BY 1, 2, 3") == rows
    await world.rows("DELETE FROM health_reading RETURNING 1")
    await fleet.judge(7)
    for rule, before in looked.items():
        again = await fleet.reading(rule)
        assert (again.until, again.cells) == (before.until, before.cells)
        for stratum, score in before.scores.items():
            assert again.scores[stratum].costs == pytest.approx(score.costs)


async def test_the_database_counts_what_the_rule_says(world):
    """Random histories, counted by hand: arms, whole periods, first events."""
    fleet = await confirmed(world, 40.0, CRASHES | {"per_hour": 500.0}, VERSUS | {"alpha": 1e-6, "span": "30m"})
    dice = random.Random(11)
    period = 0
    for device in world.fleet:
        for _ in range(dice.randrange(6)):
            period += 1
            length = dice.randrange(1, HOUR)
            events = dice.choice([0, 0, 0, 1, 5])
            world.health(device, period, fleet.at(dice.uniform(-0.5, 4)), events=events, exposure_ms=length)
    await world.project()
    await fleet.judge(6)
    strata = {row["stratum"]: row["key"] for row in await world.rows("SELECT stratum, key FROM stratum")}
    started = {
        row["device_no"]: (row["phase"], strata[row["stratum"]], row["first_started_at"])
        for row in await world.rows("SELECT device_no, phase, stratum, first_started_at FROM assignment")
    }
    opened = await world.value("SELECT recorded_at FROM event_log WHERE type = 'CampaignLaunched'")
    frozen = await world.value("SELECT min(at) FROM decision_ledger WHERE kind = 'enrol'")
    model = {device: f"hardware_model={row[2]}" for device, row in world.fleet.items()}
    reports = await world.rows(
        "SELECT * FROM health_report WHERE recorded_at >= $1 ORDER BY recorded_at, period", opened
    )
    exposed: Counter[tuple[int, str, str]] = Counter()
    compared: Counter[tuple[int, str, str]] = Counter()
    failed: set[int] = set()
    for row in reports:
        device = row["device_no"]
        phase, stratum, since = started.get(device, (HELD, model[device], max(opened, frozen)))
        if row["recorded_at"] - row["exposure_ms"] >= since:
            if phase != HELD:
                exposed[phase, stratum, "events"] += row["events"]
                exposed[phase, stratum, "exposure_ms"] += row["exposure_ms"]
            if device not in failed:
                compared[phase, stratum, "events"] += bool(row["events"])
                compared[phase, stratum, "exposure_ms"] += row["exposure_ms"]
        if row["events"]:
            failed.add(device)
    assert len(failed) > 50
    for rule, wanted in (("crashes", exposed), ("against-holdback", compared)):
        cells = (await fleet.reading(rule)).cells
        found = {
            (cell.phase, cell.stratum, name): getattr(cell, name)
            for cell in cells
            for name in ("events", "exposure_ms")
        }
        assert found == dict(wanted)
