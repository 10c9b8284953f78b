from __future__ import annotations

import msgspec
import pytest

from orchestrator.cli import cmd_device
from orchestrator.cli.device_file import DeviceFileError, read_devices
from tests.unit.cli.conftest import AT

TWO = [
    {"device_id": "d1", "hardware_model": "sensor-a", "attributes": {"hw_revision": "C"}},
    {"device_id": "d2", "hardware_model": "sensor-a", "attributes": {}},
]
DEVICE = {
    "device_no": 1,
    "device_id": "d1",
    "hardware_model": "sensor-a",
    "attributes": {"hw_revision": "C"},
    "version": "1.0.0",
    "digest": None,
    "registered_at": AT,
    "reported_at": AT,
    "last_seen_at": None,
}

WILL = {
    "device_id": "d1",
    "version": 3,
    "opted_out": False,
    "postponed_until": None,
    "consents": [{"release_id": "rel_1", "campaign_id": None, "until": None}],
    "stated_at": AT,
    "actor": "portal",
    "on_behalf_of": "customer 7",
    "reason": "asked for",
}


@pytest.fixture
def written(tmp_path):
    def write(text: str | bytes):
        path = tmp_path / "devices"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize(
    "text",
    [
        msgspec.json.encode(TWO),
        msgspec.json.encode({"devices": TWO}),
        msgspec.json.format(msgspec.json.encode({"devices": TWO}), indent=2),
        b"\n".join(msgspec.json.encode(each) for each in TWO) + b"\n\n",
        b"device_id,hardware_model,hw_revision\nd1,sensor-a,C\nd2,sensor-a,\n",
        b"\xef\xbb\xbfhw_revision, device_id ,hardware_model\r\nC,d1,sensor-a\r\n,d2,sensor-a\r\n",
    ],
)
def test_devices_are_read_from_json_json_lines_and_csv(written, text):
    assert read_devices(written(text)) == TWO


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no device"),
        ("[]", "no device"),
        ("device_id,hardware_model\n", "no device"),
        (b"\xff\xfe", "UTF-8"),
        ("[{}]", "device_id"),
        ('[{"device_id": "d1", "hardware_model": "m", "atributes": {}}]', "atributes"),
        ('{"device_id": "d1", "hardware_model": "m"}\n{"device_id": 2}', "Device 2"),
        ("{", "truncated"),
        ("device_id,model\nd1,m\n", "hardware_model"),
        ("device_id,hardware_model\nd1\n", "Line 2"),
        ("device_id,hardware_model\nd1,m,x\n", "Line 2"),
        ('device_id,hardware_model\n"d1,m\n', "Line"),
    ],
)
def test_a_file_with_a_mistake_says_where_it_is(written, text, said):
    with pytest.raises(DeviceFileError, match=said):
        read_devices(written(text))


def imported(request):
    devices = msgspec.json.decode(request.content)["devices"]
    return {
        "devices": [{"device_no": 1, "device_id": d["device_id"], "token": f"token-{d['device_id']}"} for d in devices]
    }


def test_an_import_prints_the_tokens_once(ota, api, written):
    api.on("POST", "/v1/devices/import", imported)
    ran = ota("device", "import", written(msgspec.json.encode(TWO)))
    assert (ran.exit_code, ran.stdout) == (0, "d1\ttoken-d1\nd2\ttoken-d2\n")
    assert api.body() == {"devices": TWO, "issue_tokens": True}


def test_a_large_import_goes_in_parts_and_can_be_repeated(ota, api, written, monkeypatch):
    monkeypatch.setattr(cmd_device, "IMPORT_AT_ONCE", 2)
    api.on("POST", "/v1/devices/import", imported)
    path = written("device_id,hardware_model\n" + "".join(f"d{n},m\n" for n in range(5)))
    ran = ota("device", "import", path, "--json")
    assert [each["device_id"] for each in ran.json["devices"]] == ["d0", "d1", "d2", "d3", "d4"]
    ota("device", "import", path)
    keys = [request.headers["idempotency-key"] for request in api.requests]
    assert keys[:3] == keys[3:]
    assert len(set(keys)) == 3


def test_tokens_that_were_shown_before_are_not_shown_again(ota, api, written):
    api.on("POST", "/v1/devices/import", {"devices": [{"device_no": 1, "device_id": "d1", "token": None}]})
    ran = ota("device", "import", written(msgspec.json.encode(TWO[:1])))
    assert ran.stdout == "d1\n"
    assert "ota device token" in ran.stderr


def test_a_token_is_printed_alone(ota, api):
    api.on("POST", "/v1/devices/d1/token", {"device_id": "d1", "token": "secret"})
    assert ota("device", "token", "d1").stdout == "secret\n"


def test_a_list_is_filtered_and_ends_where_it_was_told_to(ota, api):
    api.on("GET", "/v1/devices", {"items": [DEVICE, DEVICE], "next": "more"})
    words = ("-m", "sensor-a", "-a", "hw_revision:C", "-a", "site:x")
    ran = ota("device", "list", *words, "--limit", "3", "--json")
    assert len(ran.json["items"]) == 3
    params = api.requests[0].url.params
    assert params["hardware_model"] == "sensor-a"
    assert params.get_list("attribute") == ["hw_revision:C", "site:x"]
    assert "--limit" in ran.stderr


def test_show_joins_the_twin_its_campaigns_and_its_last_reports(ota, api):
    assignment = {
        "campaign_id": "cmp_1",
        "campaign_name": "spring",
        "release_id": "rel_1",
        "phase": 0,
        "stratum": "sensor-a/C",
        "attempt": 1,
        "action_id": 1,
        "state": "reverted",
        "changed_at": AT,
        "offered_at": AT,
        "started_at": AT,
        "cancel_requested_at": None,
        "failure_class": "health",
        "reason": None,
        "next_attempt_at": "2026-11-22T03:04:36.898Z",
        "current": False,
    }
    entry = {
        "event_id": "e",
        "type": "device.update.reverted",
        "recorded_at": AT,
        "campaign_id": "cmp_1",
        "attempt": 1,
        "failure_class": "health",
        "reason": "self_test_failed",
        "detail": None,
        "partition": 0,
        "offset": 1,
    }
    detail = {
        **DEVICE,
        "token_issued": True,
        "assignment": None,
        "assignments": [assignment],
        "components": [],
        "will": WILL,
    }
    api.on("GET", "/v1/devices/d1", detail)
    api.on("GET", "/v1/devices/d1/timeline", {"items": [entry], "next": None})
    text = ota("device", "show", "d1").stdout
    assert "sensor-a/C" in text
    assert "agrees to rel_1" in text
    assert "self_test_failed" in text
    assert "2026-11-22T03:04:36.898Z" in text
    assert ota("device", "show", "d1", "--json").json == {**detail, "timeline": [entry]}
