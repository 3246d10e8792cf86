import pytest
from running_space import RunningSpace


@pytest.fixture(scope="module")
def tiny_space(tmp_path_factory):
    """The Space with the one model that comes with it."""
    space = RunningSpace(tmp_path_factory.mktemp("space"))
    yield space
    space.stop()
