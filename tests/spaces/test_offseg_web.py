"""The page that segments in the browser, in Chromium: as it is published, but with its library from a local copy."""

import base64
import http.server
import io
import json
import re
import shutil
import subprocess
import tarfile
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from offseg_hf import OffSegConfig, OffSegForSemanticSegmentation, OffSegImageProcessor
from offseg_hf.model_types import load_model
from offseg_hf.models.label_map import upsampled_label_map
from offseg_hf.prediction.label_maps import predict_label_map

pytestmark = pytest.mark.browser
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra `browser`")

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "spaces" / "offseg-web"
PACKAGES = ROOT / ".cache" / "npm"
CDN = "https://cdn.jsdelivr.net/npm/"
TYPES = {".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}
SIZE = {"height": 96, "width": 128}
NAMES = ["sky", "road", "car", "tree"]


def npm_package(name, version):
    """The folder of a package's files, downloaded once."""
    folder = PACKAGES / f"{name.replace('/', '-')}-{version}"
    if not folder.exists():
        if shutil.which("npm") is None:
            pytest.skip(f"needs npm, to fetch {name}")
        PACKAGES.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", "--silent", "--pack-destination", str(PACKAGES), f"{name}@{version}"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=PACKAGES)
        if done.returncode:
            pytest.skip(f"needs {name} from npm: {done.stderr.strip().splitlines()[-1]}")
        archive = PACKAGES / done.stdout.split()[-1]
        with tarfile.open(archive) as files:
            files.extractall(f"{folder}.new", filter="data")
        Path(f"{folder}.new").rename(folder)
        archive.unlink()
    return folder / "package"


@pytest.fixture(scope="session")
def packages():
    """What the content delivery network serves: address below it → file."""
    version = re.search(r"@huggingface/transformers@([\d.]+)/", (PAGE / "index.html").read_text())[1]
    library = npm_package("@huggingface/transformers", version)
    runtime_version = json.loads((library / "package.json").read_text())["dependencies"]["onnxruntime-web"]
    return {
        f"@huggingface/transformers@{version}/": library,
        f"onnxruntime-web@{runtime_version}/": npm_package("onnxruntime-web", runtime_version),
    }


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A tiny model of random weights, as torch has it and, below it, as ONNX."""
    from offseg_hf.export.onnx import export_onnx

    torch.manual_seed(0)
    sizes = {"hidden_sizes": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "num_attention_heads": (1, 1, 2, 2)}
    config = OffSegConfig(**sizes, decoder_hidden_size=16, id2label=dict(enumerate(NAMES)))
    model = OffSegForSemanticSegmentation(config)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape)
    folder = tmp_path_factory.mktemp("web")
    model.save_pretrained(folder)
    OffSegImageProcessor(size=SIZE).save_pretrained(folder)
    photos = folder / "photos"
    photos.mkdir()
    for seed in range(8):
        photo(seed).save(photos / f"{seed}.png")
    export_onnx(folder, folder / "onnx", int8=True, calibration_images=photos)
    return folder


def photo(seed=0, size=(SIZE["width"], SIZE["height"])):
    """Blots of colour, smooth enough to be scaled."""
    blots = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(blots).resize(size, Image.Resampling.BICUBIC)


def png(image):
    content = io.BytesIO()
    image.save(content, format="PNG", exif=image.info.get("exif", b""))
    return content.getvalue()


class Handler(http.server.SimpleHTTPRequestHandler):
    """The page's folder, with a model in its folder `model`, and the headers that the page's README asks for.

    Below /npm/ it also serves what the content delivery network would.
    """

    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | TYPES

    def __init__(self, *arguments, folders, **keywords):
        self.folders = folders  # prefix of the address → folder
        super().__init__(*arguments, directory=str(PAGE), **keywords)

    def translate_path(self, path):
        path = path.split("?")[0]
        for prefix, folder in self.folders.items():
            if path.startswith(prefix):
                return str(folder / path.removeprefix(prefix))
        return super().translate_path(path)

    def end_headers(self):
        if self.path.startswith("/npm/"):
            self.send_header("access-control-allow-origin", "*")
        for name, value in isolation_headers().items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *arguments):
        pass


def isolation_headers():
    """The `custom_headers` of the page's README."""
    header = (PAGE / "README.md").read_text().split("---")[1]
    return dict(re.findall(r"^  (cross-origin-[a-z-]+): (\S+)$", header, re.MULTILINE))


@pytest.fixture
def serve(packages):
    """Starts servers of the page with a model's folder; stops them in the end."""
    servers = []

    def start(model):
        folders = {"/model/": model, **{f"/npm/{prefix}": folder for prefix, folder in packages.items()}}
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, folders=folders))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()


class Visit:
    """A visit to the page: what it asked for, and what a person does there."""

    def __init__(self, chromium, url, **context):
        self.url, self.requests, self.errors = url, [], []
        self.context = chromium.new_context(**context)
        self.context.route(lambda address: not address.startswith(url), self.elsewhere)
        self.page = self.context.new_page()
        self.page.set_default_timeout(120_000)
        self.page.on("request", lambda request: self.requests.append(request))
        self.page.on("pageerror", lambda error: self.errors.append(error))
        self.page.goto(url)

    def elsewhere(self, route):
        """Leads from the content delivery network to the local copy; there is nothing else."""
        if not route.request.url.startswith(CDN):
            return route.abort()
        address = self.url + "npm/" + route.request.url.removeprefix(CDN)
        headers = {"location": address, "access-control-allow-origin": "*"}
        return route.fulfill(status=302, headers=headers | isolation_headers())

    def choose(self, image, name="photo.png", dtype=None):
        """Gives the page a photo, bytes or a file; returns what it says in the end."""
        if dtype is not None:
            self.page.select_option("#dtype", dtype)
        if isinstance(image, Image.Image):
            image = png(image)
        if isinstance(image, bytes):
            image = {"name": name, "mimeType": "image/png", "buffer": image}
        self.page.set_input_files("#photo", image)
        playwright.expect(self.status).to_have_text(re.compile(r"seconds$|\.$"), timeout=120_000)
        return self.status.inner_text()

    @property
    def status(self):
        return self.page.locator("#status")

    def label_map(self):
        with self.page.expect_download() as download:
            self.page.click("#download")
        return np.asarray(Image.open(download.value.path()).convert("L"))


@pytest.fixture
def visit(chromium, serve, model_folder):
    visits = []

    def start(model=model_folder / "onnx", **context):
        visits.append(Visit(chromium, serve(model), **context))
        return visits[-1]

    yield start
    for visit in visits:
        visit.context.close()
        assert visit.errors == []


def python_label_map(model_folder, image):
    return predict_label_map(load_model(model_folder), OffSegImageProcessor.from_pretrained(model_folder), image)


def onnx_label_map(model_folder, file, image):
    """What ONNX Runtime makes of a file in Python."""
    inputs = OffSegImageProcessor.from_pretrained(model_folder)(images=image, return_tensors="np")
    path = str(model_folder / "onnx" / "onnx" / file)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"pixel_values": inputs["pixel_values"]})
    return upsampled_label_map(torch.from_numpy(logits), (image.height, image.width))[0].numpy()


def share_of_equal(found, expected):
    assert found.shape == expected.shape and len(np.unique(expected)) > 1
    return (found == expected).mean()


def test_float32_label_map_is_pythons(visit, model_folder):
    page = visit()
    assert re.match(r"float32 model, 128×96 pixels, \d+\.\d\d seconds", page.choose(photo(), dtype="fp32"))
    assert share_of_equal(page.label_map(), python_label_map(model_folder, photo())) > 0.999


def test_int8_label_map_is_pythons_of_the_same_file(visit, model_folder):
    page = visit()
    assert page.choose(photo()).startswith("8-bit model, 128×96 pixels")
    expected = onnx_label_map(model_folder, "model_quantized.onnx", photo())
    assert share_of_equal(page.label_map(), expected) > 0.99


@pytest.mark.parametrize("size", [(512, 384), (64, 48)])
def test_a_photo_of_another_size_is_scaled_as_in_python(visit, model_folder, size):
    page = visit()
    page.choose(photo(size=size), dtype="fp32")
    assert share_of_equal(page.label_map(), python_label_map(model_folder, photo(size=size))) > 0.97


def test_a_photo_of_a_camera_held_upright_is_turned(visit, model_folder):
    turned = photo(size=(96, 128)).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.info["exif"] = exif.tobytes()
    page = visit()
    page.choose(turned, dtype="fp32")
    assert page.label_map().shape == (128, 96)
    assert share_of_equal(page.label_map(), python_label_map(model_folder, photo(size=(96, 128)))) > 0.97


def test_a_twelve_megapixel_photo_is_shown_smaller(visit):
    page = visit()
    page.choose(photo(size=(4000, 3000)))
    height, width = page.label_map().shape
    assert height * width <= 2.01e6 and abs(width / height - 4 / 3) < 0.01


def test_legend_tells_the_share_of_each_class(visit):
    page = visit()
    page.choose(photo())
    ids, counts = np.unique(page.label_map(), return_counts=True)
    shares = {NAMES[label_id]: f"{100 * count / counts.sum():.1f} %" for label_id, count in zip(ids, counts)}
    found = [text.rsplit(" ", 2) for text in page.page.locator("#legend li").all_inner_texts()]
    assert {name: f"{share} %" for name, share, _ in found} == shares


def test_opacity_blends_photo_and_classes(visit):
    page = visit()
    page.choose(photo())
    pixel = (
        "() => [...document.querySelector('#picture').getContext('2d').getImageData(10, 10, 1, 1).data].slice(0, 3)"
    )
    page.page.locator("#opacity").fill("0")
    assert page.page.evaluate(pixel) == list(photo().getpixel((10, 10)))
    page.page.locator("#opacity").fill("1")
    swatches = page.page.locator("#legend i").evaluate_all("all => all.map(each => each.style.background)")
    assert f"rgb({', '.join(map(str, page.page.evaluate(pixel)))})" in swatches


def test_a_file_that_is_no_photo_gets_a_message_and_the_next_photo_is_segmented(visit):
    page = visit()
    said = page.choose(b"Dear diary", name="notes.txt")
    assert said == "notes.txt is no image that this browser can read; choose a JPEG, PNG or WebP photo."
    assert page.page.locator("#result").is_hidden()
    assert page.choose(photo()).startswith("8-bit model")
    assert page.page.locator("#result").is_visible()


def test_a_file_that_is_too_large_is_not_read(visit, tmp_path):
    path = tmp_path / "photo.png"
    with path.open("wb") as file:
        file.truncate(50_000_001)
    said = visit().choose(path)
    assert said == "photo.png has more than 50 MB; choose a smaller photo."


def test_a_missing_file_of_the_model_is_named(visit, model_folder, tmp_path):
    shutil.copytree(model_folder / "onnx", tmp_path / "model")
    (tmp_path / "model" / "onnx" / "model_quantized.onnx").unlink()
    page = visit(tmp_path / "model")
    said = page.choose(photo())
    assert said.startswith("The 8-bit model model could not be loaded") and said.endswith("; try the other one.")
    page.page.select_option("#dtype", "fp32")
    playwright.expect(page.status).to_have_text(re.compile("^float32 model.*seconds$"), timeout=120_000)


def test_nothing_is_sent(visit):
    page = visit()
    page.choose(photo(0))
    asked = [request for request in page.requests if not request.url.startswith(("blob:", "data:"))]
    assert all(request.method == "GET" and request.post_data is None for request in asked)
    assert all(request.url.startswith((page.page.url, CDN)) for request in asked)
    page.requests.clear()
    page.choose(photo(1), name="other.png")
    assert [request.url for request in page.requests if not request.url.startswith(("blob:", "data:"))] == []


def test_several_threads_may_compute(visit):
    assert visit().page.evaluate("crossOriginIsolated")


def test_page_fits_a_phone(visit):
    page = visit(viewport={"width": 360, "height": 740})
    page.choose(photo(size=(1600, 1200)))
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 360


def test_transformers_js_takes_the_folder_for_its_pipeline(visit, model_folder):
    page = visit().page
    image = f"data:image/png;base64,{base64.b64encode(png(photo())).decode()}"
    script = """async (image) => {
        const { pipeline, env } = await import("@huggingface/transformers");
        Object.assign(env, { allowLocalModels: true, allowRemoteModels: false });
        env.localModelPath = "/";
        const segment = await pipeline("image-segmentation", "model");
        return (await segment(image)).map(({ label }) => label);
    }"""
    expected = {
        NAMES[label_id] for label_id in np.unique(onnx_label_map(model_folder, "model_quantized.onnx", photo()))
    }
    assert set(page.evaluate(script, image)) == expected
