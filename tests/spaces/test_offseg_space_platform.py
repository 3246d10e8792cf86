"""The Space as ZeroGPU runs it: without this package, models from folders and the Hub, on a GPU that is lent."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import segmenter
from hub_double import HubDouble
from running_space import SPACE
from space_models import PER_PIXEL, mask2former, saved, segformer
from transformers import SegformerImageProcessorPil

from offseg_hf.publishing.repository import write_repository

# What ZeroGPU's package does as far as it matters: another process works, errors but Gradio's lose their message.
LENT_GPU = """
import pickle, sys

assert "torch" not in sys.modules
calls = []


def GPU(function):
    def on_lent_gpu(*arguments):
        import gradio

        calls.append(function.__name__)
        try:
            return pickle.loads(pickle.dumps(function(*pickle.loads(pickle.dumps(arguments)))))
        except gradio.Error:
            raise
        except Exception as error:
            raise gradio.Error(type(error).__name__) from None

    return on_lent_gpu
"""
RUN = """
import json, sys
sys.modules["offseg_hf"] = None  # importing it raises an ImportError
import app, segmenter, spaces
import numpy
from PIL import Image

functions = {each.name: each.fn for each in app.build_demo().fns.values()}
segment, show_offsets = functions["segment"], functions["show_offsets"]

label_maps, labels, tiny, photo = {}, {}, "tiny-street-scenes", "photo.png"
for name in sys.argv[1:]:
    _, label_file, _, report = segment(photo, name, 0.5)
    label_maps[name] = numpy.asarray(Image.open(label_file))
    labels[name] = report["classes"][0]["label"]
num_pictures = show_offsets(photo, tiny, None)[2].count("<img")

segmenter.TIME_LIMIT = -1
messages = []
for function, option in ((segment, 0.5), (show_offsets, None)):
    try:
        function(photo, tiny, option)
    except app.gr.Error as error:
        messages.append(error.message)
numpy.savez("labels.npz", **label_maps)
print(json.dumps({"labels": labels, "num_pictures": num_pictures, "messages": messages, "calls": spaces.calls}))
"""


@pytest.fixture(scope="module")
def run(photo, tmp_path_factory):
    """What one process found with a model of every family, from a folder and from the Hub, and one at two revisions.

    `expected` holds the label maps that the package's own code makes in this process, `first` the first revision.
    """
    pytest.importorskip("gradio")
    folder = tmp_path_factory.mktemp("models")
    photo.save(folder / "photo.png")
    (folder / "platform").mkdir()
    (folder / "platform" / "spaces.py").write_text(LENT_GPU)
    expected, names = {}, []
    with HubDouble() as hub:
        for make_model in (*PER_PIXEL, mask2former):
            name = make_model.__name__
            own = saved(make_model, folder / f"{name}-saved")
            expected[name] = segmenter.Segmenter(own).segment(photo)
            published = folder / name
            published.mkdir()
            files = write_repository(own, published, f"org/{name}")
            hub.create(f"org/{name}", files={file.name: file.read_bytes() for file in files})
            names += [str(published), f"org/{name}"]

        revisions = []
        own = saved(segformer, folder / "segformer")
        SegformerImageProcessorPil().save_pretrained(own)  # since the process does not know this package's own
        for label in (b"FIRST_", b"SECOND_"):
            revisions.append({file.name: file.read_bytes().replace(b"LABEL_", label) for file in own.iterdir()})
        repository = hub.create("org/model", files=revisions[0])
        first = repository.commits[-1].oid
        repository.commit("other names", {**repository.commits[-1].files, **revisions[1]})
        names += ["org/model", f"org/model@{first}"]
        shown = [name.removeprefix(f"{folder}/") for name in names]

        environment = {**os.environ, **hub.environment(folder / "home"), "GRADIO_TEMP_DIR": str(folder / "gradio")}
        environment["PYTHONPATH"] = f"{SPACE}{os.pathsep}{folder / 'platform'}"
        environment["OFFSEG_MODELS"] = ",".join(names)
        command = [sys.executable, "-c", RUN, *shown, "tiny-street-scenes"]
        done = subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return {**found, "label_maps": np.load(folder / "labels.npz"), "expected": expected, "first": first}


def test_models_of_every_family_are_offered_from_folders_and_from_the_hub_without_the_package(run):
    assert set(run["expected"]) == {"offseg", "segnext", "efficientformer", "mobilenet", "wrapper", "mask2former"}
    assert len(np.unique(run["label_maps"]["tiny-street-scenes"])) > 3
    for name, labels in run["expected"].items():
        for source in (name, f"org/{name}"):
            assert (run["label_maps"][source] == labels).mean() > 0.999  # other threads may decide a tie


def test_model_is_loaded_at_its_revision_when_one_is_named(run):
    assert run["labels"]["org/model"].startswith("SECOND_")
    assert run["labels"][f"org/model@{run['first']}"].startswith("FIRST_")


def test_gpu_is_borrowed_for_the_models_work_alone_where_the_platform_lends_one(run):
    assert run["num_pictures"] == 2
    assert run["calls"] == ["label_map"] * len(run["labels"]) + ["offsets", "label_map", "offsets"]
    assert len(run["messages"]) == 2 and all("took more than -1 seconds" in message for message in run["messages"])
