"""The Space's models: loaded from folders and the Hub, and applied to photos, within a time limit."""

import logging
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from offsets import compute_offsets, find_offset_learning
from package_copies import auto_model_class, label_maps, predicted_labels
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoImageProcessor

with suppress(ImportError):
    import offseg_hf  # noqa: F401  where it is installed, models need not come with their code

TINY_MODEL = Path(__file__).parent / "tiny-street-scenes"
TIME_LIMIT = 60  # seconds for one photo


class Deadline:
    """A time limit for what one thread computes. It leaves models as they are.

    Hooks of a model's own would do too, but one with hooks in its head gives up the faster way to compute it on a CPU.

    Args:
        seconds (`float`): the limit, from now on.
    """

    def __init__(self, seconds):
        self.seconds = seconds
        self.end = time.monotonic() + seconds

    def check(self):
        """Raises a `TimeoutError` when the time is over."""
        if time.monotonic() > self.end:
            raise TimeoutError(f"This model took more than {self.seconds} seconds for this photo: send a smaller one.")

    @contextmanager
    def checked_by_modules(self):
        """Checks, in a `with` block, before each module is called: for models, which have no long steps."""
        thread = threading.get_ident()

        def check(module, inputs):
            if threading.get_ident() == thread:  # the hook sees those of all threads
                self.check()

        hook = register_module_forward_pre_hook(check)
        try:
            yield
        finally:
            hook.remove()

    def checked_by_functions(self):
        """Checks, in a `with` block, before each torch function: for work that no module does."""
        return _CheckedFunctions(self)


class _CheckedFunctions(TorchFunctionMode):
    def __init__(self, deadline):
        super().__init__()
        self.deadline = deadline

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.deadline.check()
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
        with self._computing() as deadline:
            return self._label_map(self._forward(photo, deadline), (photo.height, photo.width), deadline)

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
        with self._computing() as deadline:
            hook = self.layer.register_forward_pre_hook(lambda layer, inputs: features.append(inputs[0][0]))
            try:
                self._forward(photo, deadline)
            finally:
                hook.remove()
            with deadline.checked_by_functions():
                offsets = compute_offsets(self.layer, features[-1])
            label_maps = {
                name: self._label_map(logits[None], size, deadline) for name, logits in offsets.logits.items()
            }
            values = [value.cpu() if isinstance(value, torch.Tensor) else {} for value in offsets]
            return type(offsets)(*values), label_maps

    @contextmanager
    def _computing(self):
        """One photo at a time, without gradients; gives the deadline."""
        with self._lock, torch.inference_mode():
            yield Deadline(TIME_LIMIT)

    def _forward(self, photo, deadline):
        pixel_values = self.image_processor(images=photo, return_tensors="pt")["pixel_values"]
        with deadline.checked_by_modules():
            return self.model(pixel_values=pixel_values.to(self.model.device))

    def _label_map(self, outputs, size, deadline):
        """The label map (height, width) of outputs, or of logits (1, K, h, w), in as few bits as hold the ids."""
        with deadline.checked_by_functions():
            labels = label_maps(outputs, size)[0]
        return labels.cpu().numpy().astype(np.uint8 if self.model.config.num_labels <= 256 else np.uint16)


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
