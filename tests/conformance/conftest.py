"""Fetches transformers' own common tests, only for `pytest -m conformance`; else this folder is left out, unread.

They are in transformers' source distribution, of which a copy for the installed version is kept in `.cache/`, as the
package `transformers_common_tests`. None of it enters the repository.
"""

import re
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

VERSION = version("transformers")
CACHE = Path(__file__).parents[2] / ".cache" / "conformance" / VERSION

# The distribution has only the files at the top of `tests/`; these stand in for what they import from its folders.
STAND_INS = {
    "__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin: pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin: pass\n",
    "utils/test_configuration_utils.py": "config_common_kwargs = {'return_dict': False}\n",
    "../fetch_hub_objects_for_ci.py": "def url_to_local_path(url): return url\n",
}


def pytest_ignore_collect(config):
    if config.option.markexpr != "conformance":
        return True
    if not CACHE.exists():
        fetch()
    sys.path.insert(0, str(CACHE))
    for file in CACHE.glob("*/*.py"):
        for marker in set(re.findall(r"mark\.(\w+)", file.read_text())):  # --strict-markers wants them all declared
            config.addinivalue_line("markers", f"{marker}: of transformers")
    return None


def fetch():
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE.parent) as scratch:
        command = ["pip", "download", "--quiet", "--no-deps", "--no-binary", "transformers", "--dest"]
        subprocess.run([sys.executable, "-m", *command, scratch, f"transformers=={VERSION}"], check=True)
        with tarfile.open(f"{scratch}/transformers-{VERSION}.tar.gz") as archive:
            files = [file for file in archive if file.name.startswith(f"transformers-{VERSION}/tests/")]
            archive.extractall(scratch, files, filter="data")
        folder = Path(scratch, f"transformers-{VERSION}")
        package = (folder / "tests").rename(folder / "transformers_common_tests")
        for name, text in STAND_INS.items():
            file = package / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        folder.rename(CACHE)
