"""The page about webhooks: its receiver verifies what we send, and its table names every event there is."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from api.operator.campaign_models import AnswerInput
from orchestrator.domain.notification import ATTEMPTS_S, KINDS
from orchestrator.domain.signature import sign

PAGE = (Path(__file__).parents[3] / "deploy" / "docs" / "webhooks.md").read_text(encoding="utf-8")
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found


def test_the_receiver_on_the_page_verifies_what_we_sign_and_nothing_else():
    receiver: dict[str, Any] = {}
    exec(block("python"), receiver)
    verify = receiver["verify"]
    body, now = b'{"type":"campaign.halted"}', int(time.time())

    def headers(at: int) -> dict[str, str]:
        return {
            "webhook-id": "m1",
            "webhook-timestamp": str(at),
            "webhook-signature": f"v1,bm8= {sign(SECRET, 'm1', at, body)}",
        }

    assert verify(SECRET, headers(now), body)
    assert not verify(SECRET, headers(now), body + b" ")
    assert not verify(SECRET, headers(now - 400), body)
    assert not verify(SECRET, headers(now) | {"webhook-id": "m2"}, body)


def test_the_page_names_every_event_and_its_pauses():
    table = PAGE.partition("## What arrives")[0]
    assert {kind for kind in KINDS if f"`{kind}`" not in table} == set()
    assert len(ATTEMPTS_S) == 9
    assert sum(ATTEMPTS_S) == 5 + 300 + 1_800 + 3_600 * (2 + 5 + 10 + 14 + 20 + 24)


def test_the_answer_on_the_page_is_one_that_is_taken():
    AnswerInput.model_validate(json.loads(block("json")))
