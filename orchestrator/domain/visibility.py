"""What a polling device is shown: the deployment, a request to cancel, or nothing.

The effects of pause, halt and abort on assignments in each state are stated here and nowhere else. Stale knowledge may only hide work,
never show any, so callers evaluate this inside the transaction that read the control row.
"""

from __future__ import annotations

from enum import StrEnum

from orchestrator.domain.assignment import ACTIVE, IN_TRIAL, State
from orchestrator.domain.campaign import CampaignState


class Shown(StrEnum):
    NOTHING = "nothing"
    DEPLOYMENT = "deployment"
    CANCEL = "cancel"


_STOPPED = frozenset({CampaignState.HALTED, CampaignState.ABORTED})


def shown(state: State, control: CampaignState, *, cancel_requested: bool, progress: State = State.OFFERED) -> Shown:
    """What an assignment in ``state`` (reports not yet projected included) shows under ``control``.

    Installed and trial keep their link whatever happens to the campaign: a restarted client reports its verdict only while the
    poll still offers something, and interrupting a trial would destroy the way back. A stopped campaign hides offers that were
    not started and asks started ones to cancel; a paused one hides offers that were not started and lets the others go on.

    An unknown assignment was last seen in ``progress`` and may be anywhere after it, so it is never asked to cancel. It is shown only
    while the campaign runs, because the device may have reported a failure that is lost, and would install the image again.
    """
    if state not in ACTIVE:
        return Shown.NOTHING
    seen = progress if state is State.UNKNOWN else state
    if seen in IN_TRIAL:
        return Shown.DEPLOYMENT
    if seen is State.OFFERED or state is State.UNKNOWN:
        return Shown.DEPLOYMENT if control is CampaignState.RUNNING and not cancel_requested else Shown.NOTHING
    if cancel_requested or control in _STOPPED:
        return Shown.CANCEL
    return Shown.DEPLOYMENT
