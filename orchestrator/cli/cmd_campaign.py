"""``ota campaign``: plans that are carried out, from draft to completion or halt."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.command import Cli, command

if TYPE_CHECKING:
    from orchestrator.client.models import CampaignDetail

group = typer.Typer(help="Campaigns: who gets a release, when, and what stops it.", no_args_is_help=True)

CampaignId = Annotated[str, typer.Argument(metavar="CAMPAIGN", help="Its id, cmp_….")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why; it is kept in the log.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="campaign")


@command(group, "create")
def create(
    cli: Cli,
    plan: Annotated[Path, typer.Argument(help="The plan, YAML or JSON.", exists=True, dir_okay=False)],
    name: Annotated[str, typer.Option("--name", "-n", help="What people call it.")],
    release: Annotated[
        str | None, typer.Option("--release", help="Release id, instead of the plan's.", show_default=False)
    ] = None,
) -> None:
    """Create a draft and print its id."""
    read = read_mapping(plan)
    if release is not None:
        read["release"] = release
    campaign = cli.client.create_campaign(name, read)
    cli.output.data(campaign, campaign["campaign_id"])
    _say_next(cli, campaign)


@command(group, "submit")
def submit(cli: Cli, campaign_id: CampaignId) -> None:
    """Count the fleet, freeze the plan with every number in it, and ask for approval."""
    _act(cli, campaign_id, "submit")


@command(group, "preview")
def preview(cli: Cli, campaign_id: CampaignId) -> None:
    """Show what the plan means: devices per phase, how many can fail at most, and when the rules halt."""
    from orchestrator.cli.preview_view import preview as shown

    found = cli.client.preview(campaign_id)
    cli.output.data(found, shown(found))


@command(group, "approve")
def approve(
    cli: Cli,
    campaign_id: CampaignId,
    digest: Annotated[
        str | None,
        typer.Option(
            "--digest", help="What you reviewed, sha256:…; without it, what waits for approval now.", show_default=False
        ),
    ] = None,
    phase: Annotated[
        int | None,
        typer.Option(
            "--phase", min=0, help="Approve that this phase promotes; phases count from 0.", show_default=False
        ),
    ] = None,
) -> None:
    """Approve a submitted campaign, the revision of a running one, the resume of a halted one, or a phase. The author may not."""
    now = cli.client.campaign(campaign_id)
    waiting = now["revision"] if phase is None else None
    if (reviewed := digest or (waiting["digest"] if waiting else now["digest"])) is None:
        from orchestrator.errors import ConflictError

        raise ConflictError(
            f"{campaign_id} is {now['state']}: there is nothing to approve yet.",
            remedy=f"Submit it first: ota campaign submit {campaign_id}",
        )
    if phase is None:
        after = cli.client.act(campaign_id, "approve", {"digest": reviewed})
    else:
        after = cli.client.approve_phase(campaign_id, phase, reviewed)
    show_state(cli, after)


@command(group, "gate")
def gate(
    cli: Cli,
    campaign_id: CampaignId,
    phase: Annotated[int, typer.Argument(min=0, help="Phases count from 0.")],
    name: Annotated[str, typer.Argument(help="Of the external gate, as the plan names it.")],
    verdict: Annotated[str, typer.Option("--verdict", help="promote, hold, or halt: that halts the campaign.")],
    reason: Reason,
    evidence: Annotated[
        str | None, typer.Option("--evidence", help="Address of what it rests on.", show_default=False)
    ] = None,
    gate_epoch: Annotated[
        int | None,
        typer.Option("--epoch", help="Gate epoch that was asked; refused if it is over.", show_default=False),
    ] = None,
) -> None:
    """Give the verdict of an external gate, such as a laboratory, on a phase. Needs the scope campaign:gate only."""
    given = cli.client.give_verdict(
        campaign_id, phase, name, verdict, reason, evidence_url=evidence, gate_epoch=gate_epoch
    )
    cli.output.data(given, f"{campaign_id} {given['state']}")


@command(group, "launch")
def launch(cli: Cli, campaign_id: CampaignId) -> None:
    """Start an approved campaign."""
    _act(cli, campaign_id, "launch")


@command(group, "pause")
def pause(cli: Cli, campaign_id: CampaignId, reason: Reason) -> None:
    """Hold offers; devices that started go on."""
    _act(cli, campaign_id, "pause", {"reason": reason})


@command(group, "resume")
def resume(cli: Cli, campaign_id: CampaignId, reason: Reason) -> None:
    """Go on after a pause, or after a halt once somebody else has approved that."""
    _act(cli, campaign_id, "resume", {"reason": reason})


@command(group, "halt")
def halt(cli: Cli, campaign_id: CampaignId, reason: Reason) -> None:
    """Stop at once: no offer and no start after this. Asks nothing, and is never refused for being stale."""
    _act(cli, campaign_id, "halt", {"reason": reason})


@command(group, "abort")
def abort(
    cli: Cli,
    campaign_id: CampaignId,
    reason: Reason,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """End the campaign for good."""
    if not yes:
        typer.confirm(f"End {campaign_id} for good?", abort=True, err=True)
    _act(cli, campaign_id, "abort", {"reason": reason})


@command(group, "remediate")
def remediate(
    cli: Cli,
    campaign_id: CampaignId,
    release: Annotated[
        str | None, typer.Option("--release", help="Take the devices to this one.", show_default=False)
    ] = None,
    revert: Annotated[bool, typer.Option("--revert", help="Take each device to what it ran before.")] = False,
    plan: Annotated[
        Path | None,
        typer.Option(
            "--plan",
            help="A plan instead of one made from the campaign's.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", "-n", help="What people call it.", show_default=False)] = None,
) -> None:
    """Draft campaigns that take the devices which a stopped campaign updated back, and print their ids.

    Without --release and --revert, as the campaign's plan foresees.
    """
    drafted = cli.client.remediate(
        campaign_id,
        kind="revert" if revert else None,
        release=release,
        plan=None if plan is None else read_mapping(plan),
        name=name,
    )
    cli.output.data(drafted, "\n".join(draft["campaign_id"] for draft in drafted["drafts"]))
    for draft in drafted["drafts"]:
        cli.output.say(f"{draft['campaign_id']}: {draft['devices']} devices to release {draft['release_id']}")
    for gap in drafted["gaps"]:
        some = ", ".join(gap["samples"])
        cli.output.say(f"left out: {gap['devices']} devices ({gap['hardware_model']}), {gap['reason']}: {some}")
    cli.output.say("next: ota campaign submit, of each")


@command(group, "show")
def show(cli: Cli, campaign_id: CampaignId) -> None:
    """Show a campaign: phases, counters, approvals; after a halt why, the likely culprit, and what was spared."""
    from orchestrator.cli.campaign_view import overview

    campaign = cli.client.campaign(campaign_id)
    cli.output.data(campaign, overview(campaign))
    _say_next(cli, campaign)


@command(group, "why")
def why(cli: Cli, campaign_id: CampaignId) -> None:
    """Say why a campaign does not move: the first condition that holds it, what to do, and what would hold next."""
    from orchestrator.cli.why_view import campaign

    found = cli.client.why(campaign_id)
    cli.output.data(found, campaign(found))


@command(group, "eta")
def eta(cli: Cli, campaign_id: CampaignId) -> None:
    """Say when a campaign will be done, phase by phase: at best, likely, at worst, and what that rests on."""
    from orchestrator.cli.why_view import eta as shown

    found = cli.client.eta(campaign_id)
    cli.output.data(found, shown(found["eta"]))


@command(group, "list")
def list_campaigns(
    cli: Cli,
    state: Annotated[str | None, typer.Option("--state", help="Only those in this state.", show_default=False)] = None,
) -> None:
    """List campaigns, the newest first."""
    from orchestrator.cli.output import table

    found = list(cli.client.campaigns(state=state))
    rows = (
        (c["campaign_id"], c["name"], c["state"], f"{c['phase'] + 1}/{c['phase_count']}", c["author"], c["updated_at"])
        for c in found
    )
    cli.output.data({"items": found}, table(("campaign", "name", "state", "phase", "author", "changed"), rows))


@command(group, "events")
def events(cli: Cli, campaign_id: CampaignId) -> None:
    """List what was decided about a campaign, by whom and why, the oldest first."""
    from orchestrator.cli.output import table

    found = list(cli.client.events(campaign_id))
    rows = (
        (e["position"], e["recorded_at"], e["type"], e["meta"].get("actor"), e["meta"].get("reason")) for e in found
    )
    cli.output.data({"items": found}, table(("position", "at", "event", "by", "reason"), rows, right=["position"]))


@command(group, "watch")
def watch(
    cli: Cli,
    campaign_id: CampaignId,
    timeout: Annotated[
        str | None, typer.Option("--timeout", help="Give up after this long, such as 2h; exit 7.", show_default=False)
    ] = None,
    interval: Annotated[str, typer.Option("--interval", help="Between two looks.")] = "1s",
) -> int:
    """Watch until it ends. Exit 0 only if it completed; 5 if it was halted or aborted."""
    from orchestrator.cli.watch import Watch
    from orchestrator.domain.durations import parse_duration

    seconds = None if timeout is None else parse_duration(timeout) / 1_000
    return Watch(
        cli, campaign_id, timeout=seconds, interval=parse_duration(interval) / 1_000, clock=time.monotonic
    ).run()


def read_mapping(path: Path) -> dict[str, Any]:
    """What a file of YAML or JSON says, a plan or what changes in one. Raises InvalidInputError."""
    import yaml

    from orchestrator.errors import InvalidInputError

    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path} is neither YAML nor JSON: {error}", remedy="Correct the file.") from error
    if not isinstance(read, dict):
        raise InvalidInputError(f"{path} does not hold fields but {type(read).__name__}.", remedy="Correct the file.")
    return read


def _act(cli: Cli, campaign_id: str, action: str, body: dict[str, Any] | None = None) -> None:
    show_state(cli, cli.client.act(campaign_id, action, body))


def show_state(cli: Cli, campaign: CampaignDetail) -> None:
    """Print where the campaign stands, and what usually follows."""
    cli.output.data(campaign, f"{campaign['campaign_id']} {campaign['state']}")
    _say_next(cli, campaign)


def _say_next(cli: Cli, campaign: CampaignDetail) -> None:
    from orchestrator.cli.campaign_view import next_step

    if step := next_step(campaign):
        cli.output.say(f"next: {step}")
