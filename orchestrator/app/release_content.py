"""What a release may hold: artifacts that were uploaded for its hardware models, and components that their clients can install."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from orchestrator.app.registry import Registry
from orchestrator.domain import components as parts
from orchestrator.domain.profile import parse_profile
from orchestrator.errors import InvalidInputError
from schemas.registry_events import ReleaseComponent

MAX_RELEASE_MODELS: Final = 100
"""Hardware models of one release."""


class ReleaseError(InvalidInputError):
    """The release cannot be registered as given."""

    code = "release.invalid"


async def check_content(
    registry: Registry, artifacts: Mapping[str, str], components: Mapping[str, Sequence[ReleaseComponent]]
) -> None:
    """Refuse what no device could be given, with a code and a place for each defect. Raises ReleaseError."""
    if not 0 < len(artifacts.keys() | components.keys()) <= MAX_RELEASE_MODELS:
        raise ReleaseError(f"A release has artifacts for 1 to {MAX_RELEASE_MODELS} hardware models.")
    wrong = [
        _error(f"/components/{model}", "release.model_twice", f"'{model[:64]}' has an artifact and components.")
        for model in sorted(artifacts.keys() & components.keys())
    ]
    for model, found in components.items():
        for each in parts.problems(found):
            detail = f"'{model[:64]}': {each.detail}"
            wrong.append(_error(f"/components/{model}{each.pointer}", each.code, detail))
    wrong += await _check_clients(registry, components)
    if wrong:
        raise ReleaseError(" ".join(error["detail"] for error in wrong[:3]), errors=wrong)
    named = [(f"/artifacts/{model}", model, sha256) for model, sha256 in artifacts.items()]
    named += [
        (f"/components/{model}/{at}/sha256", model, each.sha256)
        for model, found in components.items()
        for at, each in enumerate(found)
    ]
    missing: list[dict[str, str]] = []
    for pointer, model, sha256 in named:
        if not await registry.artifact(sha256, model):
            detail = f"There is no artifact {sha256[:64]} for the hardware model '{model[:64]}'."
            missing.append(_error(pointer, "artifact.not_found", detail))
    if missing:
        raise ReleaseError(
            " ".join(error["detail"] for error in missing[:3]), remedy="Upload it first.", errors=missing
        )


async def _check_clients(
    registry: Registry, components: Mapping[str, Sequence[ReleaseComponent]]
) -> list[dict[str, str]]:
    """Models whose client would take one chunk and be silent about the others, or refuse all of them."""
    several = [model for model, found in components.items() if len(found) > 1]
    known = await registry.hardware_models(several) if several else {}
    return [
        _error(
            f"/components/{model}",
            "release.component.unsupported",
            f"The client of '{model}' ({profile.client}) takes one component.",
        )
        for model, profile in ((name, parse_profile(known[name].profile)) for name in sorted(known))
        if not profile.multi
    ]


def _error(pointer: str, code: str, detail: str) -> dict[str, str]:
    return {"pointer": pointer, "code": code, "detail": detail}
