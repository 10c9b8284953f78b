"""What a client's report means: hawkBit's feedback and configData to device events. Pure.

Two languages are understood from every client. Details of the form ``ota.state=…``, ``ota.class=…`` and ``ota.reason=…`` say
exactly what happened and win; ``execution`` and ``finished`` are read as the hardware model's profile says. Of a release with several
components ``ota.component=modem ota.outcome=installed`` says what became of one; a report may have a line for each.

What devices write is cut to size and never refused for its length; what is not a report at all is refused as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeGuard, cast

import msgspec
from msgspec.structs import replace

from api.devices.errors import InvalidReportError, MalformedReportError
from orchestrator.domain.assignment import FailureClass, State
from orchestrator.domain.components import OUTCOMES, Kind, Outcome, judge
from orchestrator.domain.profile import Profile
from schemas import device_events as d

MAX_DETAIL: Final = 1_024
"""Characters of text kept of a report; the last ones, where clients write what went wrong."""

MAX_REASON: Final = 64
"""Characters of a reason."""

MAX_ATTRIBUTES: Final = 100
"""Attributes of one configData, as in hawkBit."""

MAX_ATTRIBUTE: Final = 128
"""Characters of an attribute's key (refused beyond) and value (cut), as in hawkBit."""

CONFIG_DATA: Final = "configData"
"""Stands for the action in the identity of a configData."""

VERSION: Final = "fw_version"
"""Attribute in which a device states the firmware version it runs."""

DIGEST: Final = "fw_digest"
"""Attribute in which a device states the sha256 of the file it runs."""

SETTLED: Final = frozenset({d.CONFIRMED, d.REVERTED, d.FAILED, d.REJECTED, d.CANCELLED, d.NOT_APPLICABLE})
"""Reports after which the next poll must not show the action any more."""

_TYPES: Final = {state: event_type for event_type, state in d.UPDATE_STATES.items()}
_CLASSES: Final = {failure.value for failure in FailureClass} - {FailureClass.SILENCE.value}
_OWN_WORDS: Final = re.compile(r"\s*ota\.(state|class|reason)=(.*?)\s*", re.DOTALL)
_COMPONENT: Final = re.compile(rf"\s*ota\.component=(\S{{1,64}})\s+ota\.outcome=({'|'.join(OUTCOMES)})\s*")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_MAX_TIME: Final = 2**53

# What SWUpdate's suricatta writes into details.
_ALL_INSTALLED: Final = "All Chunks Installed."
_UPDATE_FAILED: Final = "Update Failed."
_HASH_MISMATCH: Final = "hash mismatch"


class _Result(msgspec.Struct):
    finished: Literal["success", "failure", "none"]
    progress: Any = None


class _Status(msgspec.Struct):
    execution: Literal["closed", "proceeding", "canceled", "scheduled", "rejected", "resumed", "downloaded", "download"]
    result: _Result
    details: list[str] | None = None


class _Feedback(msgspec.Struct):
    status: msgspec.Raw
    timestamp: Any = None


class _ConfigData(msgspec.Struct):
    data: dict[str, str | int | float | bool | None]
    mode: Literal["merge", "replace", "remove"] = "merge"


_decode_feedback: Final = msgspec.json.Decoder(_Feedback).decode
_decode_status: Final = msgspec.json.Decoder(_Status).decode
_decode_config_data: Final = msgspec.json.Decoder(_ConfigData).decode


class Feedback(msgspec.Struct, frozen=True):
    """A feedback as the client wrote it."""

    execution: str
    finished: str
    details: tuple[str, ...]
    progress: str | None
    time: int | None
    """Device clock, ms since the epoch."""
    canonical: bytes
    """``status`` in canonical form: what makes it this statement and no other."""

    def event_id(self, device_id: str, action_id: int, *, cancel: bool) -> str:
        """Identity of the statement: repeated, it is the same, whenever it was made.

        The same words are another statement on a request to cancel than on a deployment.
        """
        return d.statement_id(device_id, f"cancel/{action_id}" if cancel else str(action_id), self.canonical)


class Meaning(msgspec.Struct, frozen=True):
    """What a feedback says, as an event type with its details."""

    type: str
    failure_class: str | None = None
    reason: str | None = None
    detail: str | None = None
    components: dict[str, str] | None = None
    """Component to outcome, as the device has it; :func:`conclude` keeps those of the release."""

    def report(self, action_id: int) -> d.Report:
        return d.Report(
            action_id=action_id,
            failure_class=self.failure_class,
            reason=self.reason,
            detail=self.detail,
            components=self.components,
        )


def parse_feedback(body: bytes) -> Feedback:
    """Read a feedback's body. ``id``, ``time`` and unknown fields are ignored: the path names the action.

    Raises:
        MalformedReportError: not JSON.
        InvalidReportError: not a feedback.
    """
    feedback = _decoded(_decode_feedback, body, "")
    status = _decoded(_decode_status, feedback.status, "status")
    return Feedback(
        execution=status.execution,
        finished=status.result.finished,
        details=tuple(line.replace("\0", "") for line in status.details or ()),
        progress=_progress(status.result.progress),
        time=feedback.timestamp if _is_int(feedback.timestamp) and 0 < feedback.timestamp < _MAX_TIME else None,
        canonical=_canonical(feedback.status),
    )


def interpret(feedback: Feedback, profile: Profile, *, cancel: bool) -> Meaning:
    """What a feedback on a deployment, or with ``cancel`` on a request to cancel, says about the assignment."""
    own = _own_words(feedback.details)
    event_type, failure_class, reason = _stated(own["state"], feedback.details) or (
        _on_cancel(feedback) if cancel else _on_deployment(feedback, profile)
    )
    components = _component_words(feedback.details)
    if event_type in {d.FAILED, d.REVERTED} or components:
        failure_class = own["class"] if own["class"] in _CLASSES else failure_class
    return Meaning(
        type=event_type,
        failure_class=failure_class,
        reason=own["reason"][:MAX_REASON] or reason,
        detail=_detail(feedback),
        components=components,
    )


def conclude(meaning: Meaning, kinds: Mapping[str, str]) -> Meaning:
    """What a report with outcomes says once the release's components (name to kind) are known; others it may name are no news."""
    said = {name: Outcome(text) for name, text in (meaning.components or {}).items() if name in kinds}
    if not said:
        blamed = meaning.type in {d.FAILED, d.REVERTED}
        return replace(meaning, components=None, failure_class=meaning.failure_class if blamed else None)
    state = State(d.UPDATE_STATES[meaning.type]) if meaning.type in d.UPDATE_STATES else None
    judged = judge(
        {name: Kind(kind) for name, kind in kinds.items()}, said, state, meaning.failure_class, meaning.reason
    )
    blamed = judged.state in {State.FAILED, State.REVERTED}
    own_reason = meaning.reason if meaning.reason != judged.reason else None
    return Meaning(
        type=d.PROGRESS if judged.state is None else _TYPES[judged.state.value],
        failure_class=judged.failure_class if blamed else None,
        reason=judged.reason,
        # The device's own reason gives way to the component's name; it is not lost.
        detail="\n".join(text for text in (own_reason, meaning.detail) if text)[-MAX_DETAIL:] or None,
        components={name: said[name].value for name in sorted(said)},
    )


def _stated(state: str, details: Sequence[str]) -> tuple[str, str | None, str | None] | None:
    event_type = _TYPES.get(state)
    if event_type is None:
        return None
    if event_type == d.FAILED:
        return _failure(details)
    return event_type, FailureClass.BOOT.value if event_type == d.REVERTED else None, None


def _on_deployment(feedback: Feedback, profile: Profile) -> tuple[str, str | None, str | None]:
    match feedback.execution, feedback.finished:
        case "closed", "failure":
            if _UPDATE_FAILED in feedback.details:
                # Said after the restart: the bootloader went back to the old image.
                return d.REVERTED, FailureClass.BOOT.value, "update_failed"
            return _failure(feedback.details)
        case "closed", _:
            return _TYPES[profile.closed_success.value], None, None
        case (("download" | "downloaded"), _):
            return d.DOWNLOADING, None, None
        case "proceeding", _ if _ALL_INSTALLED in feedback.details:
            return d.INSTALLED, None, None
        case "rejected", _:
            return d.REJECTED, None, None
        case "canceled", _:
            return d.CANCELLED, None, None
        case _:
            return d.PROGRESS, None, None


def _on_cancel(feedback: Feedback) -> tuple[str, str | None, str | None]:
    match feedback.execution, feedback.finished:
        case ("closed", "failure") | ("rejected", _):
            return d.PROGRESS, None, "cancel_refused"
        case (("closed" | "canceled"), _):
            return d.CANCELLED, None, None
        case _:
            return d.PROGRESS, None, None


def _failure(details: Sequence[str]) -> tuple[str, str, str | None]:
    if any(_HASH_MISMATCH in line.lower() for line in details):
        return d.FAILED, FailureClass.INTEGRITY.value, "hash_mismatch"
    return d.FAILED, FailureClass.INSTALL.value, None


def _own_words(details: Sequence[str]) -> dict[str, str]:
    words = {"state": "", "class": "", "reason": ""}
    for line in details:
        if match := _OWN_WORDS.fullmatch(line):
            words[match[1]] = match[2]
    return words


def _component_words(details: Sequence[str]) -> dict[str, str] | None:
    """Of a component that is named twice the higher outcome counts, as in the fold."""
    order = list(OUTCOMES)
    words: dict[str, str] = {}
    for line in details:
        match = _COMPONENT.fullmatch(line)
        if match:
            words[match[1]] = max(match[2], words.get(match[1], match[2]), key=order.index)
    return words or None


def _detail(feedback: Feedback) -> str | None:
    said = (line for line in feedback.details if not (_OWN_WORDS.fullmatch(line) or _COMPONENT.fullmatch(line)))
    text = "\n".join(said).strip()
    if len(text) > MAX_DETAIL:
        text = "…" + text[1 - MAX_DETAIL :]
    return text or feedback.progress


def _progress(value: Any) -> str | None:
    # A hint for people: "of" may be 0, "cnt" may exceed it, and either may be anything else.
    if not isinstance(value, dict):
        return None
    progress = cast("dict[str, Any]", value)
    count, of = progress.get("cnt"), progress.get("of")
    return f"{count} of {of}" if _is_int(count) and _is_int(of) and max(abs(count), abs(of)) < _MAX_TIME else None


def parse_attributes(body: bytes) -> tuple[d.Attributes, bytes]:
    """Read a configData's body: the attributes, and the canonical form that is the statement's identity.

    Raises:
        MalformedReportError: not JSON.
        InvalidReportError: not a configData.
    """
    config = _decoded(_decode_config_data, body, "")
    if not config.data:
        raise InvalidReportError("data is empty.")
    if len(config.data) > MAX_ATTRIBUTES:
        raise InvalidReportError(f"data has {len(config.data)} attributes, the most are {MAX_ATTRIBUTES}.")
    attributes: dict[str, str | None] = {}
    for key, value in config.data.items():
        name = key.replace("\0", "")
        if not 0 < len(name) <= MAX_ATTRIBUTE:
            raise InvalidReportError(f"An attribute's key must have 1 to {MAX_ATTRIBUTE} characters.")
        if value is not None or config.mode != "replace":
            attributes[name] = _text(value)
    stated = attributes if config.mode != "remove" else {}
    digest = (stated.get(DIGEST) or "").lower()
    reported = d.Attributes(
        mode=config.mode,
        attributes=attributes,
        version=stated.get(VERSION) or None,
        digest=digest if _SHA256.fullmatch(digest) else None,
    )
    return reported, d.canonical_body({"mode": config.mode, "data": config.data})


def _text(value: str | float | bool | None) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text.replace("\0", "")[:MAX_ATTRIBUTE]


def _decoded(decode: Any, body: Any, where: str) -> Any:
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise InvalidReportError(_placed(str(error), where)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedReportError(str(error)) from error


def _placed(message: str, where: str) -> str:
    """The decoder's message about a part of the body, with the place in the whole body."""
    if not where:
        return message
    return message.replace("`$", f"`$.{where}") if "`$" in message else f"{message} - at `$.{where}`"


def _canonical(raw: msgspec.Raw) -> bytes:
    return d.canonical_body(_decoded(msgspec.json.decode, raw, "status"))


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
