"""Histories of every shipped version replay on today's workflow code: a campaign that runs for weeks outlives a deployment."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.contrib.opentelemetry import TracingInterceptor
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer
from temporalio.workflow import NondeterminismError

from workflows.messages import CAMPAIGN_WORKFLOW, CampaignInput
from workflows.worker import WORKFLOWS

HISTORIES = sorted((Path(__file__).parent / "histories").glob("*.json"))


def replayer(*workflows):
    return Replayer(workflows=workflows, data_converter=pydantic_data_converter, interceptors=[TracingInterceptor()])


def load(path):
    # The real id: ids of children derive from it.
    saved = json.loads(path.read_text(encoding="utf-8"))
    return WorkflowHistory.from_json(saved["workflow_id"], saved["history"])


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_a_recorded_history_replays(path):
    await replayer(*WORKFLOWS).replay_workflow(load(path))


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_a_recorded_history_tells_nothing_of_its_machine(path):
    text = path.read_text(encoding="utf-8")
    assert re.findall(r'"identity": "(?!worker")[^"]*|\d+@[\w.-]+|/(?:home|root|work|usr)/[^"]*', text) == []


def test_both_workflows_have_recorded_histories():
    assert {path.stem.rsplit("-", 1)[1] for path in HISTORIES} == {"campaign", "phase"}


@workflow.defn(name=CAMPAIGN_WORKFLOW, sandboxed=False)
class ChangedWorkflow:
    """What a careless change looks like."""

    @workflow.run
    async def run(self, campaign: CampaignInput) -> None:
        await workflow.sleep(1)


async def test_a_changed_workflow_is_noticed():
    path = next(path for path in HISTORIES if path.stem.endswith("campaign"))
    with pytest.raises(NondeterminismError):
        await replayer(ChangedWorkflow).replay_workflow(load(path))
