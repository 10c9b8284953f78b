"""Releases with several components, as hawkBit's interface shows them and hears of them."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import Any

import msgspec
import pytest

from api.devices.ddi_reports import Meaning, conclude, interpret, parse_feedback
from orchestrator.domain.assignment import State
from orchestrator.domain.profile import parse_profile
from schemas import device_events as d
from tests.unit.devices.conftest import World

ACTION = 1_000_017
PARTS = [("modem", "app", b"m" * 3_000), ("display", "app", b"d" * 2_000), ("os", "os", b"o" * 5_000)]
KINDS = {name: kind for name, kind, _ in PARTS}
SEVERAL = [
    ({}, ["bApp", "bApp", "os"]),
    ({"client": "swupdate"}, ["bApp", "bApp", "os"]),
    ({"client": "swupdate", "part": "system"}, ["bApp", "bApp", "system"]),
    ({"client": "rauc", "multi": True}, ["bApp", "bApp", "os"]),
]


def offer(world: World, parts: list[tuple[str, str, bytes]], state: State = State.OFFERED, **profile: Any) -> None:
    identity = world.identities.devices["dev-1"]
    world.identities.register(replace(identity, profile=parse_profile(profile)))
    world.artifacts.more = {sha256(content).hexdigest(): content for _, _, content in parts}
    world.offers.offer(7, ACTION, state, parts)


def path(href: str) -> str:
    return href.partition("/dev-1")[2]


@pytest.mark.parametrize(("profile", "types"), SEVERAL)
async def test_each_component_is_a_chunk_in_order_whose_links_serve_its_own_artifact(world: World, profile, types):
    offer(world, PARTS, **profile)
    chunks = (await world.get(f"/deploymentBase/{ACTION}")).json()["deployment"]["chunks"]
    assert [chunk["name"] for chunk in chunks] == ["modem", "display", "os"]
    assert [chunk["part"] for chunk in chunks] == types
    assert {chunk["version"] for chunk in chunks} == {"2.0.1"}
    modules = set()
    for chunk, (_, _, content) in zip(chunks, PARTS, strict=True):
        (artifact,) = chunk["artifacts"]
        assert artifact["hashes"]["sha256"] == sha256(content).hexdigest()
        assert artifact["size"] == len(content)
        link = path(artifact["_links"]["download-http"]["href"])
        assert (await world.get(link)).content == content
        assert (await world.get(link, headers={"Range": "bytes=1000-"})).content == content[1000:]
        assert (await world.get(f"{link}.MD5SUM")).text == f"{artifact['hashes']['md5']}  fw.bin"
        modules.add(int(link.split("/")[2]))
    assert len(modules) == len(PARTS), "all artifacts are called fw.bin: only the module tells them apart"
    assert ACTION not in modules
    assert all(0 < module < 2**31 for module in modules)


@pytest.mark.parametrize("client", ["generic", "swupdate", "rauc", "zephyr"])
async def test_a_release_of_one_component_looks_as_one_of_one_artifact(world: World, client: str):
    offer(world, [("fw", "app", b"f" * 1_500)], client=client)
    (chunk,) = (await world.get(f"/deploymentBase/{ACTION}")).json()["deployment"]["chunks"]
    assert (chunk["part"], chunk["name"]) == (parse_profile({"client": client}).part, "fw")
    link = path(chunk["artifacts"][0]["_links"]["download-http"]["href"])
    assert link == f"/softwaremodules/{ACTION}/artifacts/fw.bin"
    assert (await world.get(link)).content == b"f" * 1_500


async def test_no_component_is_given_out_before_the_start_or_under_another_module(world: World):
    offer(world, PARTS)
    known = 2**30 | (ACTION * 16) % 2**30
    for module in (known, known + 1, known + 2, ACTION):
        assert (await world.get(f"/softwaremodules/{module}/artifacts/fw.bin")).status_code == 404
    assert world.offers.starts == []
    await world.get(f"/deploymentBase/{ACTION}")
    for module in (known, known + 1, known + 2):
        assert (await world.get(f"/softwaremodules/{module}/artifacts/fw.bin")).status_code == 200
    for module in (ACTION, known + 3, known - 1, 1, "x"):
        assert (await world.get(f"/softwaremodules/{module}/artifacts/fw.bin")).status_code == 404


def said(*details: str, execution: str = "proceeding", finished: str = "none", client: str = "generic") -> Meaning:
    status = {"execution": execution, "result": {"finished": finished}, "details": list(details)}
    raw = parse_feedback(msgspec.json.encode({"status": status}))
    return conclude(interpret(raw, parse_profile({"client": client}), cancel=False), KINDS)


ALL_IN = ("ota.component=modem ota.outcome=installed", "ota.component=display ota.outcome=confirmed")
OS_IN = "ota.component=os ota.outcome=confirmed"
BACK = "ota.component=modem ota.outcome=rolled_back"


@pytest.mark.parametrize(
    ("meaning", "expected"),
    [
        (said(ALL_IN[0]), Meaning(d.PROGRESS, components={"modem": "installed"})),
        (said(f"  {ALL_IN[0]} ", "line"), Meaning(d.PROGRESS, detail="line", components={"modem": "installed"})),
        (
            said(*ALL_IN, OS_IN, execution="closed", finished="success"),
            Meaning(d.CONFIRMED, components={"display": "confirmed", "modem": "installed", "os": "confirmed"}),
        ),
        (
            said(OS_IN, execution="closed", finished="success"),
            Meaning(d.TRIAL, reason="component.incomplete", components={"os": "confirmed"}),
        ),
        (
            said(ALL_IN[0], "ota.state=installed"),
            Meaning(d.PROGRESS, reason="component.incomplete", components={"modem": "installed"}),
        ),
        (
            said(BACK, "ota.state=failed", "ota.class=health", "ota.reason=self_test", execution="closed"),
            Meaning(d.FAILED, "health", "component.modem", "self_test", {"modem": "rolled_back"}),
        ),
        (
            said(BACK, "ota.class=boot", "no carrier"),
            Meaning(d.FAILED, "boot", "component.modem", "no carrier", {"modem": "rolled_back"}),
        ),
        (
            said(BACK, execution="closed", finished="success"),
            Meaning(d.FAILED, "health", "component.modem", components={"modem": "rolled_back"}),
        ),
        # Named twice, the higher outcome counts; what is no outcome or no component of the release is no news.
        (
            said(BACK, ALL_IN[0]),
            Meaning(d.FAILED, "health", "component.modem", components={"modem": "rolled_back"}),
        ),
        (said("ota.component=radio ota.outcome=failed", "ota.class=boot"), Meaning(d.PROGRESS)),
        (
            said("ota.component=modem ota.outcome=exploded"),
            Meaning(d.PROGRESS, detail="ota.component=modem ota.outcome=exploded"),
        ),
        # Clients without words for components: their success is of the whole deployment.
        (said(execution="closed", finished="success", client="swupdate"), Meaning(d.CONFIRMED)),
        (said(execution="closed", finished="success", client="rauc"), Meaning(d.INSTALLED)),
    ],
)
def test_what_outcomes_of_components_mean(meaning: Meaning, expected: Meaning):
    assert meaning == expected


async def test_a_failed_component_ends_the_action_at_every_poll_and_is_a_fact_with_all_outcomes(world: World):
    offer(world, PARTS, State.DOWNLOADING)
    world.offers.projected = 0
    await world.feedback(ACTION, "proceeding", "none", BACK, ALL_IN[1], "ota.class=health")
    (event,) = world.facts.events
    assert event.type == d.FAILED
    report = d.decode_report(event.data)
    assert report.components == {"display": "confirmed", "modem": "rolled_back"}
    assert (report.failure_class, report.reason) == ("health", "component.modem")
    assert "_links" not in (await world.get("")).json()


async def test_components_that_are_in_leave_the_action_where_it_is(world: World):
    offer(world, PARTS, State.DOWNLOADING)
    for line in ALL_IN:
        await world.feedback(ACTION, "proceeding", "none", line)
    assert [event.type for event in world.facts.events] == [d.PROGRESS, d.PROGRESS]
    assert "deploymentBase" in (await world.get("")).json()["_links"]


async def test_components_of_a_release_that_has_none_are_no_news(world: World):
    world.offers.offer(7, ACTION, State.ACCEPTED)
    await world.feedback(ACTION, "closed", "success", "ota.component=modem ota.outcome=failed")
    (event,) = world.facts.events
    assert event.type == d.CONFIRMED
    assert d.decode_report(event.data).components is None
