from __future__ import annotations

import io

import pytest
from rich.console import Console

from orchestrator.cli.output import Format, Output, cell, table
from orchestrator.cli.progress import LINE_INTERVAL, Counting
from orchestrator.cli.times import rfc3339
from tests.unit.cli.conftest import campaign


def on_terminal(output: Output) -> io.StringIO:
    stream = io.StringIO()
    output.out = output.err = Console(
        file=stream, force_terminal=True, width=100, color_system="standard", no_color=None
    )
    return stream


def test_a_table_in_a_pipe_is_neither_cut_nor_padded(capsys):
    long = "x" * 300
    Output().data(None, table(("a", "b"), [(long, "end"), ("y", "z")]))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"{long}  end"
    assert all(line == line.rstrip() for line in lines)


def test_a_pipe_has_no_colours(ota, api):
    api.on("GET", "/v1/campaigns/cmp_1", campaign("halted"))
    ran = ota("campaign", "show", "cmp_1")
    assert "\x1b" not in ran.stdout + ran.stderr


def test_a_terminal_has_colours_unless_no_color_is_set(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    output = Output()
    stream = on_terminal(output)
    output.data(None, table(("state",), [("halted",)]))
    assert "\x1b[1;31m" in stream.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    stream = on_terminal(output)
    output.data(None, table(("state",), [("halted",)]))
    assert "31m" not in stream.getvalue()


def test_json_is_printed_as_it_is(capsys):
    value = {"text": "[red]not markup[/red] " + "x" * 2_000, "n": 1}
    Output(Format.JSON).data(value, "never shown")
    printed = capsys.readouterr().out
    assert "never shown" not in printed
    assert len(printed.splitlines()) == 4


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (True, "yes"), (0.02, "0.02"), (["a", "b"], "a, b"), ({"a": 1}, "a=1"), (0, "0"), ("x", "x")],
)
def test_cells_are_for_people(value, text):
    assert cell(value).plain == text


def test_times_are_utc_with_milliseconds():
    assert rfc3339(1_790_000_000_123) == "2026-09-21T14:13:20.123Z"
    assert rfc3339(None) is None


def test_without_a_terminal_progress_is_a_line_now_and_then(capsys):
    now = [0.0]
    with Counting(Output(), clock=lambda: now[0]) as progress:
        for _ in range(25):
            now[0] += 1
            progress("devices", int(now[0] * 1_000))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 25 // LINE_INTERVAL
    assert lines[0].strip() == "10.0 s  10,000 devices"


def test_on_a_terminal_progress_is_one_line_that_goes_away():
    output = Output()
    stream = on_terminal(output)
    with Counting(output) as progress:
        progress("devices", 5)
    assert "\x1b[2K" in stream.getvalue()
