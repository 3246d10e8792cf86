import os

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: each process of several has one core
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
from hub_double import HubDouble
from package_index import PackageIndex


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stand-in for the Hub, to which the clients of this process speak, as someone who may write to `org`."""
    with HubDouble() as hub:
        hub.adopt_clients(monkeypatch, tmp_path / "hub-home")
        yield hub


@pytest.fixture
def package_index(monkeypatch, tmp_path):
    """The only index of pip, in this process and those that it starts: a folder without packages."""
    folder = tmp_path / "package-index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return PackageIndex(folder)
