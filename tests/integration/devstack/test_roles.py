import signal
import sys
import time
import urllib.request

import pytest

from orchestrator.devstack.process import ComponentError
from orchestrator.devstack.roles import LOG_DAMAGE, PORT_VARIABLES, RoleFailedError, Roles

#: Stands in for ``ota run ROLE``: serves /readyz on the port it is told, ends in the way its folder's files say.
FAKE = """
import http.server, os, pathlib, signal, sys
role, folder = sys.argv[1], pathlib.Path(sys.argv[2])
port = int(os.environ[{"api": "OTA_API_PORT", "gateway": "OTA_GATEWAY_PORT"}.get(role, "OTA_HEALTH_PORT")])
if (folder / f"{role}.exit").exists():
    print(f"{role} gives up")
    sys.exit(int((folder / f"{role}.exit").read_text()))

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()

def end(*_):
    with open(folder / "ended", "a") as file:
        file.write(role + "\\n")
    sys.exit(0)

signal.signal(signal.SIGTERM, end)
(folder / f"{role}.greeting").write_text(os.environ.get("GREETING", ""))
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def make_roles(tmp_path):
    script = tmp_path / "role.py"
    script.write_text(FAKE)
    made = []

    def make(*names, env=None):
        def command(role):
            return (sys.executable, str(script), role, str(tmp_path))

        roles = Roles(tmp_path, env or {}, names=names, command=command)
        made.append(roles)
        return roles

    yield make
    for roles in made:
        roles.stop()


def status(roles, name):
    return next(status for status in roles.status() if status.name == name)


def eventually(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def test_roles_are_ready_at_their_urls_with_the_environment_they_were_given(make_roles, tmp_path):
    roles = make_roles("gateway", "api", "worker", env={"GREETING": "hello"})
    said = []
    roles.start(lambda name, line: said.append(name))
    assert sorted(said) == ["api", "gateway", "worker"]
    assert {status.state for status in roles.status()} == {"ready"}
    for name in said:
        with urllib.request.urlopen(f"{roles.url(name)}/readyz") as answer:
            assert answer.status == 200
        assert (tmp_path / f"{name}.greeting").read_text() == "hello"
        assert (tmp_path / "logs" / f"{name}.log").exists()


def test_each_role_that_serves_requests_knows_the_ports_of_the_others(make_roles):
    roles = make_roles("gateway", "api", "worker")
    known = {name: roles._env[variable] for name, variable in PORT_VARIABLES.items()}
    assert known == {name: str(status(roles, name).port) for name in PORT_VARIABLES}


def test_a_killed_role_comes_back_at_the_same_url(make_roles):
    roles = make_roles("gateway", "worker")
    roles.start()
    url, before, other = roles.url("gateway"), status(roles, "gateway").process, status(roles, "worker").process
    for kills in range(1, 4):
        roles.kill("gateway")
        roles.wait_ready("gateway", 20)
        assert status(roles, "gateway").starts == kills + 1
    assert roles.url("gateway") == url
    assert status(roles, "gateway").process != before
    assert status(roles, "gateway").exit_status == -9
    assert status(roles, "worker").process == other


def test_a_role_that_ends_by_itself_is_started_again(make_roles, tmp_path):
    roles = make_roles("worker")
    roles.start()
    process = status(roles, "worker").process
    assert process
    process.send(signal.SIGTERM)
    eventually(lambda: status(roles, "worker").starts == 2)
    roles.wait_ready("worker", 20)


def test_a_role_that_finds_log_damage_is_not_started_again(make_roles, tmp_path):
    roles = make_roles("projector", "worker")
    roles.start()
    (tmp_path / "projector.exit").write_text(str(LOG_DAMAGE))
    roles.kill("projector")
    eventually(lambda: status(roles, "projector").state == "damaged")
    with pytest.raises(RoleFailedError, match="damaged"):
        roles.wait_ready("projector", 20)
    time.sleep(0.5)
    assert status(roles, "projector").starts == 2
    assert status(roles, "projector").process is None
    assert status(roles, "worker").state == "ready"


def test_a_role_that_cannot_start_is_an_error_with_its_log_and_stops_the_others(make_roles, tmp_path):
    (tmp_path / "worker.exit").write_text("1")
    roles = make_roles("gateway", "worker")
    with pytest.raises(RoleFailedError, match=r"(?s)worker ends while starting.*worker gives up") as raised:
        roles.start()
    assert isinstance(raised.value, ComponentError)
    assert {status.state for status in roles.status()} == {"stopped"}
    assert all(status.process is None for status in roles.status())


def test_roles_are_stopped_in_order_those_that_take_work_in_first(make_roles, tmp_path):
    roles = make_roles("gateway", "api", "relay", "worker", "projector")
    roles.start()
    roles.stop()
    assert (tmp_path / "ended").read_text().split() == ["gateway", "api", "relay", "worker", "projector"]
    assert {status.state for status in roles.status()} == {"stopped"}


def test_roles_can_be_started_again_after_a_stop(make_roles):
    roles = make_roles("api")
    roles.start()
    roles.stop()
    roles.start()
    assert status(roles, "api").state == "ready"
