import random
import socket
from contextlib import closing

import pytest

from orchestrator.devstack.ports import FIRST_PORT, HOST, LAST_PORT, KeptPorts, free_ports, is_free


def listening(port):
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((HOST, port))
    server.listen()
    return closing(server)


def test_free_ports_are_different_and_outside_the_range_of_outgoing_connections():
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert all(FIRST_PORT <= port <= LAST_PORT for port in ports)


def test_a_seeded_test_run_does_not_make_processes_choose_the_same_ports():
    state = random.getstate()
    first = free_ports(5)
    random.setstate(state)
    assert free_ports(5) != first


def test_a_port_with_a_server_is_not_free():
    (port,) = free_ports(1)
    assert is_free(port)
    with listening(port):
        assert not is_free(port)


def test_a_port_is_free_again_when_its_server_has_closed_connections():
    (port,) = free_ports(1)
    with listening(port) as server, socket.create_connection((HOST, port)) as client:
        accepted, _ = server.accept()
        # Closed by the server first: its side stays in TIME_WAIT.
        accepted.close()
        assert client.recv(1) == b""
    assert is_free(port)


def test_each_port_is_kept_until_somebody_else_has_it(tmp_path):
    ports = KeptPorts(tmp_path / "ports", 2)
    with pytest.raises(FileNotFoundError):
        ports.read()
    first = ports.claim()
    assert KeptPorts(tmp_path / "ports", 2).claim() == first == ports.read()
    with listening(first[1]):
        second = ports.claim()
    assert second[0] == first[0]
    assert second[1] != first[1]
    assert ports.read() == second
