import shutil

import pytest
from running_space import RunningSpace  # before the Space's own modules, which it makes importable

import segmenter  # isort: skip

from offseg_hf.data.scenes.scenes import draw_scene


@pytest.fixture(scope="session")
def photo():
    return draw_scene(5, (100, 150))[0]


@pytest.fixture
def photo_file(photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture(scope="session")
def tiny():
    """The model that comes with the Space."""
    return segmenter.Segmenter(segmenter.TINY_MODEL)


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
