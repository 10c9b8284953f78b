from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from firmware.device_sim.behaviour import Mode
from firmware.version import Version
from orchestrator.simfleet.client import DOWNLOAD_ATTEMPTS
from orchestrator.simfleet.truth import ACKNOWLEDGED, read_truth
from tests.unit.simfleet.conftest import QUICK

GOOD = ["accepted", "downloading", "installed", "trial", "confirmed"]


@pytest.fixture
def slots():
    return lambda running: running.fleet.slots["dev-0"]


async def test_a_good_release_is_downloaded_swapped_confirmed_and_the_new_version_is_told(gateway, start, slots):
    gateway.action = "1000017"
    running = start("A")
    await running.until(lambda: gateway.attributes.get("dev-0", {}).get("fw_version") == "2.0.0")
    assert gateway.states() == GOOD
    assert (gateway.said[-1].execution, gateway.said[-1].finished) == ("closed", "success")
    assert gateway.attributes["dev-0"]["hw_revision"] == "A"
    assert slots(running).running_version == Version(2)
    assert not slots(running).in_trial
    assert running.fleet.counts.outcomes == {"confirmed": 1}


async def test_attributes_are_told_at_the_first_contact_and_not_at_every_poll(gateway, start):
    running = start("A")
    await running.until(lambda: running.fleet.counts.polls >= 5)
    assert gateway.requests["PUT /configData"] == 1
    assert gateway.attributes == {"dev-0": {"hw_revision": "A", "fw_version": "1.0.0"}}


async def test_a_failing_self_test_reverts_to_the_old_image_and_blames_health(gateway, start, slots):
    gateway.action = "1000017"
    running = start("C", mode=Mode.FAILS_SELF_TEST)
    await running.until(lambda: gateway.action is None)
    assert gateway.states() == ["accepted", "downloading", "installed", "trial", "reverted"]
    last = gateway.said[-1]
    assert (last.execution, last.finished) == ("closed", "failure")
    assert last.details == ("ota.state=reverted", "ota.class=health", "ota.reason=self_test_failed")
    assert slots(running).running_version == Version(1)
    assert slots(running).reverted


async def test_the_flaw_of_a_release_spares_other_hardware_revisions(gateway, start):
    gateway.action = "1000017"
    running = start("B", mode=Mode.FAILS_SELF_TEST)
    await running.until(lambda: gateway.action is None)
    assert gateway.states() == GOOD


async def test_a_crash_is_reported_by_the_old_image_as_a_boot_failure(gateway, start):
    gateway.action = "1000017"
    running = start("C", mode=Mode.CRASHES)
    await running.until(lambda: gateway.action is None)
    assert gateway.states() == ["accepted", "downloading", "installed", "reverted"]
    assert "ota.class=boot" in gateway.said[-1].details


async def test_a_silent_device_never_talks_again_and_stays_in_trial(gateway, start, slots):
    gateway.action = "1000017"
    running = start("C", mode=Mode.SILENT_IN_TRIAL)
    await running.until(lambda: running.fleet.counts.outcomes["silent"] == 1)
    requests = gateway.requests.total()
    other = start("A")
    await other.until(lambda: other.fleet.counts.polls >= 5)
    assert gateway.states()[:3] == ["accepted", "downloading", "installed"]
    assert slots(running).in_trial
    assert running.fleet.counts.polls <= requests
    assert not running.fleet.counts.defects


async def test_a_cancel_before_the_installation_is_acknowledged_and_leaves_the_slots_alone(gateway, start, slots):
    gateway.action = "1000017"

    def cancel_during_the_download(what: str) -> None:
        if "/softwaremodules/" in what:
            gateway.cancelling = True

    gateway.on_request = cancel_during_the_download
    running = start("A")
    await running.until(lambda: gateway.action is None and running.fleet.counts.outcomes.total() == 1)
    assert gateway.said[-1].cancel
    assert gateway.said[-1].finished == "success"
    assert slots(running).secondary_sha256 is None
    assert running.fleet.counts.outcomes == {"cancelled": 1}


async def test_a_cancel_after_the_installation_is_refused_and_the_verdict_follows(gateway, start):
    gateway.action = "1000017"

    def cancel_once_installed(what: str) -> None:
        del what
        if gateway.states() and gateway.states()[-1] == "installed":
            gateway.cancelling = True

    gateway.on_request = cancel_once_installed
    running = start("A")
    await running.until(lambda: gateway.action is None and running.fleet.counts.outcomes.total() == 1)
    refusal = next(said for said in gateway.said if said.cancel)
    assert (refusal.execution, refusal.finished) == ("closed", "failure")
    assert gateway.states()[-1] == "confirmed"
    assert running.fleet.counts.outcomes == {"confirmed": 1}


async def test_an_offer_that_is_withdrawn_before_it_is_seen_is_not_reported(gateway, start):
    gateway.action = "1000017"
    gateway.trouble = [(r"GET .*/deploymentBase", 404)]
    running = start("A")
    await running.until(lambda: gateway.action is None and running.fleet.counts.outcomes.total() == 2)
    assert running.fleet.counts.outcomes == {"withdrawn": 1, "confirmed": 1}
    assert gateway.states() == GOOD


async def test_an_image_with_another_digest_is_refused_as_an_integrity_failure(gateway, start, slots):
    gateway.action, gateway.announced_sha256 = "1000017", hashlib.sha256(b"other").hexdigest()
    running = start("A")
    await running.until(lambda: gateway.action is None)
    assert gateway.states() == ["accepted", "downloading", "failed"]
    assert "ota.class=integrity" in gateway.said[-1].details
    assert slots(running).secondary_sha256 is None


async def test_a_device_that_could_not_download_takes_a_second_offer_and_confirms(gateway, start, slots):
    gateway.action = "1000017"
    gateway.trouble = [("GET .*image.bin", 500)] * DOWNLOAD_ATTEMPTS
    running = start("A")
    await running.until(lambda: gateway.action is None)
    assert gateway.states() == ["accepted", "downloading", "failed"]
    assert "ota.class=transport" in gateway.said[-1].details
    gateway.action = "1000018"
    await running.until(lambda: gateway.action is None)
    assert gateway.states()[3:] == GOOD
    assert {said.action for said in gateway.said[3:]} == {"1000018"}
    assert str(slots(running).running_version) == "2.0.0"


async def test_an_image_that_the_bootloader_refuses_is_reported_as_a_boot_failure(gateway, start, slots):
    gateway.action = "1000017"
    gateway.image = gateway.image[:-1] + bytes([gateway.image[-1] ^ 1])
    running = start("A")
    await running.until(lambda: gateway.action is None)
    assert gateway.states() == ["accepted", "downloading", "installed", "failed"]
    assert "ota.class=boot" in gateway.said[-1].details
    assert slots(running).running_version == Version(1)


async def test_a_link_that_survives_its_closing_report_is_counted_and_not_followed(gateway, start):
    gateway.action = "1000017"
    running = start("A")
    await running.until(lambda: gateway.action is None)
    gateway.action = "1000017"
    await running.until(lambda: running.fleet.counts.stale_links >= 2)
    assert gateway.states() == GOOD


async def test_a_deployment_that_is_hidden_from_a_device_in_trial_is_counted(gateway, start):
    gateway.action = "1000017"

    def hide_from_trial(what: str) -> None:
        if what == "GET /dev-0" and gateway.states()[-1:] == ["installed"]:
            gateway.action = None

    gateway.on_request = hide_from_trial
    running = start("A")
    await running.until(lambda: gateway.states()[-1:] == ["confirmed"])
    assert running.fleet.counts.lost_links == 1


async def test_without_being_asked_a_fleet_reports_no_health(gateway, start):
    gateway.action = "1000017"
    running = start("C", mode=Mode.CRASH_LOOP)
    await running.until(lambda: running.fleet.counts.polls >= 10)
    assert gateway.health == []


async def test_a_release_in_a_crash_loop_confirms_and_then_crashes(gateway, start):
    gateway.action = "1000017"
    running = start("C", mode=Mode.CRASH_LOOP, pace=replace(QUICK, health_every=0.02, crash_every=0.01))
    await running.until(lambda: sum(report["events"] for report in gateway.health) >= 5)
    await running.end()
    assert gateway.states() == GOOD
    assert {report["signal"] for report in gateway.health} == {"crash"}
    assert all(report["exposure_ms"] >= 20 for report in gateway.health)
    periods = [report["period"] for report in gateway.health]
    assert len(set(periods)) == len(periods)
    told = [line for line in read_truth(running.truth) if (line.what, line.state) == (ACKNOWLEDGED, "health")]
    assert len({line.event_id for line in told}) == len(told) > 0


async def test_a_sound_device_reports_that_nothing_happened(gateway, start):
    running = start("A", mode=Mode.CRASH_LOOP, pace=replace(QUICK, health_every=0.01))
    await running.until(lambda: len(gateway.health) >= 3)
    assert {report["events"] for report in gateway.health} == {0}
