from __future__ import annotations

import pytest

from firmware.device_sim.behaviour import Mode, ReleaseTraits, component_fault
from firmware.device_sim.components import ComponentBay, Fault
from firmware.device_sim.flash import flash_image

OLD, NEW, NEWER, OTHER = (flash_image(content) for content in (b"old", b"new", b"newer", b"other"))


@pytest.fixture
def bay() -> ComponentBay:
    """A device whose modem is old and whose update is over."""
    bay = ComponentBay()
    bay.install("modem", OLD)
    bay.keep()
    return bay


def test_a_component_goes_back_alone(bay):
    bay.install("display", OTHER)
    bay.install("modem", NEW)
    bay.roll_back("modem")
    assert dict(bay.running) == {"modem": OLD, "display": OTHER}


def test_a_component_that_was_not_there_before_is_gone_after_its_way_back(bay):
    bay.install("display", OTHER)
    bay.roll_back("display")
    assert dict(bay.running) == {"modem": OLD}


def test_the_way_back_leads_to_before_the_update_however_often_it_was_installed(bay):
    bay.install("modem", NEW)
    bay.install("modem", NEWER)
    bay.roll_back_all()
    assert dict(bay.running) == {"modem": OLD}


def test_what_was_kept_has_no_way_back(bay):
    bay.install("modem", NEW)
    bay.keep()
    bay.roll_back("modem")
    bay.roll_back_all()
    assert dict(bay.running) == {"modem": NEW}


def test_a_fault_strikes_its_component_on_the_bad_revisions_only():
    traits = ReleaseTraits(Mode.GOOD, frozenset("C"), components={"modem": Fault.CORRUPT})
    assert component_fault("modem", "C", traits) is Fault.CORRUPT
    assert component_fault("modem", "A", traits) is None
    assert component_fault("display", "C", traits) is None
