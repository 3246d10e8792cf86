"""The Space as a process, for the tests that open it."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

SPACE = Path(__file__).parents[2] / "spaces" / "offseg"
sys.path.insert(0, str(SPACE))  # the Space's files import each other as a program's files do

START = "import runpy, sys; sys.modules['offseg_hf'] = None; runpy.run_path('app.py', run_name='__main__')"


class RunningSpace:
    """A plain clone of the Space's folder, served by a process that has neither this package nor the Hub."""

    def __init__(self, folder, models=""):
        clone = folder / "clone"
        shutil.copytree(SPACE, clone, ignore=shutil.ignore_patterns("__pycache__"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        settings = {"GRADIO_SERVER_PORT": port, "OFFSEG_MODELS": models, "HF_HUB_OFFLINE": 1, "HF_HOME": folder / "hf"}
        settings |= {"GRADIO_TEMP_DIR": folder / "gradio", "HF_MODULES_CACHE": folder / "modules"}
        environment = {**os.environ, **{name: str(value) for name, value in settings.items()}}
        self.log = folder / "log.txt"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", START], cwd=clone, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        self.wait()

    def wait(self, seconds=180):
        for _ in range(2 * seconds):
            try:
                return urllib.request.urlopen(self.url).read()
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.5)
        raise RuntimeError(self.log.read_text())

    def memory(self, field):
        """A line of the process's status in MiB: "VmRSS", what it holds now, or "VmHWM", the most it ever held."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split(f"{field}:")[1].split()[0]) / 1024

    def stop(self):
        self.process.terminate()
        self.process.wait()
