from __future__ import annotations

from collections import Counter

import pytest

from orchestrator.demo.scenario import BAD_REVISION, LEAST_DEVICES, poll_interval, revisions_of


@pytest.mark.parametrize("devices", [LEAST_DEVICES, 300, 2_000, 2_001])
def test_about_thirty_percent_of_any_fleet_have_the_bad_revision(devices):
    counted = Counter(revision.name for revision in revisions_of(devices))
    assert counted.total() == devices
    assert abs(counted[BAD_REVISION] - 0.3 * devices) < 1


def test_every_stretch_of_the_fleet_is_mixed():
    assert {revision.name for revision in revisions_of(12)} == {"A", "B", "C", "D", "E"}


def test_a_larger_fleet_polls_less_often():
    assert poll_interval(300) < poll_interval(2_000) < poll_interval(10_000)
