from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain.fleet import Fleet, ReleaseFleet, StopFleet, decide, evolve, fold

commands = st.lists(st.sampled_from([StopFleet, ReleaseFleet]), max_size=12)


@given(commands)
def test_the_fleet_is_stopped_if_the_last_command_was_a_stop_and_events_alternate(given_commands):
    events, fleet = [], Fleet()
    for number, command in enumerate(given_commands):
        for event in decide(fleet, command(actor="ann", reason=str(number), ledger_position=number)):
            events.append(event)
            fleet = evolve(fleet, event)
    assert (fleet.stop is not None) == (bool(given_commands) and given_commands[-1] is StopFleet)
    assert all(type(before) is not type(after) for before, after in pairwise(events))
    assert fold(events) == fleet
    assert fleet.version == len(events)
