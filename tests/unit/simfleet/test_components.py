from __future__ import annotations

import pytest

from firmware.device_sim.components import Fault
from firmware.version import Version

ACTION = "1000017"
APPS = {"modem": b"modem" * 300, "display": b"display" * 200}


@pytest.fixture
def several(gateway):
    """A gateway whose deployment has two applications before the image."""
    gateway.applications = APPS
    gateway.action = ACTION
    return gateway


def outcomes(said) -> dict[str, str]:
    words = [detail.split() for detail in said.details if detail.startswith("ota.component=")]
    return {name.partition("=")[2]: outcome.partition("=")[2] for name, outcome in words}


def holds(running) -> dict[str, bytes]:
    return {name: image.data for name, image in running.fleet.bays["dev-0"].running.items()}


async def test_applications_are_installed_first_and_every_report_says_what_is_in(several, start):
    running = start("A")
    await running.until(lambda: several.action is None)
    states = ["accepted", "downloading", "progressed", "progressed", "installed", "trial", "confirmed"]
    assert several.states() == states
    assert [len(outcomes(said)) for said in several.said] == [0, 0, 1, 2, 3, 3, 3]
    assert outcomes(several.said[-1]) == {"modem": "installed", "display": "installed", "sensor-a": "confirmed"}
    assert holds(running) == APPS
    assert running.fleet.slots["dev-0"].running_version == Version(2)


@pytest.mark.parametrize(
    ("fault", "outcome", "blame"),
    [(Fault.CORRUPT, "failed", "integrity"), (Fault.FAILS_SELF_TEST, "rolled_back", "health")],
)
async def test_a_bad_application_goes_back_alone_and_ends_the_update_before_the_os(
    several, start, fault, outcome, blame
):
    running = start("C", display=fault)
    await running.until(lambda: several.action is None)
    assert several.states() == ["accepted", "downloading", "progressed", "failed"]
    last = several.said[-1]
    assert (last.execution, last.finished) == ("closed", "failure")
    assert f"ota.class={blame}" in last.details
    assert outcomes(last) == {"modem": "installed", "display": outcome}
    assert holds(running) == {"modem": APPS["modem"]}
    assert running.fleet.slots["dev-0"].secondary_sha256 is None


async def test_a_cancel_between_two_applications_puts_back_what_was_installed(several, start):
    def cancel_at_the_second(what: str) -> None:
        if "/softwaremodules/display/" in what:
            several.cancelling = True

    several.on_request = cancel_at_the_second
    running = start("A")
    await running.until(lambda: running.fleet.counts.outcomes["cancelled"] == 1)
    assert several.said[-1].cancel
    assert several.said[-1].finished == "success"
    assert holds(running) == {}


async def test_a_deployment_that_is_withdrawn_on_the_way_is_undone(several, start):
    several.trouble = [(r"GET .*/softwaremodules/display/", 404)]

    def withdraw(what: str) -> None:
        if "/softwaremodules/display/" in what:
            several.action = None

    several.on_request = withdraw
    running = start("A")
    await running.until(lambda: running.fleet.counts.outcomes["withdrawn"] == 1)
    assert holds(running) == {}
    assert several.states()[-1] == "progressed"


async def test_a_second_update_says_nothing_of_the_components_of_the_first(several, start):
    running = start("C", display=Fault.FAILS_SELF_TEST)
    await running.until(lambda: several.action is None)
    said = len(several.said)
    several.applications, several.action = {}, "1000018"
    await running.until(lambda: several.action is None)
    assert not any(outcomes(each) for each in several.said[said:])
    assert holds(running) == {"modem": APPS["modem"]}
