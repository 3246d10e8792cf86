import os

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: each process of several has one core
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
from hub_double import HubDouble


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stand-in for the Hub, to which the clients of this process speak, as someone who may write to `org`."""
    with HubDouble() as hub:
        hub.adopt_clients(monkeypatch, tmp_path / "hub-home")
        yield hub
