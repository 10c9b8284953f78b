"""The page ``deploy/docs/performance.md``: written from the results of the benches, so that no number on it is typed by hand.

``python -m tests.bench.page FOLDER --run`` measures everything at both sizes into ``FOLDER/NAME-SIZE.json`` (about 40 minutes on an
idle machine) and writes the page; without ``--run`` it only writes the page from what is there. What is missing is not measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.bench.sections import GOALS, SECTIONS, SIZES, Result, text

PAGE: Final = Path(__file__).resolve().parents[2] / "deploy" / "docs" / "performance.md"

HEAD: Final = """# Performance

Every number on this page was printed by the command beside it, on the commit beside it, and put here by `python -m tests.bench.page`.
Nothing here is asserted by a test: to see your own numbers, run the commands. Each starts PostgreSQL, Kafka and, where it needs it,
Temporal of its own, fills them, measures, and deletes them; `--json FILE` keeps the result with the settings it was seen under, and
`--set NUMBER=VALUE` changes a size."""


LOAD: Final = "The load average is that of one minute, before and after the run; other work on the machine is in it."

PEERS: Final = text("""hawkBit's figures (1.1 on PostgreSQL, warm, 2 busy cores) are from a machine of this kind and not part of these
    runs; Faust's are from the same run as ours.""")


def _machine(machine: Result) -> str:
    return text(f"""**Machine.** {machine["cores"]} cores (virtual), {machine["memory_mb"] / 1_024:.0f} GB of memory, Linux, CPython
        {machine["python"]}. Servers, roles and the load generator share the cores.""")


def _settings(settings: Result) -> str:
    switches = ", ".join(f"`{name}` {settings[name]}" for name in ("fsync", "full_page_writes", "synchronous_commit"))
    return text(f"""**Settings.** PostgreSQL {settings["server_version"]}, read from the server in each run: {switches},
        `shared_buffers` {settings["shared_buffers"]}, `max_wal_size` {settings["max_wal_size"]}. Kafka: {settings["broker"]},
        acks={settings["acks"]}, {settings["device_events_partitions"]} partitions of device events.""")


def page(results: Mapping[tuple[str, str], Result]) -> str:
    """The whole page."""
    lines = [HEAD, ""]
    first = next(iter(results.values()), None)
    if first is not None:
        machine, settings = first["machine"], first["settings"]
        lines += [_machine(machine), "", _settings(settings), "", LOAD, ""]
    lines += ["## Against the goals", "", "| what | goal | seen | |", "|---|---|---|---|"]
    lines += [goal.row(results) for goal in GOALS]
    lines += ["", PEERS, ""]
    for section in SECTIONS:
        lines += section.lines(results)
    return "\n".join(lines).rstrip() + "\n"


def read(folder: Path) -> dict[tuple[str, str], Result]:
    """What has been measured."""
    found: dict[tuple[str, str], Result] = {}
    for section in SECTIONS:
        for size in SIZES:
            file = folder / f"{section.bench}-{size}.json"
            if file.is_file():
                found[section.bench, size] = json.loads(file.read_bytes())
    return found


def measure(folder: Path, names: Sequence[str]) -> None:
    """Run the benches one after the other, in the order of ``names`` if there are any; what fails is left out and said."""
    every = {f"{section.bench}-{size}": section.command(size) for section in SECTIONS for size in SIZES}
    for name in names or every:
        command = [*every[name].split(), "--json", str(folder / f"{name}.json"), "--quiet"]
        sys.stderr.write(f"{' '.join(command)}\n")
        argv = [sys.executable, "-P", "-m", "orchestrator.cli.main", *command[1:]]
        done = subprocess.run(argv, check=False, stdout=subprocess.DEVNULL)
        if done.returncode:
            sys.stderr.write(f"{name}: status {done.returncode}\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--run", action="store_true", help="measure first")
    parser.add_argument("names", nargs="*", help="only these, in this order, such as halt-large latency-small")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.run:
        measure(given.folder, given.names)
    PAGE.write_text(page(read(given.folder)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
