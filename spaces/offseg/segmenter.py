"""The Space's models: loaded from folders and the Hub, and applied to photos, within a time limit."""

import logging
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from offsets import compute_offsets, find_offset_learning
from package_copies import auto_model_class, predicted_labels, semantic_scores, upsampled_label_map
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoImageProcessor

with suppress(ImportError):
    import offseg_hf  # noqa: F401  where it is installed, models need not come with their code

TINY_MODEL = Path(__file__).parent / "tiny-street-scenes"
TIME_LIMIT = 60  # seconds for one photo


class Deadline(TorchFunctionMode):
    """Stops what runs in a `with` block at its first call of a torch function after the time limit.

    Hooks could do that too, but a model with hooks in its head gives up the faster way to compute it on a CPU.

    Args:
        seconds (`float`): the limit, from the construction on.

    Raises:
        TimeoutError: inside the block, when the time is over.
    """

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds
        self.end = time.monotonic() + seconds

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if time.monotonic() > self.end:
            raise TimeoutError(f"This model took more than {self.seconds} seconds for this photo: send a smaller one.")
        return function(*args, **(kwargs or {}))


class Segmenter:
    """A model and its image processor, to segment photos, one at a time.

    Args:
        source (`str` or `Path`): a folder, or a Hub id, perhaps with a revision: `"org/name@revision"`. Code that
            comes with the weights is run, so name none that is not trusted.

    Raises:
        OSError, ValueError, ImportError: where there is none, or transformers cannot load it.
    """

    def __init__(self, source):
        revision = {}
        if not Path(source).exists():
            source, at, name = str(source).partition("@")
            revision = {"revision": name} if at else {}
        options = {"trust_remote_code": True, **revision}
        config = AutoConfig.from_pretrained(source, **options)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = auto_model_class(config).from_pretrained(source, config=config, dtype=torch.float32, **options)
        self.model = self.model.eval().requires_grad_(False).to(device)
        self.image_processor = AutoImageProcessor.from_pretrained(source, **options)
        self.layer = find_offset_learning(self.model)
        self._lock = threading.Lock()

    @property
    def classes(self):
        """Names of the model's classes, `list[str]`."""
        return [self.model.config.id2label[index] for index in range(self.model.config.num_labels)]

    @property
    def labels(self):
        """Names of the class ids in label maps, `dict[int, str]`: with a single class, 0 is the background."""
        return predicted_labels(self.model.config)

    def segment(self, photo):
        """The class of every pixel.

        Args:
            photo (`PIL.Image.Image`): in RGB.

        Returns:
            `np.ndarray`: class ids of shape (height, width), the photo's size, `uint8` for up to 256 classes, else
            `uint16`.

        Raises:
            TimeoutError: where it takes more than `TIME_LIMIT` seconds.
        """
        with self._computing():
            outputs = self._forward(photo)
            if "class_queries_logits" in outputs:  # masks were classified, not pixels
                scores = semantic_scores(outputs.class_queries_logits, outputs.masks_queries_logits)
            else:
                scores = outputs.logits.float()
            return self._label_map(scores, (photo.height, photo.width))

    def analyze_offsets(self, photo, size):
        """What the model's offset learning does for a photo.

        Args:
            photo (`PIL.Image.Image`): in RGB.
            size (`tuple[int, int]`): (height, width) of the label maps.

        Returns:
            `tuple[Offsets, dict[str, np.ndarray]]`: the offsets' sizes and attentions, on the CPU, with `logits` left
            empty; and the label maps of these logits, under the same keys. `None` where the model has no such layer.

        Raises:
            TimeoutError: where it takes more than `TIME_LIMIT` seconds.
        """
        if self.layer is None:
            return None
        features = []
        with self._computing():
            hook = self.layer.register_forward_pre_hook(lambda layer, inputs: features.append(inputs[0][0]))
            try:
                self._forward(photo)
            finally:
                hook.remove()
            offsets = compute_offsets(self.layer, features[-1])
            label_maps = {name: self._label_map(logits[None], size) for name, logits in offsets.logits.items()}
            values = [value.cpu() if isinstance(value, torch.Tensor) else {} for value in offsets]
            return type(offsets)(*values), label_maps

    @contextmanager
    def _computing(self):
        """One photo at a time, without gradients, and no longer than `TIME_LIMIT`."""
        with self._lock, torch.inference_mode(), Deadline(TIME_LIMIT):
            yield

    def _forward(self, photo):
        pixel_values = self.image_processor(images=photo, return_tensors="pt")["pixel_values"]
        return self.model(pixel_values=pixel_values.to(self.model.device))

    def _label_map(self, scores, size):
        """The label map (height, width) of scores (1, K, h, w), in as few bits as hold the ids."""
        labels = upsampled_label_map(scores, size)[0]
        return labels.cpu().numpy().astype(np.uint8 if scores.shape[1] <= 256 else np.uint16)


def load_segmenters(names):
    """The models that the page offers: those that are named, then the tiny one of this folder.

    Args:
        names (`str`): folders and Hub ids, separated by commas; those that cannot be loaded are logged and left out.

    Returns:
        `tuple[dict[str, Segmenter], list[str]]`: the models by the names that the page shows, at least the tiny one,
        and the names of those left out.
    """
    segmenters, left_out = {}, []
    for source in filter(None, map(str.strip, names.split(","))):
        is_folder = Path(source).exists() or Path(source).is_absolute()
        shown = Path(source).resolve().name if is_folder else source  # without the machine's folders
        shown = source if shown in segmenters else shown
        try:
            segmenters[shown] = Segmenter(source)
        except Exception as error:  # of any kind, from the model's own code
            logging.getLogger(__name__).error("OFFSEG_MODELS: %s was left out: %s", source, error)
            left_out.append(shown)
    segmenters[TINY_MODEL.name] = Segmenter(TINY_MODEL)
    return segmenters, left_out
