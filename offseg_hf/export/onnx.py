"""ONNX files of segmentation models, checked where they are made, in a folder that transformers.js loads too."""

import contextlib
import importlib.util
import logging
import os
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoImageProcessor

from offseg_hf.files import check_output, whole_folder, write_json
from offseg_hf.model_types import load_model, loading_errors
from offseg_hf.models.image_processing_offseg import read_image
from offseg_hf.prediction.photos import find_images
from offseg_hf.prediction.scores import class_scores, most_likely

TASKS = ("logits", "label_map")
# What transformers.js calls the files: float32, 8-bit integers, float16.
FLOAT32_FILE, INT8_FILE, FLOAT16_FILE = "onnx/model.onnx", "onnx/model_quantized.onnx", "onnx/model_fp16.onnx"
CHECKED_SIZES = ((1, 64, 96), (2, 96, 64), (3, 101, 75), (1, 160, 224))  # batch, height, width
TOLERANCE = 1e-4
# Parts whose values leave the range of float16, or of 8 bits: a softmax over thousands of pixels.
FLOAT32_PARTS = ("OffsetLearning", "NonNegativeMatrixFactorization")
# Where torch's exporter notes of each node the classes of the modules that it belongs to; not documented.
CLASSES_OF_NODE = "pkg.torch.onnx.class_hierarchy"


class OnnxNetwork(nn.Module):
    """A segmentation model as ONNX computes it: one input, one output.

    Args:
        model (`transformers.PreTrainedModel`): a model that classifies pixels or masks, in evaluation mode.
        task (`str`): `"logits"` or `"label_map"`, see [`export_onnx`].
    """

    def __init__(self, model: nn.Module, task: str):
        super().__init__()
        self.model = model
        self.task = task

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """Segments a batch of images.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, 3, height, width)`): normalised images.

        Returns:
            `dict[str, torch.Tensor]`: `logits` of shape `(batch_size, num_labels, height', width')`, or `label_map` of
            shape `(batch_size, height, width)`.
        """
        logits = class_scores(self.model(pixel_values=pixel_values))
        if self.task == "logits":
            return {"logits": logits}
        return {"label_map": most_likely(F.interpolate(logits, size=pixel_values.shape[2:], mode="bilinear"))}


def export_onnx(
    model_name_or_path: str | os.PathLike,
    output: str | os.PathLike,
    task: str = "logits",
    *,
    size: tuple[int, int] | None = None,
    int8: bool = False,
    fp16: bool = False,
    calibration_images: str | os.PathLike | None = None,
    trust_remote_code: bool = False,
) -> dict[str, dict[str, float]]:
    """Writes a model as ONNX, for batches of any size and images of any or one size, and compares it with torch.

    The folder holds `onnx/model.onnx`, `config.json` and `preprocessor_config.json` as transformers.js reads them (as
    a SegFormer with an image processor of its kind). It appears whole or not at all, and only after ONNX Runtime gave
    the same as torch for several sizes and batches, to 1e-4 of the largest logit, or of 1 where none is larger.

    Args:
        model_name_or_path (`str` or `os.PathLike`): the model's folder or Hub id, its image processor included.
        output (`str` or `os.PathLike`): the folder to write, new or empty.
        task (`str`, *optional*, defaults to `"logits"`): what the file puts out. `"logits"`, as the model gives them,
            float32 of shape (batch, classes, height', width'); of a model that classifies masks,
            [`~offseg_hf.models.modeling_offseg_mask2former.semantic_scores`]. Or `"label_map"`, the class ids of every
            pixel of the input, int64 of shape (batch, height, width).
        size (`tuple[int, int]`, *optional*): height and width of all images, for models that cannot be exported for
            any size, since torch's exporter takes sizes inside them for constant.
        int8 (`bool`, *optional*, defaults to `False`): whether to add `onnx/model_quantized.onnx`, whose convolutions
            and linear layers compute in 8 bits, scaled per channel.
        fp16 (`bool`, *optional*, defaults to `False`): whether to add `onnx/model_fp16.onnx`, of half the size.
        calibration_images (`str` or `os.PathLike`, *optional*): a photo or a folder of photos like those to come, from
            which `int8` learns the ranges of its numbers; 32 or more are best.
        trust_remote_code (`bool`, *optional*, defaults to `False`): whether to run code that comes with the weights.

    Returns:
        `dict[str, dict[str, float]]`: for each file its `megabytes`, and what it differs by from torch:
        `largest_difference` of the logits (of those that a label map chose) for the float32 file, for the others the
        share of pixels on which their label maps `agree` with the float32 file's, on the calibration images or, where
        there are none, on noise.

    Raises:
        FileExistsError: where `output` is a file or a folder that is not empty.
        FileNotFoundError: where there is no model, or no photo.
        ImportError: where a package of the extra `onnx` is missing.
        ValueError: where `task` is unknown, `int8` lacks photos, or the model cannot be exported.
    """
    output = Path(output).resolve()
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise FileExistsError(f"`output` must be a new or empty folder, got {output}; name another.")
    check_output(output)
    if task not in TASKS:
        raise ValueError(f"`task` must be one of {', '.join(TASKS)}, got {task!r}; choose one.")
    if int8 and calibration_images is None:
        raise ValueError("`int8` needs photos to learn the ranges from; pass `calibration_images`, a folder of them.")
    photos = [] if calibration_images is None else find_images(calibration_images, "calibration_images")[0]
    _check_packages()

    fixed = {} if size is None else {"size": {"height": size[0], "width": size[1]}}
    with loading_errors(model_name_or_path, "model_name_or_path"):
        image_processor = AutoImageProcessor.from_pretrained(
            model_name_or_path, trust_remote_code=trust_remote_code, **fixed
        )
        model = load_model(model_name_or_path, trust_remote_code).float().eval()
    network = OnnxNetwork(model, task)
    inputs = _Photos(photos, image_processor, size)
    with whole_folder(output) as folder:
        (folder / "onnx").mkdir()
        float32_parts = _write_float32(network, folder / FLOAT32_FILE, size)
        report = {FLOAT32_FILE: {"largest_difference": _largest_difference(network, folder / FLOAT32_FILE, size)}}
        if int8:
            _write_int8(folder / FLOAT32_FILE, folder / INT8_FILE, float32_parts, inputs)
        if fp16:
            _write_fp16(folder / FLOAT32_FILE, folder / FLOAT16_FILE, float32_parts)
        for file in (INT8_FILE, FLOAT16_FILE):
            if (folder / file).exists():
                report[file] = {"agree": _agreement(folder / file, folder / FLOAT32_FILE, inputs)}
        for file, figures in report.items():
            figures["megabytes"] = (folder / file).stat().st_size / 1e6
        _write_configs(folder, model.config, image_processor, "q8" if int8 else "fp32")
    return report


class _Photos:
    """The model's inputs of photos, one at a time; noise where there are none."""

    def __init__(self, photos, image_processor, size):
        self.photos, self.image_processor, self.size = photos, image_processor, size
        self.max_value = getattr(image_processor, "max_value", None)

    def __iter__(self):
        for photo in self.photos:
            inputs = self.image_processor(images=read_image(photo, max_value=self.max_value), return_tensors="np")
            yield {"pixel_values": inputs["pixel_values"]}
        if not self.photos:
            noise = torch.randn(1, 3, *(self.size or CHECKED_SIZES[-1][1:]), generator=torch.Generator())
            yield {"pixel_values": noise.numpy()}


def _check_packages():
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"`export_onnx` needs packages that are missing here: {', '.join(missing)}; "
            "`pip install 'offseg-hf[onnx]'`."
        )


def _write_float32(network, path, size):
    """Traces and saves the model; returns the names of the nodes that must stay in float32."""
    import onnx_ir
    from transformers.exporters import OnnxConfig, OnnxExporter

    example = torch.randn(2, 3, *(size or (96, 128)))  # a batch of 1 would be taken for a constant
    free = dict.fromkeys((0, 2, 3) if size is None else (0,), torch.export.Dim.DYNAMIC)
    try:
        with _silence(), torch.no_grad():
            exported = OnnxExporter().export(
                network, {"pixel_values": example}, OnnxConfig(dynamic_shapes={"pixel_values": free})
            )
    except Exception as error:  # torch's exporter raises many kinds
        raise _not_exportable(network.model, size, error) from error
    graph = exported.program.graph
    graph.inputs[0].shape = onnx_ir.Shape(["batch", 3, *(size or ("height", "width"))])
    float32_parts = []
    for node in graph.all_nodes():
        if any(f"{name}'" in node.metadata_props.get(CLASSES_OF_NODE, "") for name in FLOAT32_PARTS):
            float32_parts.append(node.name)
        node.metadata_props.clear()  # stack traces, with the paths of this machine
    onnx_ir.save(exported.program, str(path))
    return float32_parts


def _not_exportable(model, size, error):
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    sizes, remedy = ("this", "") if size else ("any", "; try `size`, one height and width for all images")
    return ValueError(
        f"`model_name_or_path` must be a model that can be exported for {sizes} image size, but one of type "
        f"{model.config.model_type} cannot be ({reason}){remedy}."
    )


def _session(path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@torch.inference_mode()
def _largest_difference(network, path, size):
    """The largest difference between ONNX Runtime and torch; raises where it is too large."""
    session = _session(path)
    generator = torch.Generator().manual_seed(0)
    logits_network = OnnxNetwork(network.model, "logits")
    largest = 0.0
    for batch_size, height, width in CHECKED_SIZES if size is None else ((1, *size), (3, *size)):
        pixel_values = torch.randn(batch_size, 3, height, width, generator=generator)
        expected = logits_network(pixel_values)["logits"]
        try:
            found = torch.from_numpy(session.run(None, {"pixel_values": pixel_values.numpy()})[0])
        except Exception as error:  # ONNX Runtime's own kinds
            raise _not_exportable(network.model, size, error) from error
        if network.task == "label_map":
            expected = F.interpolate(expected, size=(height, width), mode="bilinear")
            difference = _regret(expected, found)
        else:
            difference = (found - expected).abs()
        difference = difference.max().item()
        allowed = TOLERANCE * max(1.0, expected.abs().max().item())
        if not difference <= allowed:  # NaN must not pass
            raise ValueError(
                f"`model_name_or_path` must be a model that ONNX Runtime computes as torch does, but for a batch of "
                f"{batch_size} images of {height}×{width} their logits differ by {difference:.1e}, more than "
                f"{allowed:.1e}; nothing was written."
            )
        largest = max(largest, difference)
    return largest


def _regret(logits, label_map):
    """By how much the logit of the class that a label map has is less than the largest one, at every pixel."""
    if logits.shape[1] == 1:
        return logits[:, 0].abs() * (most_likely(logits) != label_map)
    return logits.amax(dim=1) - logits.gather(1, label_map[:, None])[:, 0]


def _write_int8(source, target, float32_parts, inputs):
    """Static quantisation of convolutions and linear layers: ONNX Runtime's, in its QDQ format."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.inputs = iter(inputs)

        def get_next(self):
            return next(self.inputs, None)

    with _silence():
        folded = source.with_suffix(".folded")  # constants, above all the weights that the graph splits
        quant_pre_process(str(source), str(folded), skip_symbolic_shape=True)
        quantize_static(
            str(folded),
            str(target),
            Reader(),
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            nodes_to_exclude=float32_parts,
            extra_options={"MatMulConstBOnly": True},  # not the products of queries with keys and values
        )
        folded.unlink()


def _write_fp16(source, target, float32_parts):
    """Weights and arithmetic in float16; input and output stay in float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with _silence():
        model = convert_float_to_float16(onnx.load(str(source)), keep_io_types=True, node_block_list=float32_parts)
        onnx.save(model, str(target))


def _agreement(path, reference, inputs):
    """The share of the pixels on which two files choose the same class."""
    session, reference = _session(path), _session(reference)
    equal = total = 0
    for feed in inputs:
        maps = []
        for each in (session, reference):
            found = torch.from_numpy(each.run(None, feed)[0])
            maps.append(found if found.ndim == 3 else most_likely(found))
        equal += (maps[0] == maps[1]).sum().item()
        total += maps[0].numel()
    return equal / total


def _write_configs(folder, config, image_processor, dtype):
    """The two files from which transformers.js learns the model's kind, its classes and how photos are prepared."""
    model_config = {
        "architectures": ["SegformerForSemanticSegmentation"],
        "model_type": "segformer",
        "id2label": {str(label_id): label for label_id, label in config.id2label.items()},
        "label2id": {label: label_id for label_id, label in config.id2label.items()},
        "transformers.js_config": {"dtype": dtype},
    }
    processor_config = {**image_processor.to_dict(), "image_processor_type": "SegformerImageProcessor"}
    write_json(folder / "config.json", model_config)
    write_json(folder / "preprocessor_config.json", processor_config)


@contextlib.contextmanager
def _silence():
    """Exporter and quantiser report their progress and what they do not find; errors are raised all the same."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
