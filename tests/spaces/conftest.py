import shutil

import pytest
from running_space import RunningSpace


@pytest.fixture(scope="module")
def tiny_space(tmp_path_factory):
    """The Space with the one model that comes with it."""
    space = RunningSpace(tmp_path_factory.mktemp("space"))
    yield space
    space.stop()


@pytest.fixture(scope="session")
def chromium():
    """Debian's browser, without a window."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs the program chromium: apt-get install chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()
