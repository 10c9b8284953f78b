"""Following a campaign to its end, over restarts of the API."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from rich.live import Live

from orchestrator.cli import campaign_view
from orchestrator.cli.exit_codes import ExitCode
from orchestrator.cli.progress import LINE_INTERVAL
from orchestrator.errors import UnavailableError

if TYPE_CHECKING:
    from orchestrator.cli.command import Cli
    from orchestrator.client.models import CampaignDetail

PATIENCE: Final = 60.0
"""Seconds without an answer until it is given up: longer than any restart, shorter than anybody waits for a dead server."""

_ENDS: Final = {"completed": ExitCode.DONE, "halted": ExitCode.NO_SUCCESS, "aborted": ExitCode.NO_SUCCESS}


class Watch:
    """Looks at a campaign now and then until it is completed, halted or aborted.

    Args:
        cli: where to print and whom to ask.
        campaign_id: the campaign.
        timeout: seconds until it gives up; None never does.
        interval: seconds between two looks.
        clock: monotonic seconds.
    """

    def __init__(
        self, cli: Cli, campaign_id: str, *, timeout: float | None, interval: float, clock: Callable[[], float]
    ) -> None:
        self._cli = cli
        self._id = campaign_id
        self._timeout = timeout
        self._interval = interval
        self._clock = clock
        self._said_at = float("-inf")
        self._said = ""

    def run(self) -> ExitCode:
        """Returns how it ended: DONE, NO_SUCCESS or TIMEOUT. Raises what the client raises."""
        output = self._cli.output
        terminal = output.err.is_terminal and not output.quiet
        if not terminal:
            campaign, code = self._follow(self._print)
        else:
            with Live(console=output.err, transient=True, auto_refresh=False) as screen:
                campaign, code = self._follow(lambda now: screen.update(campaign_view.live(now), refresh=True))
        output.data(campaign, campaign_view.overview(campaign))
        if code is ExitCode.TIMEOUT:
            output.say(f"{self._id} is still {campaign['state']} after {self._timeout:g} s.")
        return code

    def _follow(self, show: Callable[[CampaignDetail], None]) -> tuple[CampaignDetail, ExitCode]:
        begun = answered = self._clock()
        campaign: CampaignDetail | None = None
        while True:
            try:
                campaign, answered = self._cli.client.campaign(self._id), self._clock()
            except UnavailableError as error:
                if campaign is None or self._clock() - answered > PATIENCE:
                    raise
                self._cli.output.say(f"{error.detail} Waiting.")
            else:
                show(campaign)
                if campaign["state"] in _ENDS:
                    return campaign, _ENDS[campaign["state"]]
            if self._timeout is not None and self._clock() - begun >= self._timeout:
                return campaign, ExitCode.TIMEOUT
            self._cli.pause(self._interval)

    def _print(self, campaign: CampaignDetail) -> None:
        line, now = campaign_view.line(campaign), self._clock()
        if line != self._said and now - self._said_at >= LINE_INTERVAL:
            self._said, self._said_at = line, now
            self._cli.output.say(line)
