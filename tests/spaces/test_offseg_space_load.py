"""The Space under load: no answer lost or mixed up, memory flat; its speed, and a photo of twelve megapixels.

Minutes; needs gradio: `pytest -m slow tests/spaces`.
"""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pictures
import pytest
import segmenter
from PIL import Image

from offseg_hf import OffSegImageProcessor
from offseg_hf.data.scenes.scenes import draw_scene
from offseg_hf.model_types import load_model
from offseg_hf.prediction.label_maps import predict_label_map

pytest.importorskip("gradio")
from gradio_client import Client, handle_file

pytestmark = pytest.mark.slow

NUM_CLIENTS = 16
NUM_REQUESTS = 200


@pytest.fixture(scope="module")
def photos(tiny, tmp_path_factory):
    """Pictures of many sizes, no two alike, with the label maps that the model makes of them in this process."""
    folder, photos = tmp_path_factory.mktemp("photos"), []
    for seed in range(NUM_REQUESTS):
        photo, _ = draw_scene((7, seed), (96 + seed % 40, 128 + 3 * seed % 50))
        path = folder / f"{seed}.png"
        photo.save(path)
        photos.append((path, tiny.segment(photo)))
    assert len({labels.tobytes() for _, labels in photos}) == NUM_REQUESTS
    return photos


def test_segmenting_takes_no_longer_than_by_the_package(tiny):
    photo = draw_scene(0, (512, 768))[0]
    own, processor = load_model(segmenter.TINY_MODEL), OffSegImageProcessor.from_pretrained(segmenter.TINY_MODEL)
    ways = {"Space": lambda: tiny.segment(photo), "package": lambda: predict_label_map(own, processor, photo)}
    seconds = {name: [] for name in ways}
    for _ in range(40):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    ratio = np.median(seconds["Space"]) / np.median(seconds["package"])
    print(f"\nthe Space takes {ratio:.3f} of the package's time, {1000 * np.median(seconds['package']):.0f} ms")
    assert ratio < 1.1


def requests(space, photos):
    """Sends some photos, one after the other, and says for each whether its answer is its own."""
    client = Client(space.url, verbose=False)
    answers = []
    for path, expected in photos:
        label_file, _, report = client.predict(handle_file(path), api_name="/segment")
        with Image.open(label_file) as labels:
            answers.append(np.array_equal(np.asarray(labels), expected) and report["height"] == expected.shape[0])
    client.close()
    return answers


def test_every_answer_belongs_to_its_picture_and_memory_is_flat_under_load(tiny_space, photos):
    requests(tiny_space, photos[:40])
    memory, start = [tiny_space.memory("VmRSS")], time.perf_counter()
    for half in (photos[: NUM_REQUESTS // 2], photos[NUM_REQUESTS // 2 :]):
        shares = [half[number::NUM_CLIENTS] for number in range(NUM_CLIENTS)]
        with ThreadPoolExecutor(NUM_CLIENTS) as clients:
            answers = [
                answer for some in clients.map(lambda share: requests(tiny_space, share), shares) for answer in some
            ]
        assert len(answers) == NUM_REQUESTS // 2 and all(answers)
        memory.append(tiny_space.memory("VmRSS"))
    seconds = time.perf_counter() - start
    print(f"\n{NUM_REQUESTS} requests in {seconds:.0f} s; MiB before, halfway, after: {[round(m) for m in memory]}")
    assert memory[2] - memory[1] < 30


def test_photo_of_twelve_megapixels_needs_less_than_four_gibibytes(tiny_space, tiny, tmp_path):
    path = tmp_path / "photo.jpg"
    draw_scene(0, (750, 1000))[0].resize((4000, 3000)).save(path, quality=95)
    expected = tiny.segment(pictures.read_photo(path))
    assert requests(tiny_space, [(path, expected)]) == [True]
    print(f"\nmost memory ever held: {tiny_space.memory('VmHWM'):.0f} MiB")
    assert tiny_space.memory("VmHWM") < 4096
