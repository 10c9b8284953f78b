"""An independent judge of what the system holds after faults. It imports nothing of the product and shares no code with it.

It reads four witnesses: what the fleet was told (its truth file), what the devices' flash holds, the topic of facts as the broker has
it, and the tables. From the two logs alone (facts and decisions) it works out what every assignment, counter, timeline row, dead
letter, slot, queue entry and deadline must be, as ``retelling`` has it, and reports every
difference under one of the kinds of ``KINDS``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.retelling import ACTIVE, Action, History, Key, RefusedError, Said, holds_slot, read_fact
from tests.support.witnesses import Flash, LogRecord, Rows, Truth

KINDS = {
    "lost": "acknowledged or logged, and not (or no longer) there",
    "doubled": "there twice, or there without having happened",
    "misordered": "out of the order in which it was said or decided",
    "after_halt": "offered or started while the log says that nothing may be",
    "offered_twice": "a device offered twice in one attempt, or by two campaigns at once",
    "slot": "a device's slot or flash that is not as its assignment says",
    "differs": "a row or counter that does not follow from the two logs",
    "unhalted": "a halt rule that was crossed without a halt, or a halt without a crossing",
}


CLOSING = frozenset({"CampaignHalted", "CampaignPaused", "CampaignAborted", "CampaignCompleted"})


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the oracle judges. ``flash`` and ``truth`` may be left out where no devices were simulated."""

    tables: Mapping[str, Rows]
    records: Sequence[LogRecord]
    truth: Truth = field(default_factory=Truth)
    flash: Mapping[str, Flash] = field(default_factory=dict)
    factory: str = ""
    """Version that every device left the factory with."""
    told: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """(campaign id, event type) to how often somebody was told that their command is done; of the campaigns they wrote."""


@dataclass(slots=True)
class Verdict:
    """Findings by kind."""

    findings: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    facts: int = 0
    assignments: int = 0

    def note(self, kind: str, what: str) -> None:
        self.findings[kind].append(what)

    @property
    def counts(self) -> dict[str, int]:
        return {kind: len(found) for kind, found in self.findings.items()}

    @property
    def clean(self) -> bool:
        return not any(self.findings.values())

    def __str__(self) -> str:
        lines = [f"{self.facts} facts, {self.assignments} assignments: " + _counted(self.counts)]
        lines += [f"  {kind}: {what}" for kind, found in self.findings.items() for what in found[:5]]
        return "\n".join(lines)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in counts.items())


def judge(evidence: Evidence) -> Verdict:
    """Compare everything with everything else."""
    court = _Court(evidence, Verdict())
    court.chains()
    court.ledger()
    court.controls()
    court.commands()
    court.facts()
    court.fleet()
    court.assignments()
    court.queues()
    court.counters()
    court.gates()
    return court.verdict


class _Court:
    def __init__(self, evidence: Evidence, verdict: Verdict) -> None:
        self.evidence, self.verdict, self.tables = evidence, verdict, evidence.tables
        self.note = verdict.note
        self.actions: dict[int, Action] = {}
        self.histories: dict[Key, History] = {}
        self.rows: dict[Key, dict[str, Any]] = {}
        self.started: set[int] = set()
        """Action ids."""
        self.names = {row["device_id"]: row["device_no"] for row in self.tables["device_identity"]}
        self.streams: dict[str, Rows] = defaultdict(list)
        self.campaigns: dict[int, str] = {}
        for row in self.tables["event_log"]:
            self.streams[row["stream"]].append(row)
            if row["type"] == "CampaignCreated":
                self.campaigns[row["data"]["campaign_no"]] = row["stream"]

    # ---- the logs themselves

    def chains(self) -> None:
        """Both logs: positions without holes, each row bound to the one before it, versions without holes."""
        for table in ("event_log", "decision_ledger"):
            before = b""
            for number, row in enumerate(self.tables[table], 1):
                if row["position"] != number or bytes(row["prev_hash"]) != before:
                    self.note("misordered", f"{table}: the row at {row['position']} does not follow the one before it")
                before = bytes(row["hash"])
        for stream, rows in self.streams.items():
            if [row["version"] for row in rows] != list(range(1, len(rows) + 1)):
                self.note("misordered", f"{stream}: versions {[row['version'] for row in rows]}")

    def ledger(self) -> None:
        """Each device's decisions in an order that makes sense, each once; what they say is kept for the fold."""
        ended: set[tuple[Key, int]] = set()
        for row in self.tables["decision_ledger"]:
            for index, device in enumerate(row["device_nos"]):
                self._decision(row, index, (row["campaign_no"], device), ended)
        members: Counter[int] = Counter(campaign for campaign, _ in self.histories)
        for campaign, stream in self.campaigns.items():
            for row in self.streams[stream]:
                if row["type"] == "CohortEnrolled" and row["data"]["members"] != members[campaign]:
                    self.note("lost", f"{stream}: {row['data']['members']} members, the ledger has {members[campaign]}")

    def _decision(self, row: Mapping[str, Any], index: int, key: Key, ended: set[tuple[Key, int]]) -> None:
        kind, attempt, where = row["kind"], row["attempt"], f"{row['kind']} at {row['position']}, {_of(key)}"
        if kind == "enrol":
            if key in self.histories:
                self.note("doubled", f"{where}: enrolled already")
            self.histories[key] = History(row["phase"], row["stratum"])
            return
        history = self.histories.get(key)
        if history is None or history.phase < 0:
            self.note("misordered", f"{where}: not a member")
            return
        latest = max(history.offers, default=0)
        match kind:
            case "offer":
                action = row["action_base"] + index
                if attempt in history.offers or action in self.actions:
                    self.note("offered_twice", f"{where}: attempt {attempt}, action {action}")
                elif attempt != latest + 1 or (attempt > 1 and attempt not in history.retries):
                    self.note("misordered", f"{where}: attempt {attempt} after {latest}")
                history.offers[attempt] = (action, row["gate_epoch"], row["at"])
                self.actions[action] = Action(*key, attempt, row["gate_epoch"])
                return
            case "retry":
                if attempt in history.retries:
                    self.note("doubled", f"{where}: queued already")
                history.retries.add(attempt)
                return
        if attempt != latest or (key, attempt) in ended:
            self.note("misordered", f"{where}: attempt {attempt} of {latest} is not open")
            return
        match kind:
            case "start":
                action = history.offers[attempt][0]
                if action in self.started:
                    self.note("doubled", f"{where}: started already")
                self.started.add(action)
                history.said.append(Said(attempt, "accepted", row["at"]))
            case "expire":
                ended.add((key, attempt))
                blame = "silence" if row["cause"] == "silent_trial" else None
                history.said.append(Said(attempt, "expired", row["at"], blame, row["cause"]))
            case "withdraw":
                ended.add((key, attempt))
                history.said.append(Said(attempt, "cancelled", row["at"], "operator", row["cause"]))
            case "cancel":
                history.cancels.append((attempt, row["at"]))
            case _:
                self.note("differs", f"{where}: no such kind")

    def controls(self) -> None:
        """No offer or start between an event that closes a campaign and the one that opens it again."""
        for campaign, stream in self.campaigns.items():
            closed: int | None = None
            shut: list[tuple[int, float, str]] = []
            why = ""
            for row in self.streams[stream]:
                if row["type"] in CLOSING and closed is None:
                    closed, why = row["data"]["ledger_position"], row["type"]
                elif row["type"] == "CampaignResumed" and closed is not None:
                    shut.append((closed, row["data"]["ledger_position"], why))
                    closed = None
            if closed is not None:
                shut.append((closed, float("inf"), why))
            for row in self.tables["decision_ledger"]:
                if row["campaign_no"] != campaign or row["kind"] not in {"offer", "start"}:
                    continue
                for after, until, event in shut:
                    if after < row["position"] <= until:
                        devices = len(row["device_nos"])
                        self.note(
                            "after_halt",
                            f"{stream}: {row['kind']} of {devices} at {row['position']}, {event} at {after}",
                        )

    def commands(self) -> None:
        """What people were told is done is in the log, once; what they were not told is not there."""
        types = {kind for _, kind in self.evidence.told}
        written = {campaign for campaign, _ in self.evidence.told}
        names: dict[str, str] = {}
        for stream in self.campaigns.values():
            campaign = stream.removeprefix("campaign/")
            name = self.streams[stream][0]["data"]["name"]
            if name in names and {campaign, names[name]} & written:
                self.note("doubled", f"{stream}: written a second time, first as {names[name]}")
            names[name] = campaign
            if campaign not in written:
                continue
            found = Counter(row["type"] for row in self.streams[stream])
            for kind in sorted(types):
                told = self.evidence.told.get((campaign, kind), 0)
                if found[kind] != told:
                    what = "lost" if found[kind] < told else "doubled"
                    self.note(what, f"{stream}: {found[kind]} times {kind}, its author was told of {told}")
        for campaign in written - set(names.values()):
            self.note("lost", f"campaign {campaign} was written, the log does not have it")

    # ---- facts

    def facts(self) -> None:
        """Every record of the topic exactly once in the timeline or in the dead letters, as it was said."""
        timeline = {(r["partition"], r["offset"]): r for r in self.tables["timeline"]}
        dead = {(r["partition"], r["offset"]): r for r in self.tables["dead_letter"]}
        self.stored_ids: dict[str, tuple[int, int]] = {}
        versions: dict[int, str] = {}
        for record in self.evidence.records:
            place = (record.partition, record.offset)
            row, letter = timeline.pop(place, None), dead.pop(place, None)
            self.verdict.facts += 1
            if row is not None and letter is not None:
                self.note("doubled", f"{place}: in the timeline and in the dead letters ({letter['code']})")
            try:
                fact = read_fact(record, self.actions)
            except RefusedError as refused:
                if letter is None or letter["code"] != str(refused):
                    self.note("lost", f"{place}: no dead letter {refused}, but {letter and letter['code']}")
                if row is not None:
                    self.note("doubled", f"{place}: in the timeline, though {refused}")
                continue
            self.stored_ids.setdefault(fact.row[3], place)
            if row is None:
                self.note("lost", f"{place}: {fact.row[4]} of device {fact.device} is not in the timeline")
            elif fact.row != tuple(row[name] for name in _TIMELINE):
                self.note("differs", f"{place}: timeline {[row[name] for name in _TIMELINE]}, said {fact.row}")
            if fact.key is not None and fact.said is not None:
                self.histories[fact.key].said.append(fact.said)
            if fact.version is not None:
                versions[fact.device] = fact.version
        for place in (*timeline, *dead):
            self.note("doubled", f"{place}: stored, but not in the log")
        for row in self.tables["device"]:
            if (said := versions.get(row["device_no"])) is not None and row["version"] != said:
                self.note("misordered", f"device {row['device_no']} said {said} last, its row says {row['version']}")

    def fleet(self) -> None:
        """What the fleet was promised: everything acknowledged is kept, in its order; nothing is shown that was not started."""
        last: dict[str, tuple[int, int]] = {}
        seen: set[str] = set()
        for device, action, state, event_id in self.evidence.truth.acknowledged:
            place = self.stored_ids.get(event_id)
            if place is None:
                self.note(
                    "lost", f"{device}: {state} of action {action or '-'} was acknowledged, no log has {event_id}"
                )
                continue
            if event_id in seen:
                continue
            seen.add(event_id)
            if device in last and (place[0] != last[device][0] or place[1] < last[device][1]):
                self.note("misordered", f"{device}: {state} at {place} was acknowledged after {last[device]}")
            last[device] = place
        for device, action in self.evidence.truth.revealed:
            if action not in self.started:
                self.note("after_halt", f"{device}: action {action} was shown without a start")
        self._flash()

    def _flash(self) -> None:
        release = {
            number: self._release(self.streams[stream][0]["data"]["release_id"])
            for number, stream in self.campaigns.items()
        }
        confirmed = {
            device: int(action) for device, action, state, _ in self.evidence.truth.acknowledged if state == "confirmed"
        }
        taken = {
            (device, action) for device, action, state, _ in self.evidence.truth.acknowledged if state == "confirmed"
        }
        open_ends = {
            d for d, action, state in self.evidence.truth.sent if state == "confirmed" and (d, action) not in taken
        }
        slots = {row["device_no"] for row in self.tables["device_slot"]}
        for device, flash in self.evidence.flash.items():
            if flash.in_trial:
                if self.names[device] not in slots:
                    self.note("slot", f"{device} is in trial of {flash.running} and its slot is free")
            elif device not in open_ends:
                action = self.actions.get(confirmed.get(device, 0))
                expected = release[action.campaign] if action else self.evidence.factory
                if flash.running != expected:
                    self.note("slot", f"{device} runs {flash.running}, its assignments say {expected}")

    def _release(self, release_id: str) -> str:
        return next(row["version"] for row in self.tables["release"] if row["release_id"] == release_id)

    # ---- projections

    def assignments(self) -> None:
        """Every assignment as the fold of both logs, and every slot as its assignment."""
        self.rows = {key: history.row(*key) for key, history in self.histories.items() if history.offers}
        self.verdict.assignments = len(self.rows)
        found = {(row["campaign_no"], row["device_no"]): row for row in self.tables["assignment"]}
        for key in self.rows.keys() | found.keys():
            expected, row = self.rows.get(key), found.get(key)
            if expected != row:
                what = "lost" if row is None else "doubled" if expected is None else "differs"
                self.note(what, f"assignment of {_of(key)}: {_difference(expected, row)}")
        holding = Counter(device for (_, device), row in self.rows.items() if holds_slot(row))
        for device, times in holding.items():
            if times > 1:
                self.note("offered_twice", f"device {device} is held by {times} campaigns")
        expected_slots = {(c, d, row["attempt"]) for (c, d), row in self.rows.items() if holds_slot(row)}
        slots = {(row["campaign_no"], row["device_no"], row["attempt"]) for row in self.tables["device_slot"]}
        for slot in expected_slots ^ slots:
            self.note("slot", f"(campaign, device, attempt) {slot} is {'free' if slot in expected_slots else 'held'}")

    def queues(self) -> None:
        """Who waits for an offer waits in the queue, once; who is in flight has a deadline."""
        expected = Counter(
            (campaign, device, max(history.retries | {1}))
            for (campaign, device), history in self.histories.items()
            if history.phase >= 0 and max(history.retries | {1}) not in history.offers
        )
        queued = Counter((row["campaign_no"], row["device_no"], row["attempt"]) for row in self.tables["offer_queue"])
        for waiting in (expected - queued).elements():
            self.note("lost", f"(campaign, device, attempt) {waiting} is not in the offer queue")
        for waiting in (queued - expected).elements():
            self.note("doubled", f"(campaign, device, attempt) {waiting} is in the offer queue")
        # What is filed is a reason to look; the look files what the row then says.
        filed = {(row["campaign_no"], row["device_no"], row["attempt"]) for row in self.tables["due_queue"]}
        for key, row in self.rows.items():
            if row["state"] in ACTIVE and (*key, row["attempt"]) not in filed:
                self.note("lost", f"no deadline is filed for attempt {row['attempt']} of {_of(key)}")

    def counters(self) -> None:
        """Counters equal a count of what the rows must be."""
        states: Counter[tuple[Any, ...]] = Counter()
        gate: Counter[tuple[Any, ...]] = Counter()
        mature: Counter[tuple[Any, ...]] = Counter()
        for (campaign, _), row in self.rows.items():
            states[campaign, row["phase"], row["stratum"], row["state"]] += 1
            epoch = row["first_started_epoch"]
            if epoch is None:
                continue
            cell = (campaign, epoch, row["phase"], row["stratum"])
            gate[*cell, "started"] += 1
            gate[*cell, "failed"] += row["failed_at"] is not None
            width = max(250, self._dossier(campaign)["plan"]["confirm_deadline"] // 64)
            bucket = (*cell, row["first_started_at"] // width)
            mature[*bucket, "started"] += 1
            mature[*bucket, "good"] += row["state"] == "confirmed" and row["failed_at"] is None
            mature[*bucket, "excluded"] += row["state"] in {"cancelled", "superseded", "not_applicable"}
        cell = ("campaign_no", "gate_epoch", "phase", "stratum")
        self._compare("counter", states, (("campaign_no", "phase", "stratum", "state"), ("n",)))
        self._compare("gate_count", gate, (cell, ("started", "failed")))
        self._compare("maturity", mature, ((*cell, "bucket"), ("started", "good", "excluded")))

    def _compare(
        self, table: str, expected: Counter[tuple[Any, ...]], shape: tuple[tuple[str, ...], tuple[str, ...]]
    ) -> None:
        found: Counter[tuple[Any, ...]] = Counter()
        key, values = shape
        for row in self.tables[table]:
            for value in values:
                found[*(row[name] for name in key), *((value,) if len(values) > 1 else ())] += row[value]
        for cell in expected.keys() | found.keys():
            if expected[cell] != found[cell]:
                self.note("differs", f"{table} {cell}: {found[cell]} counted, {expected[cell]} expected")

    # ---- gates

    def gates(self) -> None:
        """The frozen tables of integers, on the fold's own counts: a halt where and only where they are crossed."""
        for campaign, stream in self.campaigns.items():
            events = self.streams[stream]
            halts = [row["data"] for row in events if row["type"] == "CampaignHalted" and row["data"]["by"] == "gate"]
            if len({halt["gate_epoch"] for halt in halts}) < len(halts):
                self.note("doubled", f"{stream}: two halts of one gate epoch")
            for halt in halts:
                rule = next(rule for rule in self._dossier(campaign)["rules"] if rule["name"] == halt["rule"])
                n, f = self._scope(campaign, halt["gate_epoch"]).get((rule["scope"], halt["scope"]), (0, 0))
                if halt["bound"] != _bound(rule, halt["n"]) or not halt["bound"] <= halt["f"] <= f or halt["n"] > n:
                    self.note(
                        "unhalted",
                        f"{stream}: halted at {halt['f']} of {halt['n']}, now {f} of {n}, bound {halt['bound']}",
                    )
            self._missed(campaign, events)

    def _missed(self, campaign: int, events: Rows) -> None:
        epoch, open_until = 0, None
        for row in events:
            match row["type"]:
                case "CampaignLaunched" | "CampaignResumed":
                    epoch, open_until = row["data"]["gate_epoch"], float("inf")
                case "CampaignHalted" | "CampaignAborted":
                    open_until = None
                case "CampaignCompleted":
                    open_until = row["data"]["at"]
        if open_until is None:
            return
        for (scope, name), (n, f) in self._scope(campaign, epoch, open_until).items():
            for rule in self._dossier(campaign)["rules"]:
                if rule["scope"] == scope and (bound := _bound(rule, n)) is not None and f >= bound:
                    self.note(
                        "unhalted",
                        f"campaign {campaign}: {f} of {n} in {name} reached {bound} ({rule['name']}), no halt",
                    )

    def _scope(self, campaign: int, epoch: int, until: float = float("inf")) -> dict[tuple[str, str], tuple[int, int]]:
        strata = sorted(self._dossier(campaign)["strata"])
        sums: dict[tuple[str, str], tuple[int, int]] = {}
        for (number, _), row in self.rows.items():
            if number != campaign or row["first_started_epoch"] != epoch:
                continue
            failed = row["failed_at"] is not None and row["failed_at"] < until
            for scope in (
                ("campaign", "campaign"),
                ("phase", f"phase/{row['phase']}"),
                ("stratum", f"stratum/{strata[row['stratum']]}"),
            ):
                n, f = sums.get(scope, (0, 0))
                sums[scope] = n + 1, f + failed
        return sums

    def _dossier(self, campaign: int) -> dict[str, Any]:
        return next(
            row["data"]["dossier"]
            for row in self.streams[self.campaigns[campaign]]
            if row["type"] == "CampaignSubmitted"
        )


_TIMELINE = ("device_no", "campaign_no", "attempt", "event_id", "type", "recorded_at", "failure_class", "reason")


def _bound(rule: Mapping[str, Any], n: int) -> int | None:
    """Fewest failures that halt among ``n``: the first entry of the table that reaches ``n``."""
    needed = bisect_left(rule["horizons"], n)
    if n <= 0 or needed >= len(rule["horizons"]) or needed > n:
        return None
    return max(needed, rule["min_failures"])


def _of(key: Key) -> str:
    return f"device {key[1]} in campaign {key[0]}"


def _difference(expected: Mapping[str, Any] | None, found: Mapping[str, Any] | None) -> str:
    if expected is None or found is None:
        return "only in the table" if expected is None else "only in the logs"
    return ", ".join(
        f"{name} is {found[name]}, must be {value}" for name, value in expected.items() if found[name] != value
    )
