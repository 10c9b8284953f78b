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


def _chunk(name: str, part: str, artifacts: int = 1) -> str:
    artifact = '{"filename": "fw.bin", "size": 1, "hashes": {"sha256": "aa"}, "_links": {"download-http": {"href": "http://h/x"}}}'
    return f'{{"part": "{part}", "name": "{name}", "version": "2.0.0", "artifacts": [{", ".join([artifact] * artifacts)}]}}'


def _deployment(*chunks: str) -> bytes:
    return f'{{"id": "1000017", "deployment": {{"chunks": [{", ".join(chunks)}]}}}}'.encode()


def test_components_are_read_in_their_order_with_the_os_last():
    found = ddi.read_deployment(_deployment(_chunk("b", "bApp"), _chunk("a", "bApp"), _chunk("os", "system")))
    assert (found.action, found.version) == ("1000017", "2.0.0")
    assert [(part.name, part.application) for part in found.parts] == [("b", True), ("a", True), ("os", False)]


def test_a_chunk_that_comes_alone_is_an_image_for_the_slots():
    assert [part.application for part in ddi.read_deployment(_deployment(_chunk("fw", "bApp"))).parts] == [False]


@pytest.mark.parametrize(
    "chunks",
    [
        [_chunk("os", "os"), _chunk("a", "bApp")],
        [_chunk("os", "os"), _chunk("os2", "os")],
        [_chunk("a", "bApp", artifacts=2), _chunk("os", "os")],
    ],
)
def test_an_order_that_would_reboot_twice_or_too_early_is_told(chunks):
    with pytest.raises(ddi.UnreadableError):
        ddi.read_deployment(_deployment(*chunks))
