from __future__ import annotations

import pytest

from orchestrator.simfleet import ddi


def _poll(sleep: str, **links: str) -> bytes:
    shown = ", ".join(f'"{name}": {{"href": "{href}"}}' for name, href in links.items())
    return f'{{"config": {{"polling": {{"sleep": "{sleep}"}}}}, "_links": {{{shown}}}}}'.encode()


def test_the_action_is_the_last_part_of_the_link_without_its_query():
    poll = ddi.read_poll(
        _poll("00:05:00", deploymentBase="http://h/default/controller/v1/d/deploymentBase/1000017?c=7")
    )
    assert poll.deployment
    assert poll.deployment.action == "1000017"
    assert poll.sleep == 300


@pytest.mark.parametrize(
    ("text", "seconds"), [("00:00:05", 5), ("23:59:59", 86399), ("", None), ("soon", None), ("5", None)]
)
def test_sleep_is_read_as_hours_minutes_seconds(text, seconds):
    assert ddi.read_poll(_poll(text)).sleep == seconds


def test_links_may_be_missing():
    assert ddi.read_poll(b'{"config": {"polling": {"sleep": "00:00:05"}}}').deployment is None


@pytest.mark.parametrize("body", [b"", b"[]", b"<html>", b'{"config": 1}'])
def test_a_poll_that_is_no_ddi_is_told(body):
    with pytest.raises(ddi.UnreadableError):
        ddi.read_poll(body)


@pytest.mark.parametrize("chunks", ["[]", '[{"artifacts": []}]', '[{"artifacts": [{"filename": "x", "size": 1}]}]'])
def test_a_deployment_without_its_one_artifact_is_told(chunks):
    with pytest.raises(ddi.UnreadableError):
        ddi.read_deployment(f'{{"id": "1", "deployment": {{"chunks": {chunks}}}}}'.encode())


def test_device_ids_are_escaped_in_urls():
    assert ddi.base_url("http://h:1", "default", "a/b c") == "http://h:1/default/controller/v1/a%2Fb%20c"
