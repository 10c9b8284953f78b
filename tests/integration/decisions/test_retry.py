"""Further attempts on the real database: who gets one, who no longer does, and that each device is counted once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrator.adapters.sql.queries import SqlQueries
from orchestrator.adapters.sql.retrying import AT_ONCE, RETRY
from orchestrator.app.process import CampaignProcess, GateResult
from orchestrator.domain import campaign as c
from schemas import device_events as d
from schemas.campaign_events import CampaignHalted
from tests.support.memory_process import Heard
from tests.support.world import T0, World

RETRIES = {
    "max_attempts": 3,
    "backoff": {"initial": "10m", "maximum": "1h"},
    "per_class": {"health": {"max_attempts": 2}},
}
PAUSE = 600_000
LATER = T0 + PAUSE
LENIENT = [{"name": "failures", "scope": "campaign", "p0": 0.4, "alpha": 0.01}]


@pytest.fixture
async def world(engine):
    made = World(engine)
    await made.setup()
    return made


async def begin(world: World, **changes: Any) -> tuple[c.Campaign, dict[int, int]]:
    """A campaign whose canaries have started."""
    campaign = await world.launch(**({"retry": RETRIES, "halt": LENIENT} | changes))
    await world.open_phase(campaign.campaign_id, 0, T0)
    await world.decisions.dispatch(campaign.campaign_id, 0, 500, T0)
    offered = await world.offered(campaign.campaign_no)
    await start(world, offered)
    return campaign, offered


async def start(world: World, offered: dict[int, int]) -> None:
    views = await asyncio.gather(*(world.offers.start(*item) for item in offered.items()))
    assert all(views)


async def filed(world: World) -> int:
    return await world.value("SELECT count(*) FROM due_queue WHERE what = $1 AND due_at = $2", RETRY, AT_ONCE)


async def queued(world: World) -> dict[int, dict[str, Any]]:
    rows = await world.rows("SELECT * FROM offer_queue WHERE attempt > 1")
    return {row["device_no"]: row for row in rows}


async def ledger(world: World, kind: str) -> list[dict[str, Any]]:
    return await world.rows("SELECT * FROM decision_ledger WHERE kind = $1 ORDER BY position", kind)


async def row_of(world: World, device: int) -> dict[str, Any]:
    (row,) = await world.rows("SELECT * FROM assignment WHERE device_no = $1", device)
    return row


async def order(world: World, campaign: c.Campaign, what: str) -> None:
    def build(now: c.Campaign, standing: Any) -> c.Command:
        position = standing.ledger_position
        match what:
            case "pause":
                return c.Pause(actor="ann", reason="r", ledger_position=position)
            case "resume":
                return c.Resume(actor="ann", reason="r", ledger_position=position)
            case "abort":
                return c.Abort(actor="ann", reason="r", ledger_position=position)
            case "approve":
                return c.Approve(actor="bob", digest=now.digest or "")
            case _:
                return c.Halt(
                    event=CampaignHalted(
                        by="ann", reason="r", phase=now.phase, gate_epoch=now.gate_epoch, ledger_position=position
                    )
                )

    await world.command(campaign.campaign_id, build)


async def test_a_transport_failure_that_a_retry_cures_does_not_count_against_the_release(world):
    campaign, offered = await begin(world)
    device, action = next(iter(offered.items()))
    world.fact(device, action, d.FAILED, T0 + 5, failure_class="transport", reason="timeout")
    await world.project()
    assert await filed(world) == 1
    swept = await world.decisions.sweep(campaign.campaign_id, T0, T0)
    assert (swept.requeued, await filed(world)) == (1, 0)
    (decided,) = await ledger(world, "retry")
    assert (decided["device_nos"], decided["attempt"], decided["cause"]) == ([device], 2, "transport")
    assert decided["not_before"] == T0 + PAUSE
    entry = (await queued(world))[device]
    assert T0 + PAUSE * 9 // 10 <= entry["not_before"] <= T0 + PAUSE
    shown = (await SqlQueries(world.engine).device(f"dev-{device:04}")).assignments[0]
    assert (shown.attempt, shown.next_attempt_at) == (1, entry["not_before"])
    early = await world.decisions.dispatch(campaign.campaign_id, 0, 500, entry["not_before"] - 1)
    assert (early.granted, early.remaining) == (0, 1)
    late = await world.decisions.dispatch(campaign.campaign_id, 0, 500, entry["not_before"])
    assert late.granted == 1
    again = await world.offered(campaign.campaign_no)
    assert again.keys() == {device}
    assert again[device] != action
    await start(world, again)
    for each, own in (offered | again).items():
        world.fact(each, own, d.CONFIRMED, LATER)
    await world.project()
    row = await row_of(world, device)
    assert (row["state"], row["attempt"], row["failed_at"]) == ("confirmed", 2, None)
    started_at = await world.value("SELECT max(first_started_at) FROM assignment")
    gate = await world.decisions.read_gate(campaign.campaign_id, 0, started_at + 21_000)
    assert (gate.matured, gate.failures) == (40, 0)
    assert await world.value("SELECT sum(started)::bigint FROM gate_count") == 40
    await world.recount()


async def test_a_release_failure_stays_counted_though_a_retry_confirms(world):
    campaign, offered = await begin(world)
    device, action = next(iter(offered.items()))
    world.fact(device, action, d.REVERTED, T0 + 4, failure_class="boot")
    other, others = list(offered.items())[1]
    world.fact(other, others, d.FAILED, T0 + 5, failure_class="health")
    await world.project()
    assert await filed(world) == 1, "the plan names health, and does not name reverted"
    await world.decisions.sweep(campaign.campaign_id, T0, T0)
    assert (await queued(world)).keys() == {other}
    await world.decisions.dispatch(campaign.campaign_id, 0, 500, LATER)
    again = await world.offered(campaign.campaign_no)
    await start(world, again)
    world.fact(other, again[other], d.CONFIRMED, LATER)
    await world.project()
    row = await row_of(world, other)
    assert (row["state"], row["attempt"], row["failed_at"], row["failed_class"]) == ("confirmed", 2, T0 + 5, "health")
    assert await world.value("SELECT sum(failed)::bigint FROM gate_count") == 2
    started_at = await world.value("SELECT max(first_started_at) FROM assignment")
    gate = await world.decisions.read_gate(campaign.campaign_id, 0, started_at + 21_000)
    assert (gate.matured, gate.failures) == (40, 40), "38 say nothing, one reverted, one failed before it confirmed"
    await world.recount()


async def test_attempts_end_with_the_plan_and_pauses_grow(world):
    campaign, offered = await begin(world)
    device = next(iter(offered))
    pauses: list[int] = []
    now = T0
    for attempt in (1, 2, 3):
        world.fact(device, offered[device], d.FAILED, now, failure_class="integrity")
        await world.project()
        await world.decisions.sweep(campaign.campaign_id, now, T0)
        waiting = (await queued(world)).get(device)
        if attempt == 3:
            assert waiting is None
            break
        assert waiting is not None
        pauses.append(waiting["not_before"] - now)
        now = waiting["not_before"]
        await world.decisions.dispatch(campaign.campaign_id, 0, 500, now)
        offered = await world.offered(campaign.campaign_no)
        await start(world, offered)
    assert pauses[1] in range(2 * pauses[0] - 2, 2 * pauses[0] + 3)
    assert len(await ledger(world, "retry")) == 2
    await world.recount()


async def test_only_those_who_fell_silent_before_the_installation_are_tried_again(world):
    campaign, offered = await begin(world)
    early, trial = list(offered)[:2]
    started_at = await world.value("SELECT max(started_at) FROM assignment")
    world.fact(early, offered[early], d.DOWNLOADING, started_at)
    world.fact(trial, offered[trial], d.TRIAL, started_at)
    for device in list(offered)[2:]:
        world.fact(device, offered[device], d.CONFIRMED, started_at)
    await world.project()
    deadline = started_at + 20_000
    swept = await world.decisions.sweep(campaign.campaign_id, deadline, deadline)
    assert (swept.expired, swept.silent, swept.requeued) == (2, 1, 1)
    assert (await queued(world)).keys() == {early}
    world.fact(early, offered[early], d.INSTALLED, deadline + 1)
    await world.project()
    await world.decisions.sweep(campaign.campaign_id, deadline, deadline)
    assert await queued(world) == {}, "its slot may hold an unconfirmed image after all"
    assert [row["device_nos"] for row in await ledger(world, "unqueue")] == [[early]]
    assert await world.value("SELECT count(*) FROM device_slot") == 2
    await world.recount()


@pytest.mark.parametrize("who", ["sweep", "slice"])
async def test_a_device_that_turned_out_confirmed_is_not_offered_again(world, who):
    campaign = await world.launch(retry={"max_attempts": 2})
    campaign_id = campaign.campaign_id
    await world.open_phase(campaign_id, 0, T0)
    await world.decisions.dispatch(campaign_id, 0, 1, T0)
    offered = await world.offered(campaign.campaign_no)
    (device,) = offered
    swept = await world.decisions.sweep(campaign_id, T0 + 60_000, T0)
    assert swept.requeued == 1
    await world.rows("DELETE FROM offer_queue WHERE attempt = 1 RETURNING 1")
    # It had taken the offer all the same: its reports were late.
    if who == "sweep":
        world.fact(device, offered[device], d.CONFIRMED, T0 + 60_001)
        await world.project()
        await world.decisions.sweep(campaign_id, T0 + 60_002, T0)
    else:
        world.fact(device, offered[device], d.CONFIRMED, T0 + 60_001)
        await world.project()
        done = await world.decisions.dispatch(campaign_id, 0, 500, T0 + 200_000)
        assert (done.granted, done.remaining) == (0, 0)
    assert await queued(world) == {}
    (entry,) = await ledger(world, "unqueue")
    assert (entry["device_nos"], entry["attempt"]) == ([device], 2)
    assert (await row_of(world, device))["state"] == "confirmed"
    assert await world.value("SELECT count(*) FROM device_slot WHERE device_no = $1", device) == 0


async def test_a_later_report_between_the_failure_and_the_sweep_takes_the_reason_away(world):
    campaign, offered = await begin(world)
    device, action = next(iter(offered.items()))
    world.fact(device, action, d.FAILED, T0 + 5, failure_class="transport")
    await world.project()
    world.fact(device, action, d.REVERTED, T0 + 6, failure_class="boot")
    await world.project()
    swept = await world.decisions.sweep(campaign.campaign_id, T0, T0)
    assert (swept.requeued, await filed(world), await queued(world)) == (0, 0, {})
    assert await ledger(world, "unqueue") == []


async def test_repeated_and_raised_failures_are_one_retry(world):
    plan = {"max_attempts": 3, "backoff": {}, "per_class": {"rejected": {}}}
    campaign, offered = await begin(world, retry=plan)
    device, action = next(iter(offered.items()))
    for kind, blame in ((d.REJECTED, None), (d.FAILED, "transport"), (d.FAILED, "transport")):
        world.fact(device, action, kind, T0 + 5, failure_class=blame)
        await world.project()
        await world.decisions.sweep(campaign.campaign_id, T0, T0)
    assert len(await ledger(world, "retry")) == 1
    assert len(await queued(world)) == 1


async def test_batches_without_a_reason_to_try_again_file_nothing(world):
    _, offered = await begin(world, retry={"max_attempts": 3})
    devices = list(offered)
    for device, kind in zip(devices, [d.CONFIRMED, d.FAILED, d.REVERTED, d.REJECTED, d.CANCELLED], strict=False):
        blame = "transport" if kind == d.FAILED else None
        world.fact(device, offered[device], kind, T0 + 5, failure_class=blame)
    await world.project()
    assert await filed(world) == 0, "such a plan is about offers alone"


async def test_a_stopped_campaign_decides_retries_and_offers_them_once_it_runs_again(world):
    campaign, offered = await begin(world)
    devices = list(offered)
    await order(world, campaign, "pause")
    world.fact(devices[0], offered[devices[0]], d.FAILED, T0, failure_class="transport")
    await world.project()
    assert (await world.decisions.sweep(campaign.campaign_id, T0, T0)).requeued == 1
    assert (await world.decisions.dispatch(campaign.campaign_id, 0, 500, LATER)).granted == 0
    await order(world, campaign, "halt")
    world.fact(devices[1], offered[devices[1]], d.FAILED, T0, failure_class="transport")
    await world.project()
    assert (await world.decisions.sweep(campaign.campaign_id, T0, T0)).requeued == 1
    assert (await world.decisions.dispatch(campaign.campaign_id, 0, 500, LATER)).granted == 0
    world.fact(devices[2], offered[devices[2]], d.FAILED, T0, failure_class="transport")
    await world.project()
    assert (await world.decisions.sweep(campaign.campaign_id, T0, T0)).requeued == 0, "it was asked to stop"
    await order(world, campaign, "approve")
    await order(world, campaign, "resume")
    assert (await world.decisions.dispatch(campaign.campaign_id, 0, 500, LATER)).granted == 2
    await world.recount()


async def test_after_an_abort_nothing_is_tried_again(world):
    campaign, offered = await begin(world)
    devices = list(offered)
    world.fact(devices[0], offered[devices[0]], d.FAILED, T0, failure_class="transport")
    await world.project()
    assert await filed(world) == 1
    await order(world, campaign, "abort")
    world.fact(devices[1], offered[devices[1]], d.FAILED, T0, failure_class="transport")
    await world.project()
    assert (await world.decisions.sweep(campaign.campaign_id, LATER, T0)).requeued == 0
    assert (await filed(world), await ledger(world, "retry"), await queued(world)) == (0, [], {})


async def test_a_pause_before_another_attempt_blocks_no_promote_test_but_the_end_of_the_campaign(world):
    campaign, offered = await begin(
        world,
        phases=[
            {"name": "canary", "percent": 2.0, "min_count": 40, "soak": 0, "promote": {"p1": 0.2, "beta": 0.05}},
            {"name": "rest", "percent": 100.0, "soak": 0},
        ],
        max_in_flight={"initial": 300, "maximum": 300},
    )
    process = CampaignProcess(world.store, world.decisions, None, Heard())  # type: ignore[arg-type]
    campaign_id, first = campaign.campaign_id, next(iter(offered))
    for device, action in offered.items():
        failed = device == first
        kind = d.FAILED if failed else d.CONFIRMED
        world.fact(device, action, kind, T0 + 5, failure_class="transport" if failed else None)
    await world.project()
    now = await world.value("SELECT max(first_started_at) FROM assignment") + 21_000
    pending = await world.decisions.read_gate(campaign_id, 0, now)
    assert (pending.queued, pending.waiting) == (0, 1), "filed, and still to be decided"
    await world.decisions.sweep(campaign_id, now, now)
    reading = await world.decisions.read_gate(campaign_id, 0, now)
    assert (reading.queued, reading.waiting, reading.in_flight, reading.failures) == (0, 1, 0, 1)
    await process.evaluate_gate(campaign_id, 0, now)
    assert (await process.evaluate_gate(campaign_id, 0, now)).result is GateResult.PROMOTED
    await world.open_phase(campaign_id, 1, now)
    await world.decisions.dispatch(campaign_id, 1, 500, now)
    rest = await world.offered(campaign.campaign_no)
    await start(world, rest)
    for device, action in rest.items():
        world.fact(device, action, d.CONFIRMED, now)
    await world.project()
    await process.evaluate_gate(campaign_id, 1, now)
    held = await process.evaluate_gate(campaign_id, 1, now)
    assert (held.result, held.reason) == (
        GateResult.NOT_YET,
        "0 devices wait for their offer, 1 until they are tried again, 0 are in flight.",
    )
    assert (await process.dispatch(campaign_id, 1, now + PAUSE)).granted == 1, "also what waits in an earlier phase"
    again = await world.offered(campaign.campaign_no)
    await start(world, again)
    world.fact(first, again[first], d.CONFIRMED, now + PAUSE)
    await world.project()
    assert (await process.evaluate_gate(campaign_id, 1, now + PAUSE)).result is GateResult.PROMOTED
    assert (await process.finish(campaign_id, now + PAUSE)).state == "completed"
    await world.recount()
