"""Efficient semantic segmentation with offset learning, to try on a photo.

python app.py
OFFSEG_MODELS=org/offseg-b0,org/offseg-t@v1,outputs/mine python app.py
"""

try:
    from spaces import GPU  # on ZeroGPU a GPU is lent for each call; this import must come before torch's
except ImportError:

    def GPU(function):  # noqa: N802
        """The function itself, elsewhere than on ZeroGPU."""
        return function


import base64
import ctypes
import html
import os
import tempfile
import time
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path

import gradio as gr
import numpy as np
import torch
from offset_pages import attention_page, comparison_page
from package_copies import default_palette, overlay
from pictures import MAX_BYTES, PhotoError, data_uri, fitted_size, label_picture, percent, read_photo
from PIL import Image
from segmenter import load_segmenters

HERE = Path(__file__).parent
VIEW_SIDE = 1200  # longest side in pixels of what the viewer shows; downloads have the photo's own size
OFFSETS_SIDE = 480  # the same for the pictures of the second tab
MAX_QUEUE = 32  # requests that may wait

TITLE = """
# OffSeg: offset learning for semantic segmentation

A class for every pixel of your photo, by small models that shift classes and pixels towards each other before they
compare them ([paper](https://arxiv.org/abs/2508.08811)).
"""
TINY_NOTE = (
    "*tiny-street-scenes* has 0.2 M parameters and was trained on drawn streets alone: try the examples with it."
)
PRIVACY = "Photos and results are deleted within an hour; no copies are kept."
IDEA = """A plain classifier compares the features E of each pixel with one fixed vector W for each class. Offset
learning first moves the classes by ΔW towards this photo and the pixels by ΔE towards the classes, both read from one
attention, A = E Wᵀ."""
NO_PHOTO = '<p class="empty">Drop a photo, or pick an example.</p>'
NO_OFFSETS = """<p class="empty">{} does not classify pixels by offset learning: either it has no such layer, or the
layer aligns masks, which do not stand for one class each. Choose another model to see its offsets.</p>"""


# Uploaded files reach `read_photo` unopened. This is set for the class, since Gradio makes components anew when an
# example is clicked; a class of our own would have it write a file of type hints into this folder.
gr.Image.preprocess = lambda component, payload: payload and payload.path


@contextmanager
def photo_errors_shown():
    """Shows the message of a `PhotoError` or `TimeoutError` on the page; of other errors Gradio shows none."""
    try:
        yield
    except (PhotoError, TimeoutError) as error:
        raise gr.Error(str(error), print_exception=False) from None


def build_demo():
    """The page, with the models that the environment variable `OFFSEG_MODELS` names and the tiny one of this folder.

    `OFFSEG_MODELS` holds folders or Hub ids, separated by commas, each perhaps with a revision
    (`org/name@revision`). Code that comes with the models is run.

    Returns:
        `gradio.Blocks`: to be launched with the arguments `LAUNCH`.
    """
    segmenters, left_out = load_segmenters(os.environ.get("OFFSEG_MODELS", ""))
    names = list(segmenters)

    # ZeroGPU runs these two functions in another process: arguments and results must be picklable (names, pictures,
    # arrays), and only Gradio's own errors keep their messages.
    @GPU
    def label_map(model, photo):
        with photo_errors_shown():
            return segmenters[model].segment(photo)

    @GPU
    def offsets(model, photo, size):
        with photo_errors_shown():
            return segmenters[model].analyze_offsets(photo, size)

    def segment(photo, model, opacity):
        """What the first tab shows: the viewer's value, the files to download and the report."""
        if photo is None:
            return None, None, None, None
        start = time.perf_counter()
        with photo_errors_shown():
            picture = read_photo(photo)
        labels = label_map(model, picture)
        seconds = time.perf_counter() - start
        id2label = segmenters[model].labels
        colours = default_palette(len(id2label))
        report = {
            "model": model,
            "width": picture.width,
            "height": picture.height,
            "seconds": round(seconds, 3),
            "classes": found_classes(labels, id2label),
        }
        folder = Path(tempfile.mkdtemp(dir=results_folder))
        label_picture(labels, colours).save(folder / "labels.png", compress_level=3)
        overlay(picture, labels, colours, opacity).save(folder / "overlay.png", compress_level=1)
        return viewer_value(picture, labels, colours, report), folder / "labels.png", folder / "overlay.png", report

    def segment_for_programs(photo, model, opacity):
        """Finds the class of every pixel of a photo.

        Returns two PNG files of the photo's size (a label map, whose pixel values are class ids, and an overlay) and
        a report: the classes found with their ids and shares, the photo's size and the seconds taken.
        """
        return segment(photo, model, opacity)[1:]

    def repaint(photo, labels, report, opacity):
        """The overlay's file at another opacity; `None` where the label map is not of this photo."""
        if not (photo and labels and report):
            return None
        with photo_errors_shown():
            picture = read_photo(photo)
        with Image.open(labels) as file:
            ids = np.asarray(file)
        if ids.shape != (picture.height, picture.width):
            return None
        folder = Path(tempfile.mkdtemp(dir=results_folder))
        colours = default_palette(len(segmenters[report["model"]].labels))
        overlay(picture, ids, colours, opacity).save(folder / "overlay.png", compress_level=1)
        return folder / "overlay.png"

    def show_offsets(photo, model, chosen):
        """What the second tab shows: a comparison, the choice of classes and the attention of the chosen one."""
        if photo is None:
            return NO_PHOTO, gr.Dropdown(choices=[], value=None), ""
        with photo_errors_shown():
            picture = read_photo(photo)
        small = picture.resize(fitted_size(picture.size, OFFSETS_SIDE), Image.Resampling.LANCZOS)
        analysis = offsets(model, picture, (small.height, small.width))
        if analysis is None:
            return NO_OFFSETS.format(html.escape(model)), gr.Dropdown(choices=[], value=None), ""
        numbers, label_maps = analysis
        classes = segmenters[model].classes
        if chosen not in classes:
            largest = np.bincount(label_maps["both"].ravel()).argmax()
            chosen = classes[min(largest, len(classes) - 1)]
        return (
            comparison_page(small, numbers, label_maps, classes),
            gr.Dropdown(choices=classes, value=chosen),
            attention_page(small, numbers, classes, chosen),
        )

    viewer = {name: (HERE / f"viewer.{name}").read_text() for name in ("html", "js")}
    note = f" Could not be loaded: {', '.join(left_out)}." if left_out else ""
    with gr.Blocks(title="OffSeg", analytics_enabled=False, delete_cache=(600, 3000)) as demo:
        gr.Markdown(TITLE, elem_id="title")
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                photo = gr.Image(label="Photo", type="filepath", height=300, elem_id="photo")
                model = gr.Dropdown(names, value=names[0], label="Model", elem_id="model")
                button = gr.Button("Segment", variant="primary", elem_id="segment")
                examples = gr.Examples(
                    [[str(path)] for path in sorted((HERE / "examples").glob("*.jpg"))], [photo], label="Examples"
                )
            with gr.Column(scale=7, min_width=300), gr.Tabs():
                with gr.Tab("Segmentation", elem_id="segmentation"):
                    view = gr.HTML(html_template=viewer["html"], js_on_load=viewer["js"], elem_id="viewer")
                    opacity = gr.Slider(0, 1, value=0.5, step=0.05, label="Opacity", elem_id="opacity")
                    with gr.Row(elem_id="downloads"):
                        label_file = gr.DownloadButton("Label map (PNG of class ids)", elem_id="label-map")
                        overlay_file = gr.DownloadButton("Overlay (PNG)", elem_id="overlay")
                    report = gr.JSON(visible=False, label="Report")
                with gr.Tab("Offset learning", elem_id="offsets"):
                    gr.Markdown(IDEA)
                    comparison = gr.HTML(NO_PHOTO)
                    chosen = gr.Dropdown([], label="Class whose attention is shown", elem_id="chosen")
                    attention = gr.HTML()
        gr.Markdown(f"{TINY_NOTE} {PRIVACY}{note}", elem_id="note")

        results_folder = Path(view.GRADIO_CACHE, "results")  # Gradio serves files from there, and deletes old ones
        results_folder.mkdir(parents=True, exist_ok=True)
        queued = {"concurrency_id": "model", "concurrency_limit": 1}  # one photo at a time
        inputs, outputs = [photo, model, opacity], [view, label_file, overlay_file, report]
        offset_outputs = [comparison, chosen, attention]
        # Before the other events: those named after the same function would otherwise get the endpoint's name.
        gr.Button(visible=False).click(segment_for_programs, inputs, outputs[1:], api_name="segment", **queued)
        latest = {"api_visibility": "private", "trigger_mode": "always_last"}
        # photo.change would come twice where one photo replaces another.
        for event in (photo.input, examples.load_input_event.success, model.change, button.click):
            segmented = event(segment, inputs, outputs, show_progress_on=view, **latest, **queued)
            segmented.success(show_offsets, [photo, model, chosen], offset_outputs, api_visibility="private", **queued)
            # So that no old result is left beside a new photo.
            segmented.failure(lambda: [None] * len(outputs), None, outputs, api_visibility="private")
        chosen.input(show_offsets, [photo, model, chosen], offset_outputs, **latest, **queued)
        # The page follows the slider at once; the file to download is made when the slider is released.
        opacity.change(None, opacity, js="(value) => document.body.style.setProperty('--overlay-opacity', value)")
        opacity.release(repaint, [photo, label_file, report, opacity], overlay_file, api_visibility="private")
    return demo.queue(max_size=MAX_QUEUE)


def found_classes(labels, id2label):
    """The classes of a label map, the most frequent first: their ids, names and shares of all pixels, from 0 to 1."""
    counts = np.bincount(labels.ravel())
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    return [{"id": int(index), "label": id2label[index], "share": counts[index] / labels.size} for index in order]


def viewer_value(photo, labels, colours, report):
    """What viewer.js shows: photo and label map, scaled down to a screen's size, with names, colours and shares."""
    size = fitted_size(photo.size, VIEW_SIDE)
    ids = np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))
    device = "GPU" if torch.cuda.is_available() else "CPU"
    return {
        "photo": data_uri(photo.resize(size, Image.Resampling.LANCZOS), "jpeg"),
        "width": size[0],
        "height": size[1],
        "ids": base64.b64encode(zlib.compress(ids.tobytes())).decode(),
        "wide": labels.dtype != np.uint8,
        "caption": f"{report['width']} × {report['height']} pixels in {report['seconds']:.2f} s on a {device}",
        "classes": [
            {
                "id": found["id"],
                "name": found["label"],
                "colour": colours[found["id"]].tolist(),
                "percent": percent(found["share"]),
            }
            for found in report["classes"]
        ],
    }


FONTS = ["system-ui", "sans-serif"]  # those of the machine: nothing is fetched from elsewhere
LAUNCH = {
    "max_file_size": MAX_BYTES,
    "max_threads": 4,  # each thread keeps memory that it has used
    "run_history": False,
    "footer_links": ["api", "gradio", "settings"],
    "ssr_mode": False,
    "theme": gr.themes.Soft(primary_hue="teal", font=FONTS, font_mono=["ui-monospace", "monospace"]),
    "css_paths": HERE / "style.css",
}


def return_freed_memory():
    """Has the C library return freed memory to the system, instead of keeping it in a heap for each thread."""
    with suppress(OSError, AttributeError):  # elsewhere than on Linux
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(-8, 2)  # M_ARENA_MAX
        library.mallopt(-3, 128 * 1024)  # M_MMAP_THRESHOLD


def limit_threads():
    """Has torch start no more threads than its container has cores; it counts all cores of the machine."""
    with suppress(OSError, ValueError):  # elsewhere than in a container, or "max", for no limit
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        torch.set_num_threads(max(1, min(torch.get_num_threads(), int(quota) // int(period))))


if __name__ == "__main__":
    return_freed_memory()
    limit_threads()
    build_demo().launch(**LAUNCH)
