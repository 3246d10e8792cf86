"""The guides' commands for publishing, ONNX, the browser and the Space, as they stand there."""

import json
import os
import re
import runpy
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from configparser import ConfigParser
from contextlib import contextmanager
from pathlib import Path

import pytest

from offseg_hf.commands.main import main as offseg
from offseg_hf.data.scenes.scenes import SCENE_LABELS, draw_scene

ROOT = Path(__file__).parents[2]


def commands(guide, heading=""):
    """The lines of the code blocks of a guide, up to its first heading or of the section below one."""
    section = (
        (ROOT / "docs" / guide).read_text().partition(f"\n## {heading}" if heading else "\n")[2].split("\n## ")[0]
    )
    return "".join(re.findall(r"```bash\n(.*?)```", section, re.DOTALL)).replace("\\\n", "").splitlines()


@pytest.fixture
def workshop(hub, shared_model, tmp_path, monkeypatch):
    """The current folder as the commands expect it, with a trained model and photos, and a stand-in for the Hub."""
    shutil.copytree(shared_model, tmp_path / "outputs" / "mine")
    (tmp_path / "photos").mkdir()
    for seed in range(4):
        draw_scene(seed, (64, 96))[0].save(tmp_path / "photos" / f"{seed}.jpg")
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    shutil.copytree(ROOT / "spaces", tmp_path / "spaces", ignore=shutil.ignore_patterns("__pycache__", "model"))
    monkeypatch.chdir(tmp_path)


def run(command):
    """Runs a line `offseg NAME …` or `python scripts/NAME.py …` in this process, where imports are done once."""
    program, *arguments = shlex.split(command)
    if program == "offseg":
        code = offseg(arguments)
    else:
        assert program == "python"
        code = runpy.run_path(arguments[0])["main"](arguments[1:])
    assert code == 0


def started(command, **variables):
    """A process of a line, whose `python` is the one of this process."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": programs, "PYTHONPATH": str(ROOT), **variables}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # what Python compiles must not go to the Hub
    return subprocess.Popen(command, shell=True, env=environment, start_new_session=True)


@contextmanager
def served(command, port, **variables):
    """The address of a command that goes on until it is stopped."""
    with started(command, **variables) as process:
        try:
            for _ in range(600):
                assert process.poll() is None
                with socket.socket() as client:
                    if client.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def fetched(url):
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read()


def test_commands_that_publish(workshop, hub, capsys):
    dry_run, publish = commands("publish.md")
    run(dry_run)
    assert "would be sent to org/offseg-b0-mine, in one commit" in capsys.readouterr().out
    assert not hub.repositories
    run(publish)
    assert "published: " in capsys.readouterr().out
    assert hub.repository("org/offseg-b0-mine").private
    assert {"modeling_offseg.py", "model.safetensors"} <= hub.files("org/offseg-b0-mine").keys()


@pytest.mark.slow
def test_commands_that_export_and_serve(workshop, hub):
    for package in ("onnx", "onnxruntime", "onnxscript", "gradio"):
        pytest.importorskip(package, reason="needs the extras `onnx` and `space`")
    install, export = commands("deploy.md", "ONNX")
    export_beside_the_page, serve_the_page = commands("deploy.md", "The browser")
    serve_the_space, upload = commands("deploy.md", "A Space")

    settings = ConfigParser(interpolation=None)
    settings.read(ROOT / "setup.cfg")
    extras = re.fullmatch(r"pip install -e '\.\[([a-z,]+)\]'", install)[1].split(",")
    assert set(extras) <= set(settings["options.extras_require"])

    run(export)
    assert {path.name for path in Path("outputs/onnx/onnx").iterdir()} == {
        "model.onnx", "model_fp16.onnx", "model_quantized.onnx",
    }  # fmt: skip
    run(export_beside_the_page)
    port = free_port()
    with served(f"{serve_the_page} {port}", port) as url:
        assert b"OffSeg in the browser" in fetched(url)
        assert json.loads(fetched(f"{url}/model/config.json"))["id2label"]["0"] == SCENE_LABELS[0]
        assert fetched(f"{url}/model/onnx/model_quantized.onnx")
    shutil.rmtree("spaces/offseg-web/model")

    port = free_port()
    with served(serve_the_space, port, GRADIO_SERVER_PORT=str(port)) as url:
        page = fetched(url).decode()
    assert '"mine"' in page and "tiny-street-scenes" in page and "Could not be loaded" not in page

    assert started(upload).wait(timeout=120) == 0
    own = {path.relative_to("spaces/offseg").as_posix() for path in Path("spaces/offseg").rglob("*") if path.is_file()}
    assert {name for name in own if "__pycache__" not in name} == set(hub.files("org/offseg", "spaces"))
    assert hub.repository("org/offseg", "spaces").details["sdk"] == "gradio"
