from __future__ import annotations

import asyncio
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.devices import ddi_bodies
from api.devices.ddi_bodies import Base
from orchestrator.app.ports import OfferView
from orchestrator.domain.assignment import State
from orchestrator.domain.profile import parse_profile
from tests.support.offers import IMAGE, IMAGE_SHA256, MemoryOffers

BASE = Base("http://ota.example:8081", "DEFAULT", "dev/1 ü")
URL = "http://ota.example:8081/DEFAULT/controller/v1/dev%2F1%20%C3%BC"


@pytest.fixture
def offers() -> MemoryOffers:
    offers = MemoryOffers()
    offers.offer(7, 1_000_017)
    return offers


def view(offers: MemoryOffers) -> OfferView:
    found = asyncio.run(offers.current(7))
    assert found is not None
    return found


def test_an_idle_poll_says_nothing_but_when_to_come_back():
    assert ddi_bodies.poll(BASE, "00:05:00", None, attributes_wanted=False) == (
        b'{"config":{"polling":{"sleep":"00:05:00"}}}'
    )


def test_a_poll_links_the_deployment_and_asks_for_attributes(offers: MemoryOffers):
    body = msgspec.json.decode(ddi_bodies.poll(BASE, "00:05:00", view(offers), attributes_wanted=True))
    href = body["_links"].pop("deploymentBase")["href"]
    assert re.fullmatch(re.escape(f"{URL}/deploymentBase/1000017?c=") + r"\d+", href)
    assert body["_links"] == {"configData": {"href": f"{URL}/configData"}}


def test_a_request_to_cancel_is_the_only_action_and_its_link_has_no_query(offers: MemoryOffers):
    offers.project(7, State.ACCEPTED)
    offers.cancel(1_000_017)
    body = msgspec.json.decode(ddi_bodies.poll(BASE, "00:05:00", view(offers), attributes_wanted=False))
    assert body["_links"] == {"cancelAction": {"href": f"{URL}/cancelAction/1000017"}}


def test_a_cancel_names_the_action_as_text():
    assert ddi_bodies.cancel(1_000_017) == b'{"id":"1000017","cancelAction":{"stopId":"1000017"}}'


def test_a_deployment_is_one_chunk_with_one_artifact(offers: MemoryOffers):
    shown = view(offers)
    body = msgspec.json.decode(ddi_bodies.deployment(BASE, shown, parse_profile({"client": "zephyr"})))
    href = f"{URL}/softwaremodules/1000017/artifacts/sensor%202.0.1.bin"
    assert body == {
        "id": "1000017",
        "deployment": {
            "download": "forced",
            "update": "forced",
            "chunks": [
                {
                    "part": "bApp",
                    "version": "2.0.1",
                    "name": "sensor",
                    "artifacts": [
                        {
                            "filename": "sensor 2.0.1.bin",
                            "hashes": {"sha1": shown.sha1, "md5": shown.md5, "sha256": IMAGE_SHA256},
                            "size": len(IMAGE),
                            "_links": {
                                "download-http": {"href": href},
                                "md5sum-http": {"href": f"{href}.MD5SUM"},
                            },
                        }
                    ],
                }
            ],
        },
    }


def test_over_https_both_download_links_are_there(offers: MemoryOffers):
    base = Base("https://ota.example", "default", "d")
    body = msgspec.json.decode(ddi_bodies.deployment(base, view(offers), parse_profile({})))
    links = body["deployment"]["chunks"][0]["artifacts"][0]["_links"]
    assert set(links) == {"download", "download-http", "md5sum", "md5sum-http"}
    assert links["download"] == links["download-http"]


@pytest.mark.parametrize(
    ("interval", "jitter", "chance", "text"),
    [
        (300, 0.1, 0.5, "00:05:00"),
        (300, 0.1, 0.0, "00:04:30"),
        (300, 0.1, 1.0, "00:05:30"),
        (300, 0.5, 0.0, "00:02:30"),
        (300, 0.5, 1.0, "00:07:30"),
        (1, 0.9, 0.0, "00:00:01"),
        (86_399, 0.1, 1.0, "23:59:59"),
        (7_325, 0.1, 0.5, "02:02:05"),
    ],
)
def test_the_pause_varies_around_the_interval(interval: int, jitter: float, chance: float, text: str):
    assert ddi_bodies.sleep(interval, jitter, chance) == text


@given(st.integers(1, 86_399), st.floats(0, 0.9), st.floats(0, 1))
def test_the_pause_has_eight_characters_and_is_never_zero(interval: int, jitter: float, chance: float):
    text = ddi_bodies.sleep(interval, jitter, chance)
    assert re.fullmatch(r"[0-2]\d:[0-5]\d:[0-5]\d", text)
    assert text != "00:00:00"
