"""Components on the command line: ``[MODEL/]NAME[:KIND]=SHA256|FILE`` and ``[MODEL/]NAME=DEPENDENCY,…``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from orchestrator.errors import InvalidInputError

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class ComponentWordsError(InvalidInputError):
    """What stands on the command line is no component."""

    code = "release.component.words"
    remedy = "Say --component modem=SHA256 --component os:os=SHA256 --after os=modem; of several models with MODEL/ in front."


def read_components(
    models: Sequence[str], components: Sequence[str], after: Sequence[str], upload: Callable[[Path, str], str]
) -> dict[str, list[dict[str, Any]]]:
    """The ``components`` of a release; ``upload`` sends a file for a model and gives its sha256. Nothing is sent if a word is wrong.

    Raises:
        ComponentWordsError: a word is not of the form, names another model, or a file that is not there.
    """
    named: dict[tuple[str, str], dict[str, Any]] = {}
    for word in components:
        model, rest, content = _split(word, models)
        name, colon, kind = rest.partition(":")
        if (model, name) in named:
            raise ComponentWordsError(f"'{word}': '{name}' of '{model}' is there twice.")
        if not _SHA256.fullmatch(content) and not Path(content).is_file():
            raise ComponentWordsError(f"'{word}': {content!r} is neither a sha256 nor a file.")
        named[model, name] = {"name": name, "kind": kind if colon else "app", "sha256": content, "after": []}
    for word in after:
        model, name, wanted = _split(word, models)
        if (model, name) not in named:
            raise ComponentWordsError(f"'{word}': '{model}' has no component '{name}'.")
        named[model, name]["after"] += [each for each in wanted.split(",") if each]
    found: dict[str, list[dict[str, Any]]] = {}
    for (model, _), component in named.items():
        if not _SHA256.fullmatch(component["sha256"]):
            component["sha256"] = upload(Path(component["sha256"]), model)
        found.setdefault(model, []).append(component)
    return found


def _split(word: str, models: Sequence[str]) -> tuple[str, str, str]:
    left, equals, right = word.partition("=")
    if not equals or not right:
        raise ComponentWordsError(f"'{word}' has no '=' with something after it.")
    model, slash, name = left.rpartition("/")
    if not slash:
        if len(models) != 1:
            raise ComponentWordsError(f"'{word}' does not say of which model it is; there are {len(models)}.")
        return models[0], name, right
    if model not in models:
        raise ComponentWordsError(f"'{word}': --hardware-model does not name '{model}'.")
    return model, name, right
