"""Why a device is not updated: what holds it in each campaign that it could be about, or why it is no member of that.

:data:`DEVICE_CONDITIONS` is the one table, like that of campaigns: the first condition of a campaign is the answer for it. Every
campaign that is asked about has at least one.

Not here: reading (``adapters/sql/explain_device``); what holds the campaign itself stands at the end, as the campaign's own answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from msgspec import Struct

from orchestrator.domain.assignment import ACTIVE, IN_TRIAL, Assignment, State
from orchestrator.domain.campaign import LIVE, TERMINAL, CampaignState
from orchestrator.domain.explain.view import Condition, Found, FullPlace
from orchestrator.domain.owner import Reason, Withheld
from orchestrator.domain.plan import Plan
from orchestrator.domain.query import failing
from orchestrator.domain.selection import Target, is_current, models
from orchestrator.domain.visibility import Shown
from orchestrator.domain.window import Shut, written


class Subject(Struct, frozen=True, kw_only=True):
    """The device, as it is now."""

    device_id: str
    hardware_model: str
    version: str | None
    attributes: Mapping[str, str]
    registered_at: int
    digest: str | None = None
    outdated: bool = False
    """It has confirmed an update after it last said what it runs."""
    last_seen_at: int | None = None


class Holder(Struct, frozen=True, kw_only=True):
    """The assignment that holds the device's slot."""

    campaign_id: str
    row: Assignment


class Entry(Struct, frozen=True, kw_only=True):
    """The device's place in a campaign's queue."""

    phase: int
    rank: int
    attempt: int
    not_before: int


class Seat(Struct, frozen=True, kw_only=True):
    """The device and one campaign, of one snapshot."""

    device: Subject
    now: int
    campaign_id: str
    state: CampaignState
    phase: int
    """Opened last; -1 before the first."""
    enrolled: bool
    plan: Plan
    target: Target = Target("", {})
    """What the campaign brings its devices to."""
    counted_at: int | None = None
    """When the fleet was counted for the plan, ms; None before its submission."""
    phase_enrolled: int | None = None
    """Where the enrolment put the device: -1 is the holdback; None if nowhere, or if nobody had to look."""
    holder: Holder | None = None
    row: Assignment | None = None
    due_at: int | None = None
    """When the time of ``row`` is over."""
    shown: Shown = Shown.NOTHING
    withheld: Withheld | None = None
    """By its owner's will, or by what it last reported."""
    starts_at: int | None = None
    """When its offer may be started, by the jitter of its phase."""
    entry: Entry | None = None
    stratum_halted: str | None = None
    shut: Shut | None = None
    """Of its own windows."""
    full: FullPlace | None = None
    outranked: tuple[str, ...] = ()
    """Campaigns of higher priority in whose queues it stands."""
    campaign: Condition | None = None
    """What holds the campaign."""

    @property
    def outside(self) -> bool:
        """Neither offered nor queued."""
        return self.row is None and self.entry is None

    @property
    def member(self) -> bool:
        return not self.outside or self.phase_enrolled is not None


# --------------------------------------------------------------------------- no member


def model(seat: Seat) -> Found | None:
    wanted = models(seat.plan, seat.target.artifacts)
    if seat.member or seat.device.hardware_model in wanted:
        return None
    detail = f"Its hardware model {seat.device.hardware_model} is not among those of the campaign: {', '.join(wanted)}."
    return Found(detail, {"hardware_model": seat.device.hardware_model, "hardware_models": wanted})


def excluded(seat: Seat) -> Found | None:
    if seat.member or seat.device.device_id not in seat.plan.cohort.exclude:
        return None
    return Found("The plan excludes it by its id.")


def not_included(seat: Seat) -> Found | None:
    include = seat.plan.cohort.include
    if seat.member or not include or seat.device.device_id in include:
        return None
    return Found(f"The plan includes {len(include)} devices by their ids, and it is not among them.")


def selector(seat: Seat) -> Found | None:
    query = seat.plan.query
    if seat.member or query is None:
        return None
    parts = failing(query, seat.device)
    if not parts:
        return None
    said = ("nothing" if part.found is None else repr(part.found) for part in parts)
    each = [f"{part.comparison} (it has {found})" for part, found in zip(parts, said, strict=True)]
    joined = (" or " if all(part.alternative for part in parts) else "; ").join(each)
    data = [
        {"comparison": part.comparison, "field": part.field, "found": part.found, "alternative": part.alternative}
        for part in parts
    ]
    return Found(f"The selector does not match it: {joined}.", {"selector": seat.plan.cohort.selector, "failing": data})


def current(seat: Seat) -> Found | None:
    device = seat.device
    if seat.member or not seat.plan.cohort.leaves_out_current or not is_current(device, seat.target):
        return None
    return Found(
        "It has reported that it runs the release already, and the plan leaves such devices out.",
        {"version": device.version, "digest": device.digest},
    )


def late(seat: Seat) -> Found | None:
    if seat.member or seat.counted_at is None or seat.device.registered_at <= seat.counted_at:
        return None
    return Found(
        f"It was registered at {written(seat.device.registered_at)}, after the fleet was counted at {written(seat.counted_at)}.",
        {"registered_at": seat.device.registered_at, "counted_at": seat.counted_at},
        _later(seat),
    )


def not_enrolled(seat: Seat) -> Found | None:
    if seat.member or seat.enrolled or seat.state in TERMINAL:
        return None
    return Found(f"The cohort has not been taken up yet; as it is now, the device will be in it ({seat.state}).")


def not_taken_up(seat: Seat) -> Found | None:
    if seat.member or not seat.enrolled:
        return None
    return Found("It fits the cohort now, but it did not when the cohort was taken up.", {}, _later(seat))


def _later(seat: Seat) -> str:
    if seat.plan.cohort.membership == "continuous" and seat.state in LIVE:
        return "It joins at the campaign's next look at the fleet, if its stratum was approved and there is room."
    return "A later campaign takes it in."


def held_back(seat: Seat) -> Found | None:
    if not seat.outside or seat.phase_enrolled != -1:
        return None
    return Found("It is held back on the old release, to compare with.")


# --------------------------------------------------------------------------- under way, and over


def superseded(seat: Seat) -> Found | None:
    if seat.row is None or seat.entry is not None or seat.row.state is not State.SUPERSEDED:
        return None
    return Found("Its unstarted offer was taken over by a campaign of higher priority.", _row(seat.row))


def in_trial(seat: Seat) -> Found | None:
    holder = seat.holder
    if holder is None or (holder.row.state not in IN_TRIAL and holder.row.progress not in IN_TRIAL):
        return None
    silent = holder.row.state is State.EXPIRED
    own = holder.campaign_id == seat.campaign_id
    where = "here" if own else f"in {holder.campaign_id}"
    detail = f"It has an image {where} that it has not confirmed: its second slot holds its only way back, so it is offered nothing."
    if silent:
        detail += " It fell silent in its trial; only its own report ends that."
    until = seat.due_at if own and not silent else None
    return Found(detail, {"campaign_id": holder.campaign_id} | _row(holder.row) | _due(until), None, until)


def cancelling(seat: Seat) -> Found | None:
    row = _active(seat)
    if row is None or row.cancel_requested_at is None:
        return None
    return Found(
        "It is asked to stop, and has not answered.",
        _row(row) | {"cancel_requested_at": row.cancel_requested_at} | _due(seat.due_at),
        None,
        seat.due_at,
    )


def started(seat: Seat) -> Found | None:
    row = _active(seat)
    if row is None or row.started_at is None:
        return None
    by = "" if seat.due_at is None else f" It has until {written(seat.due_at)}."
    data = _row(row) | {"started_at": row.started_at, "shown": str(seat.shown)} | _due(seat.due_at)
    return Found(f"It has started and is {row.state}.{by}", data, None, seat.due_at)


_WITHHELD: Final = {
    Reason.OPTED_OUT: "Its owner has opted out of updates.",
    Reason.POSTPONED: "Its owner has postponed updates.",
    Reason.CONSENT: "The plan needs its owner's consent, and there is none that counts.",
    Reason.PRECONDITIONS: "What it last reported does not meet the plan's preconditions.",
}


def withheld(seat: Seat) -> Found | None:
    held, row = seat.withheld, _active(seat)
    if held is None or (seat.entry is None and (row is None or row.started_at is not None)):
        return None
    data: dict[str, Any] = {"why": str(held.why)}
    detail = _WITHHELD[held.why]
    condition = seat.plan.condition if held.why is Reason.PRECONDITIONS else None
    if condition is not None:
        parts = failing(condition, seat.device)
        data["failing"] = [{"comparison": part.comparison, "field": part.field, "found": part.found} for part in parts]
        detail += f" Not met: {', '.join(part.comparison for part in parts)}."
    return Found(detail, data, None, held.until)


def jitter(seat: Seat) -> Found | None:
    row = _active(seat)
    if row is None or seat.starts_at is None or seat.now >= seat.starts_at:
        return None
    detail = f"It is offered, and shown it from {written(seat.starts_at)} on: starts are spread."
    return Found(detail, _row(row) | {"starts_at": seat.starts_at}, None, seat.starts_at)


def offered(seat: Seat) -> Found | None:
    row = _active(seat)
    if row is None:
        return None
    data = _row(row) | {"shown": str(seat.shown), "last_seen_at": seat.device.last_seen_at} | _due(seat.due_at)
    if seat.shown is Shown.NOTHING:
        return Found("It is offered, and shown nothing: offers are withheld for now.", data, None, seat.due_at)
    seen = seat.device.last_seen_at
    asked = "never asked" if seen is None else f"last asked at {written(seen)}"
    return Found(f"It is offered and has to fetch it; it {asked}.", data, None, seat.due_at)


def ended(seat: Seat) -> Found | None:
    row = seat.row
    if row is None or seat.entry is not None or _active(seat) is not None:
        return None
    why = row.reason or row.failure_class
    return Found(f"Its {_ordinal(row.attempt)} ended: {row.state}{f' ({why})' if why else ''}.", _row(row))


def _active(seat: Seat) -> Assignment | None:
    return seat.row if seat.row is not None and seat.row.state in ACTIVE else None


def _row(row: Assignment) -> dict[str, Any]:
    return {
        "phase": row.phase,
        "attempt": row.attempt,
        "state": str(row.state),
        "changed_at": row.changed_at,
        "offered_at": row.offered_at,
        "failure_class": row.failure_class,
        "reason": row.reason,
    }


def _due(at: int | None) -> dict[str, Any]:
    return {} if at is None else {"due_at": at}


def _ordinal(attempt: int) -> str:
    return "attempt" if attempt == 1 else f"attempt {attempt}"


# --------------------------------------------------------------------------- in the queue


def over(seat: Seat) -> Found | None:
    if seat.state not in TERMINAL or seat.row is not None:
        return None
    return Found(f"The campaign is {seat.state}; the device was never offered it.")


def stratum(seat: Seat) -> Found | None:
    if seat.entry is None or seat.stratum_halted is None:
        return None
    return Found(f"Its stratum {seat.stratum_halted} was halted alone.", {"stratum": seat.stratum_halted})


def busy(seat: Seat) -> Found | None:
    holder = seat.holder
    if seat.entry is None or holder is None or holder.campaign_id == seat.campaign_id:
        return None
    return Found(
        f"It is in flight for {holder.campaign_id}: {holder.row.state}. A device takes part in one campaign after the other.",
        {"campaign_id": holder.campaign_id} | _row(holder.row),
        f"ota campaign why {holder.campaign_id}",
    )


def phase(seat: Seat) -> Found | None:
    entry = seat.entry
    if entry is None or entry.phase <= seat.phase:
        return None
    name = seat.plan.phases[entry.phase].name
    return Found(f"It belongs to phase {name!r}, which has not opened.", _entry(entry))


def outranked(seat: Seat) -> Found | None:
    if seat.entry is None or not seat.outranked:
        return None
    detail = f"It waits for campaigns of higher priority first: {', '.join(seat.outranked)}."
    return Found(detail, {"campaigns": list(seat.outranked)})


def window(seat: Seat) -> Found | None:
    if seat.entry is None or seat.shut is None:
        return None
    return Found(f"It is outside its own windows. {seat.shut.detail}", {}, None, seat.shut.until)


def budget(seat: Seat) -> Found | None:
    full = seat.full
    if seat.entry is None or full is None:
        return None
    return Found(
        f"The exposure budget has no room: {full.label} {full.value!r} has {full.in_flight} of {full.limit} in flight.",
        {"label": full.label, "value": full.value, "limit": full.limit, "in_flight": full.in_flight},
    )


def retry(seat: Seat) -> Found | None:
    entry = seat.entry
    if entry is None or entry.attempt == 1 or entry.not_before <= seat.now:
        return None
    before = {} if seat.row is None else _row(seat.row)
    ended_in = "" if seat.row is None else f" after one that ended {seat.row.state}"
    detail = f"Its attempt {entry.attempt}{ended_in} comes from {written(entry.not_before)} on."
    return Found(detail, before | _entry(entry), None, entry.not_before)


def put_off(seat: Seat) -> Found | None:
    entry = seat.entry
    if entry is None or entry.not_before <= seat.now:
        return None
    detail = f"It could not go when it was looked at last, and is looked at again at {written(entry.not_before)}."
    return Found(detail, _entry(entry), None, entry.not_before)


def campaign(seat: Seat) -> Found | None:
    held = seat.campaign
    if seat.entry is None or held is None:
        return None
    return Found(
        f"It waits at place {seat.entry.rank + 1} of its phase. Of the campaign: {held.detail}",
        _entry(seat.entry) | {"condition": held.code},
        f"ota campaign why {seat.campaign_id}",
        held.until,
    )


def queued(seat: Seat) -> Found | None:
    if seat.entry is None or seat.campaign is not None:
        return None
    detail = f"It waits at place {seat.entry.rank + 1} of its phase."
    return Found(detail, _entry(seat.entry), f"ota campaign why {seat.campaign_id}")


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "phase": entry.phase,
        "rank": entry.rank,
        "attempt": entry.attempt,
        "not_before_at": entry.not_before or None,
    }


def left(seat: Seat) -> Found | None:
    """Whatever the table has no word for."""
    if not seat.outside or not seat.member or seat.phase_enrolled == -1:
        return None
    return Found("It was taken up and waits for nothing: it left the queue without an offer.")


class DeviceRule(NamedTuple):
    """A line of the table."""

    code: str
    meaning: str
    find: Callable[[Seat], Found | None]


DEVICE_CONDITIONS: Final = (
    DeviceRule("why.device.model", "its hardware model is none of the campaign's", model),
    DeviceRule("why.device.excluded", "the plan excludes it", excluded),
    DeviceRule("why.device.not_included", "the plan lists others", not_included),
    DeviceRule("why.device.selector", "the selector does not match it; says which comparisons fail", selector),
    DeviceRule("why.device.current", "it has reported that it runs the release already", current),
    DeviceRule("why.device.late", "registered after the fleet was counted", late),
    DeviceRule("why.device.not_enrolled", "the cohort has not been taken up", not_enrolled),
    DeviceRule("why.device.not_taken_up", "it did not fit when the cohort was taken up", not_taken_up),
    DeviceRule("why.device.held_back", "held back to compare with", held_back),
    DeviceRule("why.device.superseded", "a campaign of higher priority took its offer over", superseded),
    DeviceRule("why.device.in_trial", "it has an unconfirmed image and is never offered anything", in_trial),
    DeviceRule("why.device.cancelling", "it is asked to stop", cancelling),
    DeviceRule("why.device.started", "under way, with its state and deadline", started),
    DeviceRule("why.device.withheld", "its owner's will, or the preconditions, withhold it", withheld),
    DeviceRule("why.device.jitter", "offered; its start is spread", jitter),
    DeviceRule("why.device.offered", "offered and not fetched", offered),
    DeviceRule("why.device.ended", "its outcome, with the reason", ended),
    DeviceRule("why.device.over", "the campaign ended before it was offered", over),
    DeviceRule("why.device.stratum_halted", "its stratum was halted alone", stratum),
    DeviceRule("why.device.busy", "in flight for another campaign", busy),
    DeviceRule("why.device.phase", "its phase has not opened", phase),
    DeviceRule("why.device.outranked", "wanted by a campaign of higher priority", outranked),
    DeviceRule("why.device.window", "outside its own windows", window),
    DeviceRule("why.device.budget", "no room in the exposure budget for its value", budget),
    DeviceRule("why.device.retry", "pauses before its next attempt", retry),
    DeviceRule("why.device.put_off", "looked at, and put off", put_off),
    DeviceRule("why.device.campaign", "in the queue; the campaign is held", campaign),
    DeviceRule("why.device.queued", "in the queue", queued),
    DeviceRule("why.device.left", "left the queue without an offer", left),
)
"""In the order in which they are asked."""


def explain_device(seat: Seat) -> list[Condition]:
    """What holds the device in a campaign, the first condition first."""
    asked = ((rule.code, rule.find(seat)) for rule in DEVICE_CONDITIONS)
    return [
        Condition(code=code, detail=each.detail, data=each.data, remedy=each.remedy, until=each.until)
        for code, each in asked
        if each is not None
    ]
