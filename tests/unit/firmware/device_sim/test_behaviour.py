from __future__ import annotations

import pytest

from firmware.device_sim.behaviour import Behaviour, Mode, ReleaseTraits, crash_loops, self_test
from firmware.version import Version

V2 = Version(2)


@pytest.mark.parametrize(
    ("mode", "behaviour"),
    [
        (Mode.GOOD, Behaviour.CONFIRM),
        (Mode.FAILS_SELF_TEST, Behaviour.FAIL),
        (Mode.SILENT_IN_TRIAL, Behaviour.SILENT),
        (Mode.CRASHES, Behaviour.CRASH),
        (Mode.CRASH_LOOP, Behaviour.CONFIRM),
    ],
)
def test_the_mode_strikes_on_bad_revisions_only(mode, behaviour):
    traits = ReleaseTraits(mode, frozenset({"B"}))
    assert self_test(V2, "B", traits) is behaviour
    assert self_test(V2, "A", traits) is Behaviour.CONFIRM


def test_traits_of_one_version_do_not_touch_another():
    traits = ReleaseTraits(Mode.FAILS_SELF_TEST, frozenset({"B"}), version=V2)
    assert self_test(V2, "B", traits) is Behaviour.FAIL
    assert self_test(Version(2, 0, 1), "B", traits) is Behaviour.CONFIRM


def test_without_traits_a_release_is_good_everywhere():
    assert self_test(V2, "B", ReleaseTraits()) is Behaviour.CONFIRM


def test_a_mode_may_be_given_by_its_name():
    assert self_test(V2, "B", ReleaseTraits("silent_in_trial", {"B"})) is Behaviour.SILENT


def test_only_a_crash_loop_goes_on_after_the_trial_and_only_where_it_strikes():
    loops = ReleaseTraits(Mode.CRASH_LOOP, frozenset({"B"}), version=V2)
    assert crash_loops(V2, "B", loops)
    assert not crash_loops(V2, "A", loops)
    assert not crash_loops(Version(1), "B", loops)
    assert not crash_loops(V2, "B", ReleaseTraits(Mode.CRASHES, frozenset({"B"})))
