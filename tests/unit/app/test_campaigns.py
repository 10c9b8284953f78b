"""The use cases of campaigns on ports in memory."""

from __future__ import annotations

import itertools

import pytest

from orchestrator.adapters.memory import MemoryCampaignStore
from orchestrator.app.campaigns import CampaignNameError, Campaigns, Counted, ReasonError
from orchestrator.app.inspection import Inspection
from orchestrator.app.ports import VersionConflictError
from orchestrator.app.registry import Release, ReleaseNotFoundError
from orchestrator.domain import campaign as c
from orchestrator.domain.approval import SameActorError
from orchestrator.domain.budget import MAX_VALUES
from orchestrator.domain.dossier import dossier_digest, freeze
from orchestrator.domain.plan import parse_plan
from orchestrator.domain.plan_fields import PlanError

PLAN = {
    "release": "rel_1",
    "phases": [
        {"name": "canary", "percent": 20.0, "min_count": 40, "soak": "5s", "promote": {"p1": 0.1}},
        {"name": "rest", "percent": 100.0, "soak": "5s"},
    ],
    "confirm_deadline": "20s",
    "offer_ttl": "60s",
    "halt": [{"name": "failures", "scope": "campaign", "p0": 0.02, "alpha": 0.01}],
    "max_in_flight": {"initial": 60, "maximum": 240},
}
TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


class Releases:
    async def release(self, release_id):
        if release_id != "rel_1":
            raise ReleaseNotFoundError
        return Release(
            release_id="rel_1",
            name="app",
            version="1",
            artifacts={"m1": "aa", "m2": "bb"},
            digest="sha256:r",
            created_at=0,
        )


class Fleet:
    def __init__(self):
        self.strata = {"hardware_model=m1": 60, "hardware_model=m2": 40}
        self.asked = []
        self.budget = ()
        self.inspected = []

    async def inspect(self, plan, target, campaign_no):
        self.inspected.append(campaign_no)
        return Inspection(conflicts=[], not_applicable=[])

    async def count(self, plan, target):
        self.asked.append((target.version, target.artifacts))
        return Counted(strata=self.strata, at=500, budget=self.budget)

    async def withheld(self, plan, target, *, release_id, campaign_id):
        return {"opted_out": 3}


@pytest.fixture
def fleet():
    return Fleet()


@pytest.fixture
def campaigns(fleet):
    numbers = itertools.count(1)
    return Campaigns(
        MemoryCampaignStore(now=lambda: 1_000),
        fleet,
        Releases(),
        new_id=lambda prefix: f"{prefix}_{next(numbers)}",
        known_zone=lambda name: name != "Mars/Base",
        traceparent=lambda: TRACE,
    )


async def test_a_time_zone_that_does_not_exist_is_refused(campaigns):
    for schedule in ({"timezone": "Mars/Base"}, {"timezone": "device", "fallback_timezone": "Mars/Base"}):
        with pytest.raises(PlanError) as caught:
            await campaigns.create("n", PLAN | {"schedule": schedule}, actor="ann", command_id="create")
        assert caught.value.code == "plan.timezone"


async def submitted(campaigns):
    await campaigns.create("n", PLAN, actor="ann", command_id="create")
    return (await campaigns.submit("cmp_1", actor="ann", command_id="submit")).campaign


async def test_a_draft_keeps_the_whole_plan_with_its_defaults(campaigns):
    done = await campaigns.create("n", PLAN, actor="ann", command_id="create")
    assert done.campaign.plan == parse_plan(PLAN).canonical()
    assert done.campaign.author == "ann"
    assert (done.events[0].meta.actor, done.events[0].meta.traceparent) == ("ann", TRACE)


async def test_a_repeated_creation_gives_the_first_campaign(campaigns):
    first = await campaigns.create("n", PLAN, actor="ann", command_id="create")
    again = await campaigns.create("n", PLAN, actor="ann", command_id="create")
    assert again.campaign == first.campaign
    assert again.events == first.events


async def test_a_submission_freezes_what_the_fleet_makes_of_the_plan(campaigns, fleet):
    campaign = await submitted(campaigns)
    expected = freeze(parse_plan(PLAN), strata_sizes=fleet.strata, release_digest="sha256:r")
    assert campaign.dossier == expected.canonical()
    assert campaign.digest == dossier_digest(expected)
    assert fleet.asked == [("1", {"m1": "aa", "m2": "bb"})]


async def test_a_submission_is_counted_once(campaigns, fleet):
    first = await submitted(campaigns)
    fleet.strata = {"hardware_model=m1": 1}
    again = await campaigns.submit("cmp_1", actor="ann", command_id="submit")
    assert again.campaign == first
    with pytest.raises(c.CampaignTransitionError):
        await campaigns.submit("cmp_1", actor="ann", command_id="other")
    assert len(fleet.asked) == 1


async def test_a_plan_that_does_not_fit_stays_a_draft(campaigns, fleet):
    await campaigns.create("n", PLAN, actor="ann", command_id="create")
    fleet.strata = {"hardware_model=m1": 3}
    with pytest.raises(PlanError) as error:
        await campaigns.submit("cmp_1", actor="ann", command_id="submit")
    assert "plan.promote.impossible" in {item["code"] for item in error.value.errors}
    preview = await campaigns.preview("cmp_1")
    assert (preview.devices, preview.phases, preview.digest) == (3, [], None)
    assert preview.problems


async def test_the_preview_of_a_submitted_plan_no_longer_follows_the_fleet(campaigns, fleet):
    campaign = await submitted(campaigns)
    fleet.strata = {"hardware_model=m1": 7}
    preview = await campaigns.preview("cmp_1")
    assert (preview.frozen, preview.devices, preview.digest) == (True, 100, campaign.digest)
    assert [phase.reached for phase in preview.phases] == [40, 100]
    bounds = preview.rules[0].bounds
    assert list(bounds) == ["10", "30", "100"]
    assert bounds["10"] <= bounds["30"] <= bounds["100"]


async def test_a_budget_is_counted_with_the_cohort_and_shown_from_both_ends(campaigns, fleet):
    fleet.budget = ({f"site-{n:02}": 10 * n for n in range(1, 21)},)
    budget = [{"label": "attribute.site", "max_percent": 10, "min_count": 2}]
    made = await campaigns.create("v2", PLAN | {"budget": budget}, actor="ann", command_id="c1")
    draft = (await campaigns.preview(made.campaign.campaign_id)).budget
    done = await campaigns.submit(made.campaign.campaign_id, actor="ann", command_id="s1")
    assert done.campaign.dossier["budget"][0]["limits"]["site-07"] == 7
    (shown,) = (await campaigns.preview(made.campaign.campaign_id)).budget
    assert draft == [shown]
    assert (shown.label, shown.values, shown.other) == ("attribute.site", 20, 2)
    assert [(each.value, each.at_once) for each in shown.largest][:2] == [("site-20", 20), ("site-19", 19)]
    assert [(each.value, each.devices, each.at_once) for each in shown.smallest][-1] == ("site-01", 10, 2)


async def test_a_label_with_too_many_values_keeps_a_plan_a_draft(campaigns, fleet):
    fleet.budget = ({str(n): 1 for n in range(MAX_VALUES + 1)},)
    budget = [{"label": "attribute.serial", "max_percent": 10}]
    made = await campaigns.create("v2", PLAN | {"budget": budget}, actor="ann", command_id="c1")
    with pytest.raises(PlanError) as caught:
        await campaigns.submit(made.campaign.campaign_id, actor="ann", command_id="s1")
    assert caught.value.code == "plan.budget.values"


async def test_a_preview_looks_at_the_fleet_until_the_launch(campaigns, fleet):
    campaign = await submitted(campaigns)
    await campaigns.preview("cmp_1")
    await campaigns.approve("cmp_1", campaign.digest, actor="bob", command_id="approve")
    await campaigns.preview("cmp_1")
    await campaigns.launch("cmp_1", actor="ann", command_id="launch")
    await campaigns.preview("cmp_1")
    assert fleet.inspected == [1, 1]


async def test_commands_carry_who_and_why(campaigns):
    campaign = await submitted(campaigns)
    with pytest.raises(SameActorError):
        await campaigns.approve("cmp_1", campaign.digest, actor="ann", command_id="own")
    await campaigns.approve("cmp_1", campaign.digest, actor="bob", command_id="approve")
    await campaigns.launch("cmp_1", actor="ann", command_id="launch")
    await campaigns.pause("cmp_1", "lunch", actor="ann", command_id="pause")
    await campaigns.resume("cmp_1", "back", actor="ann", command_id="resume")
    done = await campaigns.halt("cmp_1", "smoke", actor="cat", command_id="halt")
    (event,) = done.events
    assert (event.meta.actor, event.meta.reason) == ("cat", "smoke")
    assert (event.event.by, event.event.phase, event.event.gate_epoch) == ("cat", None, 1)
    with pytest.raises(VersionConflictError):
        await campaigns.abort("cmp_1", "r", actor="ann", command_id="abort", expected_version=3)
    ended = await campaigns.abort("cmp_1", "r", actor="ann", command_id="abort", expected_version=7)
    assert ended.campaign.state is c.CampaignState.ABORTED


async def test_a_stop_needs_a_reason_and_a_campaign_a_name(campaigns):
    for reason in ("", "  \n", "x" * 1_001):
        with pytest.raises(ReasonError):
            await campaigns.halt("cmp_1", reason, actor="ann", command_id="x")
    for name in ("", "  ", "a\nb", "x" * 129):
        with pytest.raises(CampaignNameError):
            await campaigns.create(name, PLAN, actor="ann", command_id="x")


async def test_the_release_of_a_plan_must_exist(campaigns):
    with pytest.raises(PlanError) as error:
        await campaigns.create("n", PLAN | {"release": "rel_2"}, actor="ann", command_id="x")
    assert error.value.code == "plan.release.unknown"
