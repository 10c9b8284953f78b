from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.devices.ddi_reports import (
    MAX_ATTRIBUTE,
    MAX_ATTRIBUTES,
    MAX_DETAIL,
    SETTLED,
    Meaning,
    interpret,
    parse_attributes,
    parse_feedback,
)
from api.devices.errors import InvalidReportError, MalformedReportError
from orchestrator.domain.profile import parse_profile
from schemas import device_events as d

GENERIC = parse_profile({})
RAUC = parse_profile({"client": "rauc"})
EXECUTIONS = ("closed", "proceeding", "canceled", "scheduled", "rejected", "resumed", "downloaded", "download")


def body(execution: str, finished: str = "none", *details: str, **fields: Any) -> bytes:
    status: dict[str, Any] = {"execution": execution, "result": {"finished": finished}}
    if details:
        status["details"] = list(details)
    return msgspec.json.encode({"status": status, **fields})


def meaning(raw: bytes, *, cancel: bool = False, profile: Any = GENERIC) -> Meaning:
    return interpret(parse_feedback(raw), profile, cancel=cancel)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (body("closed", "success"), Meaning(d.CONFIRMED)),
        (body("closed", "none"), Meaning(d.CONFIRMED)),
        (body("closed", "success", "Update Installed."), Meaning(d.CONFIRMED, detail="Update Installed.")),
        (body("closed", "failure"), Meaning(d.FAILED, "install")),
        (body("closed", "failure", "no space"), Meaning(d.FAILED, "install", detail="no space")),
        (
            body("closed", "failure", "ERROR: HASH mismatch: 00 <--> ff"),
            Meaning(d.FAILED, "integrity", "hash_mismatch", "ERROR: HASH mismatch: 00 <--> ff"),
        ),
        (
            body("closed", "failure", "Update Failed."),
            Meaning(d.REVERTED, "boot", "update_failed", "Update Failed."),
        ),
        (body("download"), Meaning(d.DOWNLOADING)),
        (body("downloaded", "success"), Meaning(d.DOWNLOADING)),
        (
            body("proceeding", "none", "Installing Update Chunk Artifacts."),
            Meaning(d.PROGRESS, detail="Installing Update Chunk Artifacts."),
        ),
        (
            body("proceeding", "none", "All Chunks Installed."),
            Meaning(d.INSTALLED, detail="All Chunks Installed."),
        ),
        (body("scheduled"), Meaning(d.PROGRESS)),
        (body("resumed"), Meaning(d.PROGRESS)),
        (body("rejected"), Meaning(d.REJECTED)),
        (body("canceled"), Meaning(d.CANCELLED)),
    ],
)
def test_feedback_on_a_deployment(raw: bytes, expected: Meaning):
    assert meaning(raw) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (body("closed", "success"), Meaning(d.CANCELLED)),
        (body("closed", "none"), Meaning(d.CANCELLED)),
        (body("canceled"), Meaning(d.CANCELLED)),
        (
            body("closed", "failure", "already installed"),
            Meaning(d.PROGRESS, reason="cancel_refused", detail="already installed"),
        ),
        (body("rejected"), Meaning(d.PROGRESS, reason="cancel_refused")),
        (body("proceeding"), Meaning(d.PROGRESS)),
        (body("download"), Meaning(d.PROGRESS)),
    ],
)
def test_feedback_on_a_request_to_cancel(raw: bytes, expected: Meaning):
    assert meaning(raw, cancel=True) == expected


def test_success_of_a_client_that_says_it_before_the_reboot_proves_only_the_installation():
    assert meaning(body("closed", "success"), profile=RAUC) == Meaning(d.INSTALLED)
    assert meaning(body("closed", "failure"), profile=RAUC) == Meaning(d.FAILED, "install")


@pytest.mark.parametrize(("event_type", "state"), d.UPDATE_STATES.items())
@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("finished", ["success", "failure", "none"])
def test_a_stated_state_wins_over_execution_and_result(event_type: str, state: str, execution: str, finished: str):
    assert meaning(body(execution, finished, f"ota.state={state}")).type == event_type
    assert meaning(body(execution, finished, f"ota.state={state}"), profile=RAUC).type == event_type


def test_class_and_reason_are_taken_from_their_own_words_and_kept_out_of_the_text():
    raw = body(
        "closed",
        "failure",
        "ota.state=reverted",
        "self-test said no",
        " ota.class=health ",
        "ota.reason=self_test_failed",
    )
    assert meaning(raw) == Meaning(d.REVERTED, "health", "self_test_failed", "self-test said no")


@pytest.mark.parametrize(
    ("details", "failure_class"),
    [
        (("ota.state=failed",), "install"),
        (("ota.state=failed", "hash mismatch"), "integrity"),
        (("ota.state=failed", "ota.class=transport"), "transport"),
        (("ota.class=boot",), "boot"),
        (("ota.class=boot", "ota.class=health"), "health"),
        (("ota.state=reverted",), "boot"),
        (("ota.state=failed", "ota.class=weather"), "install"),
        # Silence is what the server concludes; no device can state it.
        (("ota.state=failed", "ota.class=silence"), "install"),
    ],
)
def test_the_failure_class(details: tuple[str, ...], failure_class: str):
    assert meaning(body("closed", "failure", *details)).failure_class == failure_class


def test_a_class_means_nothing_without_a_failure():
    assert meaning(body("closed", "success", "ota.class=boot")).failure_class is None


def test_an_unknown_state_is_as_if_it_were_not_said():
    assert meaning(body("closed", "success", "ota.state=exploded")).type == d.CONFIRMED


def test_long_texts_are_cut_and_the_end_is_kept():
    told = meaning(body("proceeding", "none", *["x" * 500] * 5, "the end", "ota.reason=" + "r" * 100))
    assert told.detail is not None
    assert len(told.detail) == MAX_DETAIL
    assert told.detail.startswith("…")
    assert told.detail.endswith("the end")
    assert told.reason == "r" * 64


def test_the_text_holds_no_nul():
    assert meaning(body("proceeding", "none", "a\0b")).detail == "ab"


@pytest.mark.parametrize(
    ("progress", "detail"),
    [
        ({"cnt": 2, "of": 5}, "2 of 5"),
        ({"cnt": 48, "of": 0}, "48 of 0"),
        ({"cnt": "2", "of": 5}, None),
        ({"cnt": 2}, None),
        ("half", None),
        (None, None),
        ({"cnt": 10**30, "of": 5}, None),
    ],
)
def test_progress_is_a_hint_and_never_refused(progress: Any, detail: str | None):
    raw = msgspec.json.encode(
        {"status": {"execution": "proceeding", "result": {"finished": "none", "progress": progress}}}
    )
    assert meaning(raw) == Meaning(d.PROGRESS, detail=detail)


# ---- identity


def identity(raw: bytes, device: str = "d", action: int = 1_000_001, *, cancel: bool = False) -> str:
    return parse_feedback(raw).event_id(device, action, cancel=cancel)


def test_a_repeated_statement_has_the_same_identity_whenever_and_however_it_is_written():
    plain = b'{"status":{"execution":"closed","result":{"finished":"success"}}}'
    dated = (
        b'{"id": 12, "time": "20261120T233311", "timestamp": 1700000000000,\n "status":'
        b' {"result": {"finished": "success"}, "execution": "closed"}, "other": []}'
    )
    assert identity(plain) == identity(dated)
    assert identity(plain) == d.statement_id(
        "d", "1000001", d.canonical_body({"execution": "closed", "result": {"finished": "success"}})
    )


def test_other_words_other_devices_other_actions_and_cancels_are_other_statements():
    base = body("closed", "success")
    ids = {
        identity(base),
        identity(body("closed", "success", "details")),
        identity(body("closed", "failure")),
        identity(base, device="e"),
        identity(base, action=1_000_002),
        identity(base, cancel=True),
    }
    assert len(ids) == 6


@pytest.mark.parametrize(
    ("timestamp", "time"),
    [(1_700_000_000_000, 1_700_000_000_000), ("soon", None), (-5, None), (True, None), (10**30, None), (None, None)],
)
def test_the_device_clock_is_taken_where_it_is_one(timestamp: Any, time: int | None):
    assert parse_feedback(body("closed", "success", timestamp=timestamp)).time == time


# ---- what is no report


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b'{"status":', b"\xff", b'{"status": {"execution": "\xff"}}', b"[" * 100_000, b'{"a": "\\ud800"}'],
)
def test_what_is_not_json_is_malformed(raw: bytes):
    with pytest.raises((MalformedReportError, InvalidReportError)) as refused:
        parse_feedback(raw)
    assert refused.value.status == 400
    with pytest.raises((MalformedReportError, InvalidReportError)):
        parse_attributes(raw)


def test_the_two_kinds_of_bad_input_have_their_codes():
    with pytest.raises(MalformedReportError, match="malformed"):
        parse_feedback(b"{]")
    with pytest.raises(InvalidReportError, match=r"Expected `object`"):
        parse_feedback(b"[]")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"{}", "status"),
        (b'{"status": 3}', r"status"),
        (b'{"status": {"execution": "closed"}}', r"result"),
        (b'{"status": {"execution": 3, "result": {"finished": "none"}}}', r"\$\.status\.execution"),
        (b'{"status": {"execution": "flying", "result": {"finished": "none"}}}', r"\$\.status\.execution"),
        (b'{"status": {"execution": "closed", "result": {"finished": "maybe"}}}', r"\$\.status\.result\.finished"),
        (b'{"status": {"execution": "closed", "result": []}}', r"\$\.status\.result"),
        (
            b'{"status": {"execution": "closed", "result": {"finished": "none"}, "details": "text"}}',
            r"\$\.status\.details",
        ),
        (
            b'{"status": {"execution": "closed", "result": {"finished": "none"}, "details": [1]}}',
            r"\$\.status\.details\[",
        ),
    ],
)
def test_wrong_types_are_refused_with_the_place(raw: bytes, message: str):
    with pytest.raises(InvalidReportError, match=message) as refused:
        parse_feedback(raw)
    assert refused.value.code == "report.invalid"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    ),
    st.sampled_from(EXECUTIONS),
    st.booleans(),
)
def test_nothing_that_a_device_can_write_breaks_the_reader(value: Any, execution: str, cancel: bool):
    status = {"execution": execution, "result": {"finished": "none", "progress": value}, "details": value, "x": value}
    for raw in (
        msgspec.json.encode(value),
        msgspec.json.encode({"status": value, "timestamp": value}),
        msgspec.json.encode({"status": status, "timestamp": value}),
    ):
        try:
            told = interpret(parse_feedback(raw), GENERIC, cancel=cancel)
        except (InvalidReportError, MalformedReportError):
            continue
        assert told.type in d.TYPES
        d.decode_report(d.encode(told.report(1_000_001)))
    with suppress(InvalidReportError, MalformedReportError):
        parse_attributes(msgspec.json.encode({"data": value}))


# ---- attributes


def test_attributes_carry_version_and_digest():
    digest = "AB" * 32
    raw = msgspec.json.encode({"mode": "merge", "data": {"hw": "a", "fw_version": "2.0.1", "fw_digest": digest}})
    reported, _ = parse_attributes(raw)
    assert reported == d.Attributes(
        attributes={"hw": "a", "fw_version": "2.0.1", "fw_digest": digest}, version="2.0.1", digest="ab" * 32
    )


def test_mode_defaults_to_merge_in_which_null_deletes_a_key():
    reported, _ = parse_attributes(b'{"data":{"a":null,"b":"x"}}')
    assert (reported.mode, reported.attributes) == ("merge", {"a": None, "b": "x"})


def test_null_is_nothing_in_replace():
    assert parse_attributes(b'{"mode":"replace","data":{"a":null,"b":"x"}}')[0].attributes == {"b": "x"}


def test_removed_attributes_state_no_version():
    reported, _ = parse_attributes(b'{"mode":"remove","data":{"fw_version":"1"}}')
    assert (reported.mode, reported.version) == ("remove", None)


def test_a_digest_that_is_none_is_left_out():
    assert parse_attributes(b'{"data":{"fw_digest":"none"}}')[0].digest is None


def test_numbers_and_truths_become_text():
    assert parse_attributes(b'{"data":{"a":1,"b":1.5,"c":true,"d":""}}')[0].attributes == {
        "a": "1",
        "b": "1.5",
        "c": "true",
        "d": "",
    }


def test_values_are_cut_and_hold_no_nul():
    raw = msgspec.json.encode({"data": {"a": "x" * 500, "b\0": "y\0"}})
    assert parse_attributes(raw)[0].attributes == {"a": "x" * MAX_ATTRIBUTE, "b": "y"}


def test_what_swupdate_sends_is_understood():
    raw = (
        b'{"id":"","time":"20261120T233311","status":{"result":{"finished":"success"},"execution":"closed","details":[]},'
        b'"data":{"board":"x"}}'
    )
    assert parse_attributes(raw)[0].attributes == {"board": "x"}


def test_the_identity_of_attributes_is_their_mode_and_data():
    first = parse_attributes(b'{"data":{"a":"1","b":"2"},"time":"x"}')[1]
    second = parse_attributes(b'{"mode":"merge", "data":{"b":"2","a":"1"}}')[1]
    third = parse_attributes(b'{"mode":"replace", "data":{"b":"2","a":"1"}}')[1]
    assert first == second == d.canonical_body({"mode": "merge", "data": {"a": "1", "b": "2"}})
    assert third != first


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"{}", "data"),
        (b'{"data":{}}', "empty"),
        (b'{"data":[]}', "data"),
        (b'{"data":{"a":[]}}', "data"),
        (b'{"data":{"a":{}}}', "data"),
        (b'{"mode":"add","data":{"a":"1"}}', "mode"),
        (b'{"data":{"":"1"}}', "1 to 128"),
        (msgspec.json.encode({"data": {"k" * 129: "1"}}), "1 to 128"),
        (msgspec.json.encode({"data": {str(n): "" for n in range(MAX_ATTRIBUTES + 1)}}), "the most are 100"),
    ],
)
def test_what_are_no_attributes_is_refused(raw: bytes, message: str):
    with pytest.raises(InvalidReportError, match=message):
        parse_attributes(raw)


def test_reports_that_end_an_action_are_known_as_such():
    assert {d.UPDATE_STATES[event_type] for event_type in SETTLED} == {
        "confirmed",
        "reverted",
        "failed",
        "rejected",
        "cancelled",
        "not_applicable",
    }
