"""What devices stated and what they were promised: each record once, in the order in which it was acknowledged."""

from __future__ import annotations

from tests.support.oracle.case import Case
from tests.support.retelling import RefusedError, read_fact

_TIMELINE = ("device_no", "campaign_no", "attempt", "event_id", "type", "recorded_at", "failure_class", "reason")


def facts(case: Case) -> None:
    """Every record of the topic exactly once in the timeline or in the dead letters, as it was said."""
    timeline = {(r["partition"], r["offset"]): r for r in case.tables["timeline"]}
    dead = {(r["partition"], r["offset"]): r for r in case.tables["dead_letter"]}
    versions: dict[int, str] = {}
    for record in case.evidence.records:
        place = (record.partition, record.offset)
        row, letter = timeline.pop(place, None), dead.pop(place, None)
        case.verdict.facts += 1
        if row is not None and letter is not None:
            case.note("doubled", f"{place}: in the timeline and in the dead letters ({letter['code']})")
        try:
            fact = read_fact(record, case.actions)
        except RefusedError as refused:
            if letter is None or letter["code"] != str(refused):
                case.note("lost", f"{place}: no dead letter {refused}, but {letter and letter['code']}")
            if row is not None:
                case.note("doubled", f"{place}: in the timeline, though {refused}")
            continue
        case.stored_ids.setdefault(fact.row[3], place)
        if row is None:
            case.note("lost", f"{place}: {fact.row[4]} of device {fact.device} is not in the timeline")
        elif fact.row != tuple(row[name] for name in _TIMELINE):
            case.note("differs", f"{place}: timeline {[row[name] for name in _TIMELINE]}, said {fact.row}")
        if fact.key is not None and fact.said is not None:
            case.histories[fact.key].said.append(fact.said)
        if fact.version is not None:
            versions[fact.device] = fact.version
    for place in (*timeline, *dead):
        case.note("doubled", f"{place}: stored, but not in the log")
    for row in case.tables["device"]:
        if (said := versions.get(row["device_no"])) is not None and row["version"] != said:
            case.note("misordered", f"device {row['device_no']} said {said} last, its row says {row['version']}")


def fleet(case: Case) -> None:
    """What the fleet was promised: everything acknowledged is kept, in its order; nothing is shown that was not started."""
    last: dict[str, tuple[int, int]] = {}
    seen: set[str] = set()
    for device, action, state, event_id in case.evidence.truth.acknowledged:
        place = case.stored_ids.get(event_id)
        if place is None:
            case.note("lost", f"{device}: {state} of action {action or '-'} was acknowledged, no log has {event_id}")
            continue
        if event_id in seen:
            continue
        seen.add(event_id)
        if device in last and (place[0] != last[device][0] or place[1] < last[device][1]):
            case.note("misordered", f"{device}: {state} at {place} was acknowledged after {last[device]}")
        last[device] = place
    for device, action in case.evidence.truth.revealed:
        if action not in case.started:
            case.note("after_halt", f"{device}: action {action} was shown without a start")
    _flash(case)


def _flash(case: Case) -> None:
    release = {
        number: case.release(case.streams[stream][0]["data"]["release_id"]) for number, stream in case.campaigns.items()
    }
    confirmed = {
        device: int(action) for device, action, state, _ in case.evidence.truth.acknowledged if state == "confirmed"
    }
    taken = {(device, action) for device, action, state, _ in case.evidence.truth.acknowledged if state == "confirmed"}
    open_ends = {
        d for d, action, state in case.evidence.truth.sent if state == "confirmed" and (d, action) not in taken
    }
    slots = {row["device_no"] for row in case.tables["device_slot"]}
    for device, flash in case.evidence.flash.items():
        if flash.in_trial:
            if case.names[device] not in slots:
                case.note("slot", f"{device} is in trial of {flash.running} and its slot is free")
        elif device not in open_ends:
            action = case.actions.get(confirmed.get(device, 0))
            expected = release[action.campaign] if action else case.evidence.factory
            if flash.running != expected:
                case.note("slot", f"{device} runs {flash.running}, its assignments say {expected}")
