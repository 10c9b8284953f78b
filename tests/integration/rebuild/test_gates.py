"""Verdicts, soaks that wait for devices and holds that outlast their patience, on the real database and after a rebuild."""

from __future__ import annotations

from orchestrator.adapters.clock import new_id, now_ms
from orchestrator.adapters.sql.event_log import SqlEventLog
from orchestrator.adapters.sql.process import SqlEnrolments
from orchestrator.adapters.sql.webhooks import SqlWebhooks
from orchestrator.app.deliveries import WebhookConsumer
from orchestrator.app.process import CampaignProcess, GateResult
from orchestrator.app.verdicts import ExternalVerdicts
from orchestrator.app.webhooks import Webhooks
from orchestrator.domain import campaign as c
from schemas import device_events as d
from tests.integration.rebuild.conftest import Story
from tests.support.memory_process import Heard
from tests.support.world import T0

DEADLINE = 20_000
PHASES = [
    {
        "name": "canary",
        "count": 40,
        "soak": "1s",
        "soak_devices": 12,
        "patience": "1m",
        "external": [{"name": "lab", "patience": "30s"}],
        "promote": {"p1": 0.3, "beta": 0.05},
    },
    {"name": "rest", "percent": 100.0, "soak": "1s"},
]


async def test_a_phase_waits_for_devices_and_a_laboratory_and_a_rebuild_tells_the_same(story: Story):
    world = story.world
    campaign = await world.launch(phases=PHASES)
    cid, no = campaign.campaign_id, campaign.campaign_no
    process = CampaignProcess(world.store, world.decisions, SqlEnrolments(world.engine), Heard())
    assert await process.open_phase(cid, 0, T0) == "running"
    while (await process.dispatch(cid, 0, T0)).granted:
        pass
    reading = await world.decisions.read_gate(cid, 0, T0)
    assert (reading.matured, reading.outstanding) == (0, 40)
    await process.evaluate_gate(cid, 0, T0)
    assert (await world.store.load(cid)).soak_until == T0 + 1_000

    async def confirm(count: int) -> None:
        for device, action in sorted((await world.offered(no)).items())[:count]:
            assert await world.offers.start(device, action)
            world.fact(device, action, d.CONFIRMED, T0)
        await world.project()

    await confirm(11)
    started = await world.value("SELECT max(first_started_at) FROM assignment WHERE campaign_no = $1", no)
    ripe = started + 2 * DEADLINE
    assert "11 of 12 devices have matured" in (await process.evaluate_gate(cid, 0, ripe)).reason
    await confirm(4)
    ripe = await world.value("SELECT max(first_started_at) FROM assignment WHERE campaign_no = $1", no) + 2 * DEADLINE
    await process.evaluate_gate(cid, 0, ripe)
    assert (await world.store.load(cid)).soak_ended_at == ripe
    assert "'lab'" in (await process.evaluate_gate(cid, 0, ripe)).reason
    for _ in range(3):
        assert (await process.evaluate_gate(cid, 0, ripe + 30_000)).result is GateResult.NOT_YET
    told = await world.rows("SELECT data FROM event_log WHERE type = 'HoldOutlasted'")
    assert [(row["data"]["gate"], row["data"]["since"], row["data"]["matured"]) for row in told] == [("lab", ripe, 15)]
    verdict = c.GiveVerdict(
        phase=0,
        gate="lab",
        verdict="promote",
        reason="ok",
        evidence=None,
        gate_epoch=1,
        at=ripe,
        ledger_position=0,
        actor="lab",
    )
    await world.command(cid, lambda *_: verdict, "run-7")
    await world.command(cid, lambda *_: verdict, "run-7")
    assert await world.value("SELECT count(*) FROM event_log WHERE type = 'ExternalVerdictGiven'") == 1
    assert (await process.evaluate_gate(cid, 0, ripe + 40_000)).result is GateResult.PROMOTED
    await world.command(cid, lambda *_: c.GiveVerdict(**{**_fields(verdict), "verdict": "halt"}))
    assert (await world.store.load(cid)).state is c.CampaignState.HALTED
    assert await story.verify() == []
    await story.rebuild()
    assert (await world.store.load(cid)).state is c.CampaignState.HALTED


async def test_a_rebuild_leaves_webhooks_their_secrets_and_their_deliveries_alone(story: Story):
    engine = story.world.engine
    queue = SqlWebhooks(engine)
    webhooks = Webhooks(queue, ExternalVerdicts(story.world.store), now=now_ms, new_id=new_id)
    made = await webhooks.add("https://hooks.example", ["campaign.halted"], actor="ann", command_id="add")
    await story.halt(story.campaigns[0].campaign_id)
    consumer = WebhookConsumer(queue, "https://ota.example")
    await consumer.deliver(await SqlEventLog(engine).read_all(0, 1_000))
    before = (await webhooks.deliveries(made.webhook_id, 10, None)).items
    assert [each.kind for each in before] == ["campaign.halted"]
    assert await story.verify() == []
    await story.rebuild()
    assert await queue.secret(made.webhook_id) == made.secret
    assert (await webhooks.deliveries(made.webhook_id, 10, None)).items == before
    await consumer.deliver(await SqlEventLog(engine).read_all(0, 1_000))
    assert (await webhooks.deliveries(made.webhook_id, 10, None)).items == before


def _fields(command: c.GiveVerdict) -> dict[str, object]:
    return {name: getattr(command, name) for name in command.__struct_fields__}
