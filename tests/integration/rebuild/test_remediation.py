"""What a bad release left behind is taken back: by a campaign of its own, with gates of its own, and told the same by a rebuild."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from msgspec.structs import astuple

from orchestrator.adapters import zones
from orchestrator.adapters.clock import new_id, now_ms
from orchestrator.adapters.sql.engine import transaction
from orchestrator.adapters.sql.event_log import SqlEventLog
from orchestrator.adapters.sql.fleet import SqlFleet
from orchestrator.adapters.sql.process import SqlEnrolments
from orchestrator.adapters.sql.queries import SqlQueries
from orchestrator.adapters.sql.registry import SqlRegistry
from orchestrator.adapters.sql.remediation import SqlRemediations, dismissed, updated
from orchestrator.adapters.sql.webhooks import SqlWebhooks
from orchestrator.app.campaigns import Campaigns
from orchestrator.app.deliveries import WebhookConsumer
from orchestrator.app.process import CampaignProcess, GateResult
from orchestrator.app.remediation import (
    NothingToRemediateError,
    NotRemediableError,
    RemediationKindError,
    Remediations,
)
from orchestrator.app.verdicts import ExternalVerdicts
from orchestrator.app.webhooks import Webhooks
from orchestrator.config import Settings
from orchestrator.domain import campaign as c
from orchestrator.domain.approval import SameActorError
from orchestrator.domain.assignment import Assignment, Observation, Offer, State, observe, offered
from orchestrator.domain.plan import CohortSpec, parse_plan
from orchestrator.domain.plan_fields import PlanError
from orchestrator.domain.remediation import Run, dismissal, earlier_release, is_lost, is_updated
from schemas import device_events as d
from schemas import registry_events as r
from tests.integration.rebuild.conftest import Story
from tests.support.memory_process import Heard
from tests.support.world import World, plan

DEADLINE = 20_000
ALL = {
    "cohort": {"stratify_by": ["hardware_model"], "salt": "salt"},
    "phases": [{"name": "all", "percent": 100.0, "soak": "1s"}],
    "halt": [{"name": "failures", "scope": "campaign", "p0": 0.4, "alpha": 0.01}],
}


class Desk:
    """People and devices around campaigns of several releases."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.campaigns = Campaigns(
            world.store,
            SqlFleet(world.engine),
            SqlRegistry(world.engine),
            new_id=new_id,
            known_zone=zones.known,
        )
        self.remediations = Remediations(
            world.store, SqlRemediations(world.engine), self.campaigns, SqlRegistry(world.engine), new_id=new_id
        )
        self.process = CampaignProcess(world.store, world.decisions, SqlEnrolments(world.engine), Heard())

    async def release(
        self, release_id: str, counter: int | None = 1, models: Sequence[str] = ("sensor-a", "gateway-b")
    ):
        artifacts = {model: f"{release_id}-{model}" for model in models}
        stored = [
            r.ArtifactStored(
                sha256=sha256,
                sha1="s",
                md5="m",
                size=1,
                filename="fw.bin",
                hardware_model=model,
                image={} if counter is None else {"security_counter": counter},
                actor="test",
            )
            for model, sha256 in artifacts.items()
        ]
        made = r.ReleaseRegistered(
            release_id=release_id,
            name="fw",
            version=release_id,
            artifacts=artifacts,
            digest=f"sha256:{release_id}",
            actor="test",
        )
        await self.world._register(*stored, made)

    async def launched(self, release_id: str, devices: Sequence[int] = (), **changes: Any) -> c.Campaign:
        cohort = ALL["cohort"] | {"include": [self.name(no) for no in devices]}
        written = plan(**ALL | {"release": release_id, "cohort": cohort} | changes)
        draft = await self.campaigns.create("firmware", written, actor="ann", command_id=new_id("c"))
        return await self.go(draft.campaign.campaign_id)

    async def go(self, campaign_id: str) -> c.Campaign:
        """Submit, approve by somebody else, launch, open the first phase."""
        submitted = (await self.campaigns.submit(campaign_id, actor="ann", command_id=new_id("c"))).campaign
        assert submitted.digest
        with pytest.raises(SameActorError):
            await self.campaigns.approve(campaign_id, submitted.digest, actor="ann", command_id=new_id("c"))
        await self.campaigns.approve(campaign_id, submitted.digest, actor="bob", command_id=new_id("c"))
        await self.campaigns.launch(campaign_id, actor="ann", command_id=new_id("c"))
        assert await self.process.open_phase(campaign_id, 0, now_ms()) == "running"
        return await self.world.store.load(campaign_id)

    def name(self, no: int) -> str:
        return self.world.fleet[no][1]

    async def offer(self, campaign: c.Campaign, phase: int = 0, later: int = 0) -> dict[int, int]:
        while (await self.process.dispatch(campaign.campaign_id, phase, now_ms() + later)).granted:
            pass
        return await self.world.offered(campaign.campaign_no)

    async def say(self, actions: dict[int, int], *kinds: str, **more: Any) -> None:
        for device, action in actions.items():
            for kind in kinds:
                self.world.fact(device, action, kind, now_ms(), **more)
        await self.world.project()

    async def start(self, actions: dict[int, int]) -> None:
        for device, action in actions.items():
            assert await self.world.offers.start(device, action)

    async def update(self, release_id: str, devices: Sequence[int]) -> None:
        """A campaign in which all of them confirm."""
        campaign = await self.launched(release_id, devices)
        offered = await self.offer(campaign)
        assert sorted(offered) == sorted(devices)
        await self.start(offered)
        await self.say(offered, d.CONFIRMED)

    async def halt(self, campaign: c.Campaign) -> None:
        await self.campaigns.halt(campaign.campaign_id, "bad", actor="carl", command_id=new_id("c"))
        await self.world.decisions.sweep(campaign.campaign_id, now_ms(), 0)

    async def aborted(self) -> c.Campaign:
        """A campaign that ended before it offered anything."""
        campaign = await self.launched("rel_bad")
        await self.campaigns.abort(campaign.campaign_id, "no", actor="ann", command_id=new_id("c"))
        return campaign

    async def draft(self, campaign: c.Campaign, command_id: str = "again", **more: Any):
        return await self.remediations.draft(campaign.campaign_id, actor="ann", command_id=command_id, **more)


@pytest.fixture
async def story(engine, database_url, tmp_path):
    """A small fleet without a campaign."""
    made = Story(
        World(engine, devices=40), Settings(database_url=database_url, state_dir=tmp_path, rebuild_patience_s=5)
    )
    await made.world.setup()
    return made


@pytest.fixture
async def desk(story):
    """Two releases more."""
    made = Desk(story.world)
    await made.release("rel_bad")
    await made.release("rel_fix")
    return made


FLEET = list(range(1, 41))


async def halted(desk: Desk, **changes: Any) -> tuple[c.Campaign, dict[str, dict[int, int]]]:
    """A bad release: some devices are on it, some may be, some have gone back or never got it."""
    campaign = await desk.launched("rel_bad", FLEET, **changes)
    offered = sorted((await desk.offer(campaign)).items())
    parts = {"confirmed": 20, "trial": 6, "loading": 3, "reverted": 3, "failed": 2, "unstarted": 6}
    groups: dict[str, dict[int, int]] = {}
    for name, size in parts.items():
        groups[name], offered = dict(offered[:size]), offered[size:]
    for name, kinds in {
        "confirmed": [d.CONFIRMED],
        "trial": [d.INSTALLED, d.TRIAL],
        "loading": [d.DOWNLOADING],
        "reverted": [d.TRIAL, d.REVERTED],
    }.items():
        await desk.start(groups[name])
        await desk.say(groups[name], *kinds)
    await desk.start(groups["failed"])
    await desk.say(groups["failed"], d.FAILED, failure_class="install")
    await desk.halt(campaign)
    return campaign, groups


async def test_exactly_the_updated_devices_get_the_fallback_in_phases_and_a_rebuild_tells_the_same(desk, story):
    world = desk.world
    parent, groups = await halted(desk, remediation={"kind": "fallback", "release": "rel_fix"})
    told, again = await asyncio.gather(desk.draft(parent), desk.draft(parent))
    assert told == again == await desk.draft(parent)
    assert await world.value("SELECT count(*) FROM event_log WHERE type = 'RemediationDrafted'") == 1
    (draft,) = told.drafts
    assert (told.kind, draft.release_id, draft.devices, told.gaps) == ("fallback", "rel_fix", 29, [])

    child = await desk.go(draft.campaign_id)
    shown = await SqlQueries(world.engine).campaign(parent.campaign_id)
    assert [(each.campaign_id, each.state, each.kind) for each in shown.remediated_by] == [
        (child.campaign_id, "running", "fallback")
    ]
    assert (await SqlQueries(world.engine).campaign(child.campaign_id)).remediates == parent.campaign_id
    # Those that loaded answer the halt, and of those in trial one goes back: they are let go when their turn comes.
    await desk.say(groups["loading"], d.CANCELLED)
    trials = dict(list(groups["trial"].items())[:2])
    back = dict(list(groups["trial"].items())[2:3])
    silent = dict(list(groups["trial"].items())[3:])
    wanted = set(groups["confirmed"])
    reached: set[int] = set()
    for phase, name in enumerate(["canary", "rest"]):
        if phase:
            assert await desk.process.open_phase(child.campaign_id, phase, now_ms()) == "running"
        offered = await desk.offer(child, phase)
        assert set(offered) <= wanted, name
        if not phase:
            assert 0 < len(offered) < len(wanted)
            # Nothing is offered to a device in trial, however late it is.
            assert not set(await desk.offer(child, phase, later=600_000)) & set(groups["trial"])
        if phase == 0:
            await desk.say(trials, d.CONFIRMED)
            await desk.say(back, d.REVERTED)
            await world.decisions.sweep(parent.campaign_id, now_ms() + 2 * DEADLINE, now_ms() + 2 * DEADLINE)
            lost = await world.rows(
                "SELECT device_no FROM assignment WHERE campaign_no = $1 AND reason = 'silent_trial'",
                parent.campaign_no,
            )
            assert {row["device_no"] for row in lost} == set(silent)
            wanted |= set(trials)
        offered |= await desk.offer(child, phase, later=1_200_000)
        await desk.start(offered)
        await desk.say(offered, d.CONFIRMED)
        reached |= set(offered)
        now = now_ms() + 1_300_000
        await desk.process.evaluate_gate(child.campaign_id, phase, now)
        outcome = await desk.process.evaluate_gate(child.campaign_id, phase, now + 10_000)
        assert outcome.result is GateResult.PROMOTED, (name, outcome)
    assert reached == wanted == set(groups["confirmed"]) | set(trials)
    assert (await desk.process.finish(child.campaign_id, now_ms() + 1_400_000)).state == "completed"
    let_go = await world.rows(
        "SELECT cause, device_nos FROM decision_ledger WHERE kind = 'unqueue' AND campaign_no = $1", child.campaign_no
    )
    found = {
        cause: {no for row in let_go if row["cause"] == cause for no in row["device_nos"]}
        for cause in ("not_updated", "silent_trial")
    }
    assert found == {"not_updated": set(back) | set(groups["loading"]), "silent_trial": set(silent)}
    with pytest.raises(NotRemediableError, match="silent"):
        await desk.draft(parent, "once more")
    with pytest.raises(NothingToRemediateError):
        await desk.draft(await desk.aborted(), "of nobody", release_id="rel_fix")
    await world.recount()
    assert await story.verify() == []
    await story.rebuild()
    assert await story.verify() == []


async def test_a_revert_drafts_one_campaign_per_earlier_release_and_names_whom_it_leaves_out(desk):
    world = desk.world
    await desk.release("rel_old", counter=1)
    await desk.release("rel_low", counter=0)
    await desk.release("rel_sensors", models=["sensor-a"])
    sensors = [no for no in FLEET if world.fleet[no][2] == "sensor-a"]
    gateways = [no for no in FLEET if world.fleet[no][2] == "gateway-b"]
    await desk.update("rel_low", [*sensors[:3], *gateways[:10]])
    await desk.update("rel_old", gateways[:8])  # the last one counts
    await desk.update("rel_sensors", sensors[4:12])
    parent = await desk.launched("rel_bad", FLEET)
    offered = await desk.offer(parent)
    with pytest.raises(c.CampaignTransitionError):
        await desk.draft(parent, kind="revert")
    await desk.start(offered)
    await desk.say(offered, d.CONFIRMED)
    await desk.halt(parent)
    with pytest.raises(RemediationKindError):
        await desk.draft(parent)
    told = await desk.draft(parent, kind="revert", name="back")
    assert {(each.release_id, each.previously, each.devices) for each in told.drafts} == {
        ("rel_old", "rel_old", 8),
        ("rel_sensors", "rel_sensors", 8),
    }
    gaps = {(each.reason, each.hardware_model, each.release_id): each for each in told.gaps}
    unknown = [*sensors[3:4], *sensors[12:]]
    assert {key: gap.devices for key, gap in gaps.items()} == {
        ("security_counter", "sensor-a", "rel_low"): 3,
        ("security_counter", "gateway-b", "rel_low"): 2,
        ("unknown_release", "sensor-a", None): len(unknown),
        ("unknown_release", "gateway-b", None): len(gateways[10:]),
    }
    assert gaps["unknown_release", "sensor-a", None].samples == [desk.name(no) for no in sorted(unknown)[:5]]
    taken: dict[str, set[int]] = {}
    for each in told.drafts:
        child = await desk.go(each.campaign_id)
        assert child.name == "back"
        frozen = await world.rows(
            "SELECT device_nos FROM decision_ledger WHERE kind = 'enrol' AND campaign_no = $1", child.campaign_no
        )
        taken[each.release_id] = {no for row in frozen for no in row["device_nos"]}
    assert taken == {"rel_old": set(gateways[:8]), "rel_sensors": set(sensors[4:12])}


async def test_a_fallback_that_the_devices_would_refuse_is_refused_here(desk):
    await desk.release("rel_low", counter=0)
    await desk.release("rel_bare", counter=None)
    parent, _ = await halted(desk)
    for release in ("rel_low", "rel_bare"):
        with pytest.raises(NotRemediableError) as caught:
            await desk.draft(parent, release_id=release)
        assert (caught.value.code, caught.value.detail.count("security_counter")) == ("remediation.impossible", 2)
    with pytest.raises(RemediationKindError):
        await desk.draft(parent, release_id="rel_bad")
    with pytest.raises(PlanError) as wrong:
        await desk.draft(parent, release_id="rel_fix", plan={"phases": []})
    assert "/phases" in {error["pointer"] for error in wrong.value.errors}
    assert await desk.world.value("SELECT count(*) FROM event_log WHERE type = 'RemediationDrafted'") == 0


async def test_under_a_budget_too_devices_that_went_back_or_fell_silent_are_let_go(desk):
    world = desk.world
    budget = [{"label": "attribute.hw_revision", "max_percent": 100.0, "min_count": 1}]
    parent, groups = await halted(desk, budget=budget)
    told = await desk.draft(parent, release_id="rel_fix")
    child = await desk.go(told.drafts[0].campaign_id)
    assert child.plan["budget"]
    await desk.say(groups["loading"], d.CANCELLED)
    late = now_ms() + 2 * DEADLINE
    await world.decisions.sweep(parent.campaign_id, late, late)
    queue = "SELECT device_no FROM offer_queue WHERE campaign_no = $1 AND phase = 0"
    canaries = {row["device_no"] for row in await world.rows(queue, child.campaign_no)}
    assert set(await desk.offer(child)) == canaries & set(groups["confirmed"])
    assert await world.rows(queue, child.campaign_no) == []
    let_go = await world.rows(
        "SELECT cause, device_nos FROM decision_ledger WHERE kind = 'unqueue' AND campaign_no = $1", child.campaign_no
    )
    assert {(row["cause"], no) for row in let_go for no in row["device_nos"]} == {
        *(("not_updated", no) for no in canaries & set(groups["loading"])),
        *(("silent_trial", no) for no in canaries & set(groups["trial"])),
    }
    assert let_go


async def test_who_is_told_of_a_halt_is_told_what_is_foreseen_and_of_the_drafts(desk):
    engine = desk.world.engine
    queue = SqlWebhooks(engine)
    webhooks = Webhooks(queue, ExternalVerdicts(desk.world.store), now=now_ms, new_id=new_id)
    await webhooks.add(
        "https://hooks.example", ["campaign.halted", "remediation.drafted"], actor="ann", command_id="add"
    )
    await desk.halt(await desk.launched("rel_bad"))
    parent, _ = await halted(desk, remediation={"kind": "fallback", "release": "rel_fix"})
    told = await desk.draft(parent)
    await WebhookConsumer(queue, "https://ota.example").deliver(await SqlEventLog(engine).read_all(0, 1_000))
    rows = await desk.world.rows("SELECT body FROM webhook_delivery ORDER BY position")
    plain, foreseen, drafted = (msgspec.json.decode(row["body"])["data"] for row in rows)
    assert "remediation" not in plain
    assert foreseen["remediation"] == {"kind": "fallback", "release": "rel_fix"}
    assert [each["campaign_id"] for each in drafted["drafts"]] == [each.campaign_id for each in told.drafts]


async def test_the_database_takes_whom_the_domain_takes(desk):
    """Rows of six campaigns as random reports leave them; every device is asked about, for the fourth campaign."""
    world, dice = desk.world, random.Random(7)
    for number in range(1, 7):
        await desk.release(f"rel_{number + 10}")
        campaign_id = f"cmp_{number}"
        await world.command(
            campaign_id,
            lambda *_, campaign_id=campaign_id, number=number: c.Create(
                campaign_id=campaign_id,
                campaign_no=number,
                name="n",
                release_id=f"rel_{11 + number % 3}",
                plan=parse_plan(plan(**ALL)).canonical(),
                actor="ann",
            ),
        )
    history: dict[int, list[Run]] = {no: [] for no in FLEET}
    for device in FLEET:
        for number in dice.sample(range(1, 7), dice.randrange(1, 7)):
            row = offered(number, device, 0, 0, Offer(attempt=1, action_id=100 * number + device, gate_epoch=1, at=1))
            for _ in range(dice.choice([1, 1, 2, 4])):
                state = dice.choice(
                    [s for s in State if s not in {State.OFFERED, State.UNKNOWN}] + 12 * [State.CONFIRMED]
                )
                blame = dice.choice([None, "boot", "install", "silence"])
                row = observe(
                    row, Observation(attempt=1, state=state, at=2 * number + dice.randrange(4), failure_class=blame)
                )
            history[device].append(Run(f"rel_{11 + number % 3}", row))
    async with transaction(world.engine) as conn:
        rows = [astuple(run.row) for runs in history.values() for run in runs]
        await conn.copy_records_to_table("assignment", columns=Assignment.__struct_fields__, records=rows)
        for previously in (None, "rel_11", "rel_12", "rel_13"):
            condition, parameters = updated(CohortSpec(updated_by="cmp_4", previously=previously), 1)
            found = await conn.fetch(f"SELECT device_no FROM device WHERE {condition} ORDER BY 1", *parameters)
            expected = [
                no
                for no in FLEET
                if is_updated(history[no], 4) and previously in {None, earlier_release(history[no], 4)}
            ]
            assert [row["device_no"] for row in found] == expected
            assert expected or previously == "rel_12", previously  # the release of the campaign itself
        plans = parse_plan(plan(**ALL | {"release": "rel_fix", "cohort": {"updated_by": "cmp_4"}}))
        causes = await dismissed(conn, plans, FLEET)
    own = {no: next((run.row for run in history[no] if run.row.campaign_no == 4), None) for no in FLEET}
    assert causes == {no: cause for no in FLEET if (cause := dismissal(own[no]))}
    survey = await SqlRemediations(world.engine).survey("cmp_4")
    members = [no for no in FLEET if is_updated(history[no], 4)]
    assert sum(each.devices for each in survey) == len(members)
    silent = sum(is_lost(row) for no in members if (row := own[no]))
    assert sum(each.devices for each in survey if each.silent) == silent


async def test_a_plan_names_a_fallback_and_a_campaign_that_are_there(desk):
    world = desk.world
    await desk.release("rel_sensors", models=["sensor-a"])
    parent, _ = await halted(desk)
    for changes, code in [
        ({"remediation": {"kind": "fallback", "release": "rel_none"}}, "plan.release.unknown"),
        ({"remediation": {"kind": "fallback", "release": "rel_sensors"}}, "plan.remediation.hardware_model"),
        ({"cohort": {"updated_by": "cmp_none"}}, "plan.cohort.updated_by"),
        ({"cohort": {"updated_by": parent.campaign_id}}, "plan.cohort.updated_by"),
        (
            {"release": "rel_fix", "cohort": {"updated_by": parent.campaign_id, "previously": "rel_none"}},
            "plan.release.unknown",
        ),
    ]:
        with pytest.raises(PlanError) as caught:
            await desk.campaigns.create(
                "n", plan(**ALL | {"release": "rel_bad"} | changes), actor="ann", command_id=new_id("c")
            )
        assert caught.value.code == code
    written = plan(**ALL | {"release": "rel_fix", "cohort": {"updated_by": parent.campaign_id}})
    draft = await desk.campaigns.create("by hand", written, actor="ann", command_id=new_id("c"))
    preview = await desk.campaigns.preview(draft.campaign.campaign_id)
    assert (preview.devices, preview.remediation.updated_by) == (29, parent.campaign_id)
    assert await world.value("SELECT count(*) FROM event_log WHERE type = 'RemediationDrafted'") == 0
