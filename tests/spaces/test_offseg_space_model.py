"""The code beside the Space's model is that of the package."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "file", sorted((ROOT / "spaces/offseg/tiny-street-scenes").glob("*.py")), ids=lambda f: f.name
)
def test_copy_equals_the_file_that_it_was_copied_from(file):
    assert file.read_text() == (ROOT / "offseg_hf/models" / file.name).read_text()
