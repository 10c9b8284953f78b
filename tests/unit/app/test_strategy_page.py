"""The plans on the page about rollout strategy can be submitted as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from orchestrator.domain.dossier import validate_against
from orchestrator.domain.plan import parse_plan

ROOT = Path(__file__).parents[3]
PLAN = yaml.safe_load((ROOT / "deploy" / "demo_data" / "plan.yaml").read_text(encoding="utf-8")) | {"release": "rel_1"}
PAGE = (ROOT / "deploy" / "docs" / "strategy.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_an_example_fits_a_fleet(block):
    plan = parse_plan(PLAN | yaml.safe_load(block))
    named = {index: {"a": 5} for index, phase in enumerate(plan.phases) if phase.names}
    assert validate_against(plan, strata_sizes={"a": 600, "b": 400}, named=named, release_models={"m"}) == []


def test_every_example_of_the_page_is_tried():
    assert len(BLOCKS) == PAGE.count("```yaml") > 1
