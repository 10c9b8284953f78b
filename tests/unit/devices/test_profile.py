from __future__ import annotations

import pytest

from orchestrator.domain.assignment import State
from orchestrator.domain.profile import Client, Profile, ProfileError, parse_profile


@pytest.mark.parametrize(
    ("data", "profile"),
    [
        ({}, Profile(Client.GENERIC, "os", State.CONFIRMED, multi=True)),
        ({"multi": False}, Profile(Client.GENERIC, "os", State.CONFIRMED)),
        ({"client": "swupdate"}, Profile(Client.SWUPDATE, "os", State.CONFIRMED, multi=True)),
        ({"client": "rauc", "multi": True}, Profile(Client.RAUC, "os", State.INSTALLED, multi=True)),
        ({"client": "rauc"}, Profile(Client.RAUC, "os", State.INSTALLED)),
        ({"client": "zephyr"}, Profile(Client.ZEPHYR, "bApp", State.CONFIRMED)),
        ({"client": "rauc", "closed_success": "confirmed"}, Profile(Client.RAUC, "os", State.CONFIRMED)),
        ({"client": "zephyr", "part": "app"}, Profile(Client.ZEPHYR, "app", State.CONFIRMED)),
    ],
)
def test_a_client_has_usual_ways_that_a_model_can_override(data: dict[str, object], profile: Profile):
    assert parse_profile(data) == profile


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"client": "mender"}, "known are generic, swupdate, rauc, zephyr"),
        ({"client": 3}, "client is 3"),
        ({"client": ["rauc"]}, "client is"),
        ({"part": ""}, "1 to 32"),
        ({"part": "x" * 33}, "1 to 32"),
        ({"part": "a\nb"}, "printable"),
        ({"part": None}, "printable"),
        ({"closed_success": "trial"}, "confirmed or installed"),
        ({"closed_success": []}, "confirmed or installed"),
        ({"multi": 1}, "true or false"),
        ({"client": "zephyr", "multi": True}, "exactly one chunk"),
        ({"cleint": "rauc"}, "no 'cleint'"),
    ],
)
def test_what_is_no_profile_is_refused_with_a_sentence(data: dict[str, object], message: str):
    with pytest.raises(ProfileError, match=message) as refused:
        parse_profile(data)
    assert refused.value.code == "hardware_model.invalid_profile"
