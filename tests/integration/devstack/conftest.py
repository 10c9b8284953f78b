import pytest

from orchestrator.devstack.stack import DevStack


@pytest.fixture(scope="session")
def own_stack(tmp_path_factory):
    """All three servers, started here whatever the environment names: these tests kill them."""
    with DevStack(tmp_path_factory.mktemp("own-stack"), environ={}) as stack:
        yield stack
