"""Ports of the embedded servers: the same over restarts."""

from __future__ import annotations

import pytest

from orchestrator.devstack import ports
from orchestrator.devstack.ports import KeptPorts


@pytest.fixture
def taken(monkeypatch):
    """Ports that somebody listens on; none is really bound."""
    taken: set[int] = set()
    monkeypatch.setattr(ports, "is_free", lambda port: port not in taken)
    return taken


def test_ports_stay_the_same_while_nobody_takes_them(tmp_path, taken):
    claimed = KeptPorts(tmp_path / "ports", 2).claim()
    assert len(set(claimed)) == 2
    assert KeptPorts(tmp_path / "ports", 2).claim() == claimed


def test_only_the_port_that_was_taken_is_replaced(tmp_path, taken):
    kept = KeptPorts(tmp_path / "ports", 2)
    server, page = kept.claim()
    taken.add(page)
    same, other = kept.claim()
    assert same == server
    assert other not in {server, page}
    assert kept.read() == (same, other)
