"""Runs what labelling tools ship, in an environment of their own: their requirements are none of ours."""

import subprocess
import sys
from pathlib import Path


def run_with(packages: list[str], code: str, folder: Path) -> str:
    """What a script prints that is run in a folder, in a fresh environment with packages of the index."""
    python = folder / "tool-venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", folder / "tool-venv"], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    done = subprocess.run([python, "-c", code], cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
