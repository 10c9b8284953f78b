"""What the page on performance says of each bench: goals, rows, and what limits it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

SIZES: Final = ("small", "large")
NONE: Final = "not measured"

Result = Mapping[str, Any]
Cell = Callable[[Result], str]


def number(key: str, digits: int = 0, unit: str = "") -> Cell:
    """The value at a path such as ``polls.cpu_us.gateway``."""

    def cell(result: Result) -> str:
        found: Any = result
        for part in key.split("."):
            found = found[part]
        return "none" if found is None else f"{found:,.{digits}f}{unit}"

    return cell


def text(wrapped: str) -> str:
    """A paragraph, in one line."""
    return " ".join(wrapped.split())


def parts(key: str) -> Cell:
    """A mapping of processes to numbers."""

    def cell(result: Result) -> str:
        found: Any = result
        for part in key.split("."):
            found = found[part]
        return " · ".join(f"{name} {value:,g}" for name, value in found.items() if value)

    return cell


def load(result: Result) -> str:
    """Of one minute, before and after."""
    return f"{result['load_average']['before'][0]} / {result['load_average']['after'][0]}"


def others(result: Result) -> str:
    """Share of the machine that other work had while it was measured, where the bench says so."""
    found = result.get("other_work")
    if found is None and "faust_take" in result:
        return " · ".join(
            f"{name} {result[name]['other_work']:.0%}" for name in ("projector", "faust_take", "faust_event")
        )
    return "not said" if found is None else f"{found:.0%}"


@dataclass(frozen=True, slots=True)
class Goal:
    """A number that has to be reached; ``least`` or ``most`` of it."""

    bench: str
    size: str
    what: str
    key: str
    least: float | None = None
    most: float | None = None
    digits: int = 0
    unit: str = ""

    def row(self, results: Mapping[tuple[str, str], Result]) -> str:
        result = results.get((self.bench, self.size))
        goal = f"≥ {self.least:,g}{self.unit}" if self.least is not None else f"≤ {self.most:,g}{self.unit}"
        goal = "0" if self.most == 0 else goal
        if result is None:
            return f"| {self.what} | {goal} | {NONE} | |"
        found: Any = result
        for part in self.key.split("."):
            found = found[part]
        return f"| {self.what} | {goal} | {found:,.{self.digits}f}{self.unit} | {self.verdict(found)} |"

    def verdict(self, found: float) -> str:
        if self.least is not None:
            return "reached" if found >= self.least else f"**missed**, {found / self.least:.0%} of it"
        assert self.most is not None
        return "reached" if found <= self.most else f"**missed**, by {found - self.most:,.{self.digits}f}{self.unit}"


GOALS: Final = (
    Goal("ingest", "small", "ingest, events/s, 100,000 devices", "events_per_second", least=25_000),
    Goal("ingest", "large", "ingest, events/s, 1,000,000 devices", "events_per_second", least=25_000),
    Goal("ingest", "small", "ingest against Faust `take(1000)`", "ratio_vs_faust_take", least=5, digits=2, unit="×"),
    Goal(
        "ingest", "small", "ingest against one statement an event", "ratio_vs_faust_event", least=25, digits=2, unit="×"
    ),
    Goal("latency", "small", "produce → visible at 2,000/s, p99", "p99_ms", most=300, digits=1, unit=" ms"),
    Goal("latency", "large", "the same, 1,000,000 devices", "p99_ms", most=300, digits=1, unit=" ms"),
    Goal(
        "halt",
        "large",
        "crossing failure → halt's commit at 5,000/s, p99",
        "commit_p99_ms",
        most=500,
        digits=1,
        unit=" ms",
    ),
    Goal("halt", "large", "crossing failure → last offer, p99", "last_offer_p99_ms", most=500, digits=1, unit=" ms"),
    Goal("halt", "large", "offers after the halt's commit", "offers_after_commit", most=0),
    Goal("launch", "large", "preview, 1,000,000 devices", "preview_s", most=5, digits=2, unit=" s"),
    Goal("launch", "large", "launch → first offers, 1,000,000 devices", "first_offer_s", most=10, digits=2, unit=" s"),
    Goal(
        "gateway",
        "small",
        "idle polls against hawkBit's 550/s, 10,000 devices",
        "ratio_vs_hawkbit.poll",
        least=20,
        digits=1,
        unit="×",
    ),
    Goal("gateway", "large", "the same, 100,000 devices", "ratio_vs_hawkbit.poll", least=20, digits=1, unit="×"),
    Goal(
        "gateway",
        "small",
        "reports against hawkBit's 440/s, 10,000 devices",
        "ratio_vs_hawkbit.feedback",
        least=10,
        digits=1,
        unit="×",
    ),
    Goal("gateway", "large", "the same, 100,000 devices", "ratio_vs_hawkbit.feedback", least=10, digits=1, unit="×"),
    Goal(
        "gateway",
        "small",
        "cycles against hawkBit's 57/s, 10,000 devices",
        "ratio_vs_hawkbit.cycle",
        least=10,
        digits=1,
        unit="×",
    ),
    Goal("gateway", "large", "the same, 100,000 devices", "ratio_vs_hawkbit.cycle", least=10, digits=1, unit="×"),
    Goal(
        "gateway",
        "small",
        "CPU a report over all processes, 10,000 devices",
        "cpu_us_per_feedback",
        most=250,
        unit=" µs",
    ),
    Goal("gateway", "large", "the same, 100,000 devices", "cpu_us_per_feedback", most=250, unit=" µs"),
    Goal(
        "storm",
        "large",
        "operator API in a storm of 100,000 devices, p95",
        "api_p95_ms",
        most=100,
        digits=1,
        unit=" ms",
    ),
    Goal("storm", "large", "acknowledged reports that are lost", "acknowledged_not_in_log", most=0),
    Goal("storm", "large", "devices not served in the end", "backlog", most=0),
    Goal("rebuild", "small", "rebuild, events/s, 100,000 devices", "events_per_second", least=50_000),
    Goal("rebuild", "large", "the same, 1,000,000 devices", "events_per_second", least=50_000),
)


@dataclass(frozen=True, slots=True)
class Section:
    """One bench: what it is, its rows, and what limits it. ``extra`` are further arguments of the command, by size."""

    bench: str
    title: str
    about: str
    rows: Sequence[tuple[str, Cell]]
    limits: str = ""
    extra: Mapping[str, str] | None = None

    def command(self, size: str) -> str:
        chosen = f"ota bench {self.bench}" + (" --size large" if size == "large" else "")
        return f"{chosen} {self.extra[size]}" if self.extra and size in self.extra else chosen

    def lines(self, results: Mapping[tuple[str, str], Result]) -> Iterator[str]:
        yield f"## {self.title}"
        yield ""
        yield self.about
        yield ""
        yield "| | small | large |"
        yield "|---|---|---|"
        yield f"| command | `{self.command('small')}` | `{self.command('large')}` |"
        common: tuple[tuple[str, Cell], ...] = (
            ("load average", load),
            ("other work on the machine", others),
            ("commit", lambda result: str(result["commit"])),
        )
        for label, cell in (*self.rows, *common):
            cells = [NONE if (self.bench, size) not in results else cell(results[self.bench, size]) for size in SIZES]
            yield f"| {label} | {' | '.join(cells)} |"
        yield ""
        if self.bench == "storm" and ("storm", "large") in results:
            yield from curve(results["storm", "large"])
        if self.limits:
            yield f"**What limits it.** {self.limits}"
            yield ""


def curve(result: Result) -> Iterator[str]:
    """The storm second by second, thinned out."""
    points = result["curve"]
    every = max(1, len(points) // 16)
    yield "The large storm, some of its seconds:"
    yield ""
    yield "| second | asked | served | turned away | reports | not yet served | API p95 ms | log − projected |"
    yield "|---|---|---|---|---|---|---|---|"
    for point in points[::every]:
        yield (
            f"| {point['at']} | {point['attempted']:,} | {point['accepted']:,} | {point['shed']:,} | {point['reports']:,}"
            f" | {point['backlog']:,} | {point['api_p95_ms']} | {point['log_minus_projected']} |"
        )
    yield ""


def shares(result: Result) -> str:
    """Where a profiled process spends its CPU."""
    where = result.get("where") or {}
    found = where.get("cpu_share_by_step") or {}
    return " · ".join(f"{name} {share:.0%}" for name, share in found.items() if share >= 0.02) or "not profiled"


SECTIONS: Final = (
    Section(
        "ingest",
        "Ingest",
        text("""
            Kafka → committed rows. The log is filled before; each variant reads it alone, on its own copy of the database, and
            is timed from warm to its last event. Ours writes rows, counters, gate counts, maturity, timeline and position in
            one transaction; the Faust agents (same fetch settings, pinned plans) write the assignment rows only, without a
            position, so the ratios are against less work."""),
        (
            ("devices", number("devices")),
            ("events/s", number("events_per_second")),
            ("µs per event", number("us_per_event", 1)),
            ("× Faust `take(1000)`", number("ratio_vs_faust_take", 2)),
            ("Faust `take(1000)`, events/s", number("faust_take.events_per_second")),
            ("× Faust one by one", number("ratio_vs_faust_event", 2)),
            ("Faust one by one, events/s", number("faust_event.events_per_second")),
            ("CPU µs per event, ours", parts("projector.cpu_us_per_event")),
            ("CPU µs per event, `take`", parts("faust_take.cpu_us_per_event")),
            ("CPU µs per event, one by one", parts("faust_event.cpu_us_per_event")),
            ("the projector's CPU", shares),
            ("seconds inside transactions", parts("where.transaction_seconds")),
        ),
        text("""
            The projector's one Python thread takes turns between decoding, folding and the driver; a commit's flush is shared
            by all records of a batch. One statement an event is bound by its agent's round trips, which are cheap here because
            everything shares a machine."""),
    ),
    Section(
        "latency",
        "Latency",
        text("""
            From handing a fact to the producer until another connection sees the position that its row was committed with, at a
            steady rate."""),
        (
            ("facts/s asked", number("rate_asked")),
            ("facts/s seen", number("rate_seen")),
            ("devices", number("devices")),
            ("p50 ms", number("p50_ms", 1)),
            ("p95 ms", number("p95_ms", 1)),
            ("p99 ms", number("p99_ms", 1)),
            ("acknowledged by the broker, p99 ms", number("acknowledged_p99_ms", 1)),
            ("CPU µs per event", parts("cpu_us_per_event")),
        ),
        extra={"small": "--set seconds=15"},
    ),
    Section(
        "halt",
        "Halt",
        text("""
            From the failure that crosses the bound (before it is handed to the producer) to the halt's commit, and to the last
            offer, while facts of another campaign are projected. A dispatcher in a process of its own offers slices of 20
            without a pause and without Temporal in between."""),
        (
            ("runs", number("runs")),
            ("background, events/s", number("rate_seen")),
            ("commit p50 ms", number("commit_p50_ms", 1)),
            ("commit p99 ms", number("commit_p99_ms", 1)),
            ("last offer p50 ms", number("last_offer_p50_ms", 1)),
            ("last offer p99 ms", number("last_offer_p99_ms", 1)),
            ("offers in all", number("offers")),
            ("offers after the commit", number("offers_after_commit")),
        ),
        text("""
            The transaction under way when the failure is fetched, and its own; the verdict is in the same commit."""),
        extra={"large": "--set devices=100000"},
    ),
    Section(
        "launch",
        "Launch",
        text("""
            A campaign over every registered device, with the real relay, Temporal and worker. Enrolment is one transaction in
            the database, so every member is enrolled and queued when the first phase opens. The history is that of the same
            workflow code, with a process in memory under Temporal's time skipping, to the campaign's end."""),
        (
            ("devices", number("devices")),
            ("preview s", number("preview_s", 2)),
            ("submit s", number("submit_s", 2)),
            ("launch → phase open, all queued, s", number("opened_s", 2)),
            ("launch → first offers s", number("first_offer_s", 2)),
            ("worker, peak MB", number("peak_rss_mb")),
            ("history events of the whole campaign", number("history_events")),
            ("CPU seconds", parts("cpu_seconds")),
        ),
    ),
    Section(
        "gateway",
        "Gateway",
        text("""
            One gateway process over keep-alive connections, each sending its next request when it has the last answer: 32 for
            polls, 128 for reports, 256 for cycles (poll, deploymentBase, four reports). Reports are answered after the broker's
            acknowledgement, the last of a cycle after its projection. CPU counts until everything reported is projected; the
            generator is a process of its own, apart."""),
        (
            ("idle devices", number("devices")),
            ("polls/s", number("poll_rps")),
            ("poll p99 ms", number("poll_p99_ms", 1)),
            ("CPU µs per poll, gateway", number("cpu_us_per_poll", 1)),
            ("reports/s", number("feedback_rps")),
            ("report p99 ms", number("feedback_p99_ms", 1)),
            ("CPU µs per report", parts("feedbacks.cpu_us")),
            ("cycles/s", number("cycle_rps")),
            ("cycle p99 ms", number("cycle_p99_ms", 1)),
            ("CPU µs per cycle", parts("cycles.cpu_us")),
        ),
        "The CPU of two cores, which the generator shares.",
        extra={"small": "--set seconds=5", "large": "--set seconds=5"},
    ),
    Section(
        "storm",
        "Storm",
        text("""
            All devices lose their gateway and come back within ten seconds, each from an address of its own out of 127.0.0.0/8;
            one in ten does not heed Retry-After. Meanwhile the operator API is asked ten times a second. Every acknowledged
            report must be in the log and projected in the end."""),
        (
            ("devices", number("devices")),
            ("served", number("served")),
            ("drained after s", number("drained_s", 1)),
            ("requests", number("attempted")),
            ("turned away with 429", number("shed")),
            ("reports turned away", number("reports_shed")),
            ("operator API p95 ms", number("api_p95_ms", 1)),
            ("operator API p95 ms, calm", number("api_calm_p95_ms", 1)),
            ("reports acknowledged", number("acknowledged")),
            ("acknowledged and not in the log", number("acknowledged_not_in_log")),
            ("acknowledged and not projected", number("acknowledged_not_projected")),
            ("report answered, p99 s", number("report_wait_p99_s", 1)),
            ("CPU seconds", parts("cpu_s")),
        ),
    ),
    Section(
        "rebuild",
        "Rebuild",
        text("""
            Every projection again from the two logs beside the live ones, compared row for row, and switched, while a projector
            and decisions go on."""),
        (
            ("devices", number("devices")),
            ("events of both logs", number("events")),
            ("events/s", number("events_per_second")),
            ("whole run, s", number("seconds", 1)),
            ("by phase, s", parts("phases_s")),
            ("writers waited ms", number("writers_waited_ms")),
            ("verify s", number("verify_s", 1)),
            ("equal", lambda result: "yes" if result["equal"] else "**no**"),
            ("peak MB", number("peak_rss_mb")),
            ("CPU µs per event", parts("cpu_us_per_event")),
        ),
    ),
)
