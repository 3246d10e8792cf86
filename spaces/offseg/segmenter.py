"""Models of the Space: those that its operator names, loaded, and what they make of a photo."""

import logging
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from offsets import compute_offsets, find_offset_learning
from torch.nn import functional as F
from transformers import (
    MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    AutoModelForUniversalSegmentation,
)

with suppress(ImportError):
    import offseg_hf  # noqa: F401  where it is installed, its models need no code beside their weights

TINY_MODEL = Path(__file__).parent / "tiny-street-scenes"
TIME_LIMIT = 60  # seconds that a model may work on one photo


class Segmenter:
    """A model and its image processor, ready to segment photos one at a time.

    Args:
        source (`str` or `Path`): a folder, or a Hub id, perhaps with a revision: `"org/name@revision"`. Code that
            comes with the weights is run, so it must be a source that the Space's operator trusts.

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
        universal = type(config) in MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING
        universal = universal or "AutoModelForUniversalSegmentation" in getattr(config, "auto_map", {})
        auto_class = AutoModelForUniversalSegmentation if universal else AutoModelForSemanticSegmentation
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = auto_class.from_pretrained(source, config=config, dtype=torch.float32, **options)
        self.model = self.model.eval().requires_grad_(False).to(device)
        self.image_processor = AutoImageProcessor.from_pretrained(source, **options)
        self.layer = find_offset_learning(self.model)
        self._one_at_a_time = threading.Lock()
        self._deadline = None
        for module in self.model.modules():
            module.register_forward_pre_hook(self._check_deadline)

    @property
    def classes(self):
        """Names of the classes that the model knows, `list[str]`."""
        return [self.model.config.id2label[index] for index in range(self.model.config.num_labels)]

    @property
    def labels(self):
        """Names of the ids that are predicted, `dict[int, str]`."""
        if self.model.config.num_labels == 1:
            return {0: "background", 1: self.classes[0]}
        return dict(enumerate(self.classes))

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
        with self._one_at_a_time, torch.inference_mode():
            self._deadline = time.monotonic() + TIME_LIMIT
            return self._label_map(_class_scores(self._forward(photo)), (photo.height, photo.width))

    def look_inside(self, photo, size):
        """What the model's offset learning does for a photo.

        Args:
            photo (`PIL.Image.Image`): in RGB.
            size (`tuple[int, int]`): (height, width) of the label maps.

        Returns:
            `tuple[Offsets, dict[str, np.ndarray]]`: the numbers, on the CPU, and the label maps with both offsets, one
            or none, under the names that their logits have; `None` where the model has no such layer.

        Raises:
            TimeoutError: where it takes more than `TIME_LIMIT` seconds.
        """
        if self.layer is None:
            return None
        features = []
        with self._one_at_a_time, torch.inference_mode():
            self._deadline = time.monotonic() + TIME_LIMIT
            hook = self.layer.register_forward_pre_hook(lambda layer, inputs: features.append(inputs[0][0]))
            try:
                self._forward(photo)
            finally:
                hook.remove()
            offsets = compute_offsets(self.layer, features[-1])
            label_maps = {name: self._label_map(logits, size) for name, logits in offsets.logits.items()}
            numbers = [value.cpu() if isinstance(value, torch.Tensor) else {} for value in offsets]
            return type(offsets)(*numbers), label_maps

    def _forward(self, photo):
        pixel_values = self.image_processor(images=photo, return_tensors="pt")["pixel_values"]
        return self.model(pixel_values=pixel_values.to(self.model.device))

    def _label_map(self, scores, size):
        """Arg-max over classes of the scores (K, h, w) upsampled to `size`, never holding more than one class's."""
        dtype = torch.uint8 if len(scores) <= 256 else torch.int32
        labels = torch.zeros(size, dtype=dtype, device=scores.device)
        best = labels.new_full(size, 0 if len(scores) == 1 else -torch.inf, dtype=scores.dtype)
        for index in _possible_winners(scores):
            self._check_deadline()
            plane = F.interpolate(scores[None, index, None], size, mode="bilinear")[0, 0]
            labels.masked_fill_(plane > best, index if len(scores) > 1 else 1)
            torch.maximum(best, plane, out=best)
        return labels.cpu().numpy().astype(np.uint8 if len(scores) <= 256 else np.uint16)

    def _check_deadline(self, *_):
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise TimeoutError(f"This model took more than {TIME_LIMIT} seconds for this photo: send a smaller one.")


def _class_scores(outputs):
    """Scores (K, h, w) of a single image, whether pixels or masks were classified."""
    if "masks_queries_logits" not in outputs:
        return outputs.logits[0].float()
    # Every mask counts for a class as far as its query says so; the last class is "no object".
    classes = outputs.class_queries_logits[0].float().softmax(dim=1)[:, :-1]  # (Q, K)
    return torch.einsum("qk,qhw->khw", classes, outputs.masks_queries_logits[0].float().sigmoid())


def _possible_winners(scores):
    """The classes that may have the highest upsampled score (K, h, w) somewhere; of many classes, most have not."""
    # Upsampling mixes 2 × 2 neighbours: a class whose highest of them is below another's lowest cannot win there.
    scores = F.pad(scores, (0, 1, 0, 1), mode="replicate")
    highest, lowest = F.max_pool2d(scores, 2, 1), -F.max_pool2d(-scores, 2, 1)
    return (highest >= lowest.amax(dim=0)).flatten(1).any(dim=1).nonzero().flatten().tolist()


def load_segmenters(names):
    """The models that a Space offers: those that are named, then the tiny one that comes with it.

    Args:
        names (`str`): folders and Hub ids, separated by commas; those that cannot be loaded are logged and left out.

    Returns:
        `tuple[dict[str, Segmenter], list[str]]`: the models by the names to show, at least the tiny one, and the names
        of those left out.
    """
    segmenters, left_out = {}, []
    for source in filter(None, map(str.strip, names.split(","))):
        is_folder = Path(source).exists() or Path(source).is_absolute()
        shown = Path(source).resolve().name if is_folder else source  # the machine's folders are nobody's business
        shown = source if shown in segmenters else shown
        try:
            segmenters[shown] = Segmenter(source)
        except Exception as error:  # whatever code came with it: the Space goes on with its other models
            logging.getLogger(__name__).error("OFFSEG_MODELS: %s was left out: %s", source, error)
            left_out.append(shown)
    segmenters[TINY_MODEL.name] = Segmenter(TINY_MODEL)
    return segmenters, left_out
