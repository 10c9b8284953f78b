from __future__ import annotations

from tests.unit.cli.conftest import AT

WEBHOOK = {
    "webhook_id": "wh_1",
    "url": "https://hooks.example/ota",
    "events": ["breaker.opened", "campaign.halted"],
    "created_at": AT,
    "created_by": "ann",
}
DELIVERY = {
    "message_id": "m1",
    "kind": "campaign.halted",
    "position": 7,
    "state": "pending",
    "attempts": 2,
    "status": 503,
    "error": None,
    "created_at": AT,
    "next_at": AT,
    "settled_at": None,
}


def test_adding_prints_the_secret_alone(ota, api):
    api.on("POST", "/v1/webhooks", WEBHOOK | {"secret": "whsec_x"})
    ran = ota("webhook", "add", WEBHOOK["url"], "--events", "campaign.halted, breaker.opened")
    assert (ran.exit_code, ran.stdout) == (0, "whsec_x\n")
    assert "shown once" in ran.stderr
    assert api.body() == {"url": WEBHOOK["url"], "events": ["campaign.halted", "breaker.opened"]}


def test_the_list_and_the_deliveries_are_tables(ota, api):
    api.on("GET", "/v1/webhooks", {"items": [WEBHOOK], "next": None})
    assert "wh_1" in ota("webhook", "list").stdout
    api.on("GET", "/v1/webhooks/wh_1/deliveries", {"items": [DELIVERY] * 3, "next": None})
    assert ota("--json", "webhook", "deliveries", "wh_1", "--limit", 2).json == {"items": [DELIVERY] * 2}
    assert "503" in ota("webhook", "deliveries", "wh_1").stdout


def test_a_webhook_is_tried_out_and_removed(ota, api):
    api.on("POST", "/v1/webhooks/wh_1/test", DELIVERY)
    assert ota("webhook", "test", "wh_1").stdout == "m1\n"
    api.on("DELETE", "/v1/webhooks/wh_1", lambda _: __import__("httpx").Response(204))
    assert ota("webhook", "remove", "wh_1").exit_code == 0
