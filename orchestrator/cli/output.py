"""What commands print: data to standard output, everything else to standard error.

Text is for people, JSON has the API's shape and is for programs. Colours only where a terminal shows them and ``NO_COLOR`` is unset.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, Final

import msgspec
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.errors import OtaError

PIPE_WIDTH: Final = 1_000
"""Columns where no terminal limits them: a table in a pipe is neither wrapped nor cut."""

STYLES: Final = {
    "running": "cyan",
    "completed": "green",
    "confirmed": "green",
    "ready": "green",
    "ok": "green",
    "halted": "bold red",
    "aborted": "red",
    "failed": "red",
    "reverted": "red",
    "paused": "yellow",
    "submitted": "yellow",
    "approved": "cyan",
}


class Format(StrEnum):
    """How data is printed."""

    TEXT = "text"
    JSON = "json"


class Output:
    """Where a command's words go.

    Args:
        fmt: of the data on standard output.
        quiet: print data and errors only.
        color: False never colours; otherwise the terminal decides.
    """

    def __init__(self, fmt: Format = Format.TEXT, *, quiet: bool = False, color: bool = True) -> None:
        self.fmt = fmt
        self.quiet = quiet
        self.out = _console(sys.stdout, color)
        self.err = _console(sys.stderr, color)

    @property
    def is_json(self) -> bool:
        return self.fmt is Format.JSON

    def data(self, value: Any, *text: RenderableType) -> None:
        """Print ``value`` as JSON, or ``text`` for people."""
        if self.is_json:
            self._raw(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
        else:
            for part in text:
                self._print(part)

    def _print(self, part: RenderableType) -> None:
        if isinstance(part, str):
            self._raw(part)
        elif self.out.is_terminal:
            self.out.print(part)
        else:
            # Tables fill their last column with blanks, which a pipe has no use for.
            with self.out.capture() as printed:
                self.out.print(part)
            self._raw("\n".join(line.rstrip() for line in printed.get().splitlines()))

    def _raw(self, text: str) -> None:
        """Text as it is: a console would turn tabs into blanks."""
        try:
            self.out.file.write(text + "\n")
            self.out.file.flush()
        except BrokenPipeError:
            self.out.on_broken_pipe()

    def say(self, text: RenderableType) -> None:
        """Tell people something that is not data."""
        if not self.quiet:
            self.err.print(text, soft_wrap=isinstance(text, str), markup=False, highlight=False)

    def error(self, error: OtaError) -> None:
        """What, why, remedy, code, trace id."""
        trace_id: str | None = getattr(error, "trace_id", None)
        problems: Sequence[dict[str, Any]] = getattr(error, "errors", None) or error.fields.get("errors", ())
        if self.is_json:
            problem = {
                "code": error.code,
                "status": error.status,
                "detail": error.detail,
                "remedy": error.remedy,
                "trace_id": trace_id,
                "errors": problems,
            }
            self.err.out(msgspec.json.encode(problem).decode(), highlight=False)
            return
        self._error_line(Text.assemble(("error: ", "bold red"), error.detail))
        for each in problems:
            where = each.get("pointer") or each.get("parameter") or "request"
            self._error_line(f"  {where}: {each.get('detail', '')} ({each.get('code', '')})")
        if error.remedy:
            self._error_line(Text.assemble(("remedy: ", "bold"), error.remedy))
        trace = f"  trace: {trace_id}" if trace_id else ""
        self._error_line(Text(f"code: {error.code}{trace}", "dim"))

    def _error_line(self, line: Text | str) -> None:
        self.err.print(line, soft_wrap=True, markup=False, highlight=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Iterable[str] = ()) -> Table:
    """A plain table; states are coloured, None is left blank.

    Args:
        columns: their headings.
        rows: one value per column.
        right: headings of the columns with numbers.
    """
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    to_the_right = set(right)
    for column in columns:
        made.add_column(column, justify="right" if column in to_the_right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(cell(value) for value in row))
    return made


def facts(pairs: Iterable[tuple[str, Any]]) -> Table:
    """Names and values, one pair to a line; pairs without a value are left out."""
    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(style="bold")
    made.add_column(overflow="fold")
    for name, value in pairs:
        if value is not None and value != "":
            made.add_row(name, cell(value))
    return made


def cell(value: Any) -> Text:
    """One value for people."""
    match value:
        case None:
            return Text("")
        case Text():
            return value
        case bool():
            return Text("yes" if value else "no")
        case float():
            return Text(f"{value:g}")
        case list() | tuple() | set() | frozenset():
            return Text(", ".join(map(str, value)))
        case dict():
            return Text(", ".join(f"{key}={each}" for key, each in value.items()))
        case _:
            text = str(value)
            return Text(text, STYLES.get(text, ""))


def _console(stream: Any, color: bool) -> Console:
    # At most 1,000 columns, because a table fills as much as it is given only if its content asks for it.
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(file=stream, width=width, no_color=None if color else True, highlight=False, emoji=False)
