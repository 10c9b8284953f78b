"""Why a campaign or a device does not move, and when a campaign will be done, for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from orchestrator.cli.output import facts, table
from orchestrator.client.models import CampaignWhy, Condition, DeviceWhy, Eta
from orchestrator.domain.durations import format_duration


def campaign(why: CampaignWhy) -> RenderableType:
    """For ``campaign why``."""
    return Group(*_campaign(why))


def _campaign(why: CampaignWhy) -> Iterator[RenderableType]:
    yield facts([("campaign", why["campaign_id"]), ("state", why["state"]), ("at", why["at"])])
    yield ""
    yield from _conditions(why["why"], why["further"])
    yield ""
    yield eta(why["eta"])


def device(why: DeviceWhy) -> RenderableType:
    """For ``device why``."""
    return Group(*_device(why))


def _device(why: DeviceWhy) -> Iterator[RenderableType]:
    yield facts([("device", why["device_id"]), ("last seen", why["last_seen_at"] or "never"), ("at", why["at"])])
    if not why["campaigns"]:
        yield "No campaign is under way."
    for place in why["campaigns"]:
        yield ""
        yield facts(
            [
                ("campaign", place["campaign_id"]),
                ("state", place["state"]),
                ("member", "yes" if place["member"] else "no"),
            ]
        )
        yield from _conditions(place["why"], place["further"])


def _conditions(first: Condition, further: Sequence[Condition]) -> Iterator[RenderableType]:
    yield Text(first["detail"], "bold")
    yield facts([("code", first["code"]), ("until", first["until"]), ("remedy", first["remedy"])])
    if further:
        yield ""
        rows = ((each["code"], each["detail"], each["until"], each["remedy"]) for each in further)
        yield table(("then", "what", "until", "remedy"), rows)


def eta(found: Eta) -> RenderableType:
    """For ``campaign eta``, and below the conditions."""
    if found["none_because"] is not None:
        return Text(f"No estimate: {found['none_because']}")
    earliest = bool(found["open_ended"])
    sample = found["sample"]
    times = None
    if sample["confirmed"]:
        low, median, high = (format_duration(sample[name]) for name in ("low", "median", "high"))
        times = f"{median} from offer to confirmation, {low} to {high} for the middle four fifths of {sample['confirmed']} devices"
    about = facts(
        [
            ("done, at the earliest" if earliest else "done", f"{found['low']} … {found['likely']} … {found['high']}"),
            ("waits for", "; ".join(found["open_ended"]) or None),
            ("based on", found["basis"]),
            ("devices take", times),
        ]
    )
    phases = table(
        ("phase", "name", "to offer", "under way", "at best", "likely", "at worst", "waits for"),
        (
            (
                each["phase"],
                each["name"],
                each["remaining"],
                each["under_way"],
                each["low"],
                each["likely"],
                each["high"],
                "; ".join(each["open_ended"]) or None,
            )
            for each in found["phases"]
        ),
        right=("phase", "to offer", "under way"),
    )
    return Group(about, *(["", phases] if found["phases"] else []))
