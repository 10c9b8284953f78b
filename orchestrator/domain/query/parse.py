r"""Reading selectors, and saying where one is wrong.

A subset of RSQL/FIQL (draft-nottingham-atompub-fiql-00), as hawkBit's users know it::

    or         = and  *( ("," / " or ")  and )
    and        = term *( (";" / " and ") term )
    term       = "(" or ")" / field operator value
    field      = "device_id" / "hardware_model" / "version" / "attribute." name
    operator   = "==" "!=" "=lt=" "=le=" "=gt=" "=ge=" "=in=" "=out=" "=exists="
    value      = text / quoted / "(" value *("," value) ")"      a list for =in= and =out= only
    text       = one or more of A-Z a-z 0-9 _ . : @ + - * /
    quoted     = '…' or "…" with \ before a quote or a backslash

``*`` in unquoted text of ``==`` and ``!=`` stands for anything. Everything is case-sensitive. Errors name the character, with a caret.
"""

from __future__ import annotations

import re
from typing import Final

from orchestrator.domain.query.ast import ORDERED, And, Comparison, Operator, Or, Query
from orchestrator.errors import InvalidInputError

MAX_LENGTH: Final = 4_096
"""Characters of a selector: longer ones are lists of devices, which plans have a field for."""

MAX_DEPTH: Final = 16
"""Parentheses within each other."""

MAX_TERMS: Final = 200
"""Comparisons and listed values."""

SHOWN: Final = 60
"""Characters of the selector that an error shows around the place."""

_FIELD: Final = re.compile(r"device_id|hardware_model|version|attribute\.[A-Za-z0-9_.-]{1,64}")
_WORD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_OPERATOR: Final = re.compile(r"==|!=|=[a-z]*=")
_TEXT: Final = re.compile(r"[A-Za-z0-9_.:@+*/-]+")
_SPACE: Final = re.compile(r"[ \t\n]*")
_AND: Final = re.compile(r"[ \t\n]*;|[ \t\n]+and(?=[ \t\n(])")
_OR: Final = re.compile(r"[ \t\n]*,|[ \t\n]+or(?=[ \t\n(])")
NUMBER: Final = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")
"""What counts as a number, in a selector and in an attribute."""
VERSION: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,7}")
"""What counts as a version that can be ordered: dotted numbers."""


class QueryError(InvalidInputError):
    """The selector cannot be read."""

    code = "query.syntax"
    remedy = "Correct the selector at the caret: field, operator, value; `;` for and, `,` for or."

    def __init__(self, detail: str, text: str, position: int) -> None:
        """Say what is wrong at ``position`` (from 0) of ``text``."""
        start = max(0, position - SHOWN // 2)
        piece = text[start : start + SHOWN].replace("\n", " ").replace("\t", " ")
        self.caret = f"{piece}\n{' ' * (position - start)}^"
        super().__init__(f"{detail} (character {position + 1})\n{self.caret}", position=position)


def parse(text: str) -> Query:
    """Read a selector. Raises QueryError at the first thing that is wrong."""
    if len(text) > MAX_LENGTH:
        raise QueryError(f"A selector has at most {MAX_LENGTH} characters.", text, MAX_LENGTH)
    reader = _Reader(text)
    query = reader.either(0)
    reader.take(_SPACE)
    if reader.at < len(text):
        raise reader.error("The selector should end here, or go on with `;` or `,`.")
    return query


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.terms = 0

    def error(self, detail: str, at: int | None = None) -> QueryError:
        return QueryError(detail, self.text, self.at if at is None else at)

    def take(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self.text, self.at)
        if found is None:
            return None
        self.at = found.end()
        return found.group()

    def either(self, depth: int) -> Query:
        parts = [self.both(depth)]
        while self.take(_OR) is not None:
            parts.append(self.both(depth))
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def both(self, depth: int) -> Query:
        parts = [self.term(depth)]
        while self.take(_AND) is not None:
            parts.append(self.term(depth))
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def term(self, depth: int) -> Query:
        self.take(_SPACE)
        if not self.text.startswith("(", self.at):
            return self.comparison()
        if depth >= MAX_DEPTH:
            raise self.error(f"More than {MAX_DEPTH} parentheses within each other.")
        opened = self.at
        self.at += 1
        query = self.either(depth + 1)
        self.take(_SPACE)
        if not self.text.startswith(")", self.at):
            raise self.error(f"The parenthesis of character {opened + 1} is not closed.")
        self.at += 1
        return query

    def comparison(self) -> Comparison:
        begun = self.at
        word = self.take(_WORD)
        if word is None:
            raise self.error("A field is needed here.")
        if not _FIELD.fullmatch(word):
            known = "device_id, hardware_model, version or attribute.NAME"
            raise self.error(f"There is no field '{word}'; use {known}.", begun)
        self.take(_SPACE)
        begun = self.at
        sign = self.take(_OPERATOR)
        if sign not in {str(each) for each in Operator}:
            raise self.error(f"An operator is needed here: {', '.join(Operator)}.", begun)
        operator = Operator(str(sign))
        self.take(_SPACE)
        if operator in {Operator.IN, Operator.NOT_IN}:
            return Comparison(word, operator, self.listed())
        begun = self.at
        value, quoted = self.value()
        return self.checked(word, operator, value, quoted=quoted, begun=begun)

    def checked(self, word: str, operator: Operator, value: str, *, quoted: bool, begun: int) -> Comparison:
        if operator in ORDERED:
            kind, what = (VERSION, "dotted numbers") if word == "version" else (NUMBER, "a number")
            if not kind.fullmatch(value):
                raise self.error(f"'{operator}' compares {word} with {what}.", begun)
        elif operator is Operator.EXISTS:
            if value not in {"true", "false"}:
                raise self.error("'=exists=' takes true or false.", begun)
        elif "*" in value and not quoted:
            return Comparison(word, operator, tuple(value.split("*")), pattern=True)
        return Comparison(word, operator, (value,))

    def listed(self) -> tuple[str, ...]:
        if not self.text.startswith("(", self.at):
            raise self.error("A list in parentheses is needed here.")
        self.at += 1
        values: list[str] = []
        while True:
            self.take(_SPACE)
            values.append(self.value()[0])
            self.take(_SPACE)
            if self.text.startswith(")", self.at):
                self.at += 1
                return tuple(values)
            if not self.text.startswith(",", self.at):
                raise self.error("The list goes on with `,` or ends with `)`.")
            self.at += 1

    def value(self) -> tuple[str, bool]:
        """A value, and whether it was quoted."""
        self.terms += 1
        if self.terms > MAX_TERMS:
            raise self.error(f"More than {MAX_TERMS} values.")
        quote = self.text[self.at : self.at + 1]
        if quote not in {"'", '"'}:
            text = self.take(_TEXT)
            if text is None:
                raise self.error("A value is needed here; put quotes around one with other characters.")
            return text, False
        opened, found = self.at, list[str]()
        self.at += 1
        while True:
            char = self.text[self.at : self.at + 1]
            if not char:
                raise self.error("The quote is not closed.", opened)
            if char == "\0":
                raise self.error("A value cannot hold a NUL.")
            self.at += 1
            if char == quote:
                return "".join(found), True
            if char == "\\":
                char = self.text[self.at : self.at + 1]
                if char not in {"\\", "'", '"'}:
                    raise self.error("A backslash stands before a quote or a backslash.", self.at - 1)
                self.at += 1
            found.append(char)


def render(query: Query) -> str:
    """The selector in writing; reads back as the same query."""
    match query:
        case Comparison():
            return f"{query.field}{query.operator}{_value(query)}"
        case And() | Or():
            sign = ";" if isinstance(query, And) else ","
            return sign.join(f"({render(p)})" if isinstance(p, And | Or) else render(p) for p in query.parts)


def _value(query: Comparison) -> str:
    if query.pattern:
        return "*".join(query.values)
    quoted = ["'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'" for value in query.values]
    return f"({','.join(quoted)})" if query.operator in {Operator.IN, Operator.NOT_IN} else quoted[0]
