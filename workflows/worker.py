"""The worker: which workflows and activities it runs, and how it behaves when it stops or when its predecessor was killed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from temporalio.client import Client
from temporalio.common import WorkerDeploymentVersion
from temporalio.worker import Worker, WorkerDeploymentConfig

from orchestrator.config import Settings
from workflows.activities import ProcessActivities
from workflows.campaign import CampaignWorkflow
from workflows.phase import PhaseWorkflow
from workflows.versions import BUILD_ID, DEPLOYMENT

GRACE: Final = timedelta(seconds=10)
"""Time for running attempts to end when the worker stops: less than supervisors give a process, more than any attempt's
transactions take. The SDK's default of zero cancels them at once."""

STICKY: Final = timedelta(seconds=2)
"""After a worker was killed, its cached workflows wait this long for it; the default of 10 s would be felt as a slow pause."""

MAX_WORKFLOW_TASKS: Final = 20
"""Workflow tasks at once: they are CPU work under one interpreter lock."""

MAX_ACTIVITIES: Final = 200
"""Attempts at once. A dispatcher that waits for room keeps its slot and costs nothing; the rest is limited by the database's pool."""

WORKFLOWS: Final = (CampaignWorkflow, PhaseWorkflow)


def build_worker(client: Client, settings: Settings, activities: ProcessActivities, **overrides: Any) -> Worker:
    """A worker on the settings' task queue. The client must be connected; its interceptors hold for the worker too.

    Run it with ``async with build_worker(...)`` or ``await build_worker(...).run()``; SIGTERM should end it in an orderly way.
    ``overrides`` are further arguments of ``temporalio.worker.Worker``.
    """
    options: dict[str, Any] = {
        "graceful_shutdown_timeout": GRACE,
        "sticky_queue_schedule_to_start_timeout": STICKY,
        "max_concurrent_workflow_tasks": MAX_WORKFLOW_TASKS,
        "max_concurrent_activities": MAX_ACTIVITIES,
    }
    if BUILD_ID:
        options["deployment_config"] = WorkerDeploymentConfig(
            version=WorkerDeploymentVersion(DEPLOYMENT, BUILD_ID), use_worker_versioning=True
        )
    return Worker(
        client,
        task_queue=settings.task_queue,
        workflows=WORKFLOWS,
        activities=activities.all(),
        **options | overrides,
    )
