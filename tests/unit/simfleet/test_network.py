from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from orchestrator.simfleet.command import Options, simulate
from orchestrator.simfleet.counts import read_counts
from orchestrator.simfleet.model import DeviceSpec, FleetFile, HardwareSpec
from orchestrator.simfleet.truth import ACKNOWLEDGED, REVEALED, SENT, read_truth


async def test_a_report_is_repeated_until_it_is_answered_200_and_acknowledged_once(gateway, start):
    gateway.action = "1000017"
    gateway.trouble = [(r"POST .*feedback", trouble) for trouble in (503, 429, "drop", 500)]
    running = start("A")
    await running.until(lambda: gateway.action is None)
    await running.end()
    lines = list(read_truth(running.truth))
    states = ["attributes", "accepted", "downloading", "installed", "trial", "confirmed"]
    acknowledged = [line.state for line in lines if line.what == ACKNOWLEDGED]
    assert acknowledged[: len(states)] == states
    assert len({line.event_id for line in lines if line.what == ACKNOWLEDGED}) == len(acknowledged)
    assert running.fleet.counts.retries == 4


async def test_a_report_that_will_never_be_taken_is_dropped_and_not_counted_as_acknowledged(gateway, start):
    gateway.action = "1000017"
    gateway.trouble = [(r"POST .*feedback", 404)]
    running = start("A")
    await running.until(lambda: gateway.action is None)
    await running.end()
    by_kind = Counter((line.what, line.state) for line in read_truth(running.truth))
    assert by_kind[SENT, "accepted"] == 1
    assert by_kind[ACKNOWLEDGED, "accepted"] == 0
    assert by_kind[ACKNOWLEDGED, "confirmed"] == 1
    assert running.fleet.counts.refused == {"404 accepted": 1}


async def test_what_is_sent_but_not_answered_is_told_apart_from_what_is_acknowledged(gateway, start):
    gateway.trouble = [(r"PUT ", 503)] * 1000
    running = start("A")
    await running.until(lambda: running.fleet.counts.retries >= 3)
    await running.end()
    assert [line.what for line in read_truth(running.truth)] == [SENT]


async def test_a_download_that_breaks_off_is_resumed_where_it_was(gateway, start):
    gateway.action = "1000017"
    gateway.trouble = [("GET .*/softwaremodules/", "half")] * 2
    running = start("A")
    await running.until(lambda: gateway.action is None)
    assert gateway.ranges[0] == ""
    assert all(asked.startswith("bytes=") for asked in gateway.ranges[1:])
    assert running.fleet.counts.resumed_downloads == len(gateway.ranges) - 1
    assert gateway.states()[-1] == "confirmed"


async def test_a_deployment_is_noted_as_revealed_once_with_the_time_its_request_was_sent(gateway, start):
    gateway.action = "1000017"
    running = start("A")
    await running.until(lambda: gateway.action is None)
    await running.end()
    lines = list(read_truth(running.truth))
    revealed = [line for line in lines if line.what == REVEALED]
    assert [(line.device, line.action) for line in revealed] == [("dev-0", "1000017")]
    assert revealed[0].t < next(line.t for line in lines if line.state == "accepted")


async def test_polls_go_on_after_answers_that_are_no_ddi(gateway, start):
    gateway.trouble = [(r"^GET /dev-0$", status) for status in (401, 204, 503, "drop")]
    running = start("A")
    await running.until(lambda: bool(gateway.attributes))
    assert running.fleet.counts.refused == {"401 poll": 1, "204 poll": 1}
    assert not running.fleet.counts.defects


async def test_equal_images_are_downloaded_by_every_device_and_kept_once(gateway, start):
    gateway.action = "1000017"
    closed: list[str] = []

    def offer_again(what: str) -> None:
        # The fake shows one action to all; it ends with the first device that confirms, so it is put back for the others.
        if gateway.action is None and len(closed) < 3:
            closed.append(what)
            gateway.action = f"100001{7 + len(closed)}"

    gateway.on_request = offer_again
    running = start("A", "A", "B")
    await running.until(lambda: running.fleet.counts.outcomes["confirmed"] >= 3)
    slots = [slots for slots in running.fleet.slots.values() if slots.running_version.major == 2]
    assert len({id(pair._primary) for pair in slots}) == 1
    assert running.fleet.counts.downloads >= 3


@pytest.fixture
def files(hardware, tmp_path) -> Path:
    """A folder with a fleet file of one device, its hardware beside it, and a traits file."""
    shutil.copy(hardware.factory_image, tmp_path / "factory.bin")
    shutil.copy(hardware.public_key, tmp_path / "key.pem")
    spec = DeviceSpec(device_id="dev-0", token="secret", hardware_model="sensor-a", hw_revision="A")
    relative = HardwareSpec(factory_image="factory.bin", public_key="key.pem")
    described = FleetFile(hardware={"sensor-a": relative}, devices=[spec])
    (tmp_path / "fleet.json").write_bytes(msgspec.json.encode(described))
    (tmp_path / "traits.json").write_text('{"3.0.0": {"mode": "fails_self_test", "bad_revisions": ["C"]}}')
    return tmp_path


async def test_a_fleet_runs_from_files_for_the_given_time(gateway, files):
    gateway.tokens = {"dev-0": "secret"}
    counts = files / "counts.json"
    fleet = await simulate(
        Options(
            gateway=gateway.url,
            devices=files / "fleet.json",
            traits=files / "traits.json",
            truth=files / "truth.jsonl",
            counts=counts,
            duration=0.2,
        )
    )
    assert read_counts(counts).devices == fleet.counts.devices == 1
    assert read_counts(counts).running == {"1.0.0": 1}
