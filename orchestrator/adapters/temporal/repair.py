"""Starting again what should run: after Temporal, its database or a workflow was lost, the log still knows."""

from __future__ import annotations

from orchestrator.app.process import ProcessManager, Unfinished


async def repair(unfinished: Unfinished, processes: ProcessManager) -> list[str]:
    """Start the process of every unfinished campaign that has none; returns their ids, in the order of their creation."""
    started: list[str] = []
    for campaign_id in await unfinished.campaigns():
        if not await processes.running(campaign_id):
            await processes.start(campaign_id)
            started.append(campaign_id)
    return started
