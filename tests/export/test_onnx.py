"""What the exported files compute, what is written beside them, and what is refused."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    ConvNextV2Config,
    Data2VecVisionConfig,
    Mask2FormerImageProcessorPil,
    MobileViTConfig,
    SegformerConfig,
    Swinv2Config,
)

from offseg_hf import (
    OffSegBackboneConfig,
    OffSegConfig,
    OffSegEfficientFormerConfig,
    OffSegImageProcessor,
    OffSegMask2FormerConfig,
    OffSegSegNextConfig,
    OffsetLearningConfig,
)
from offseg_hf.export.onnx import OnnxNetwork, _largest_difference, _regret, export_onnx
from offseg_hf.model_types import auto_model_class, load_model

onnx = pytest.importorskip("onnx", reason="needs the extra `onnx`")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
pytest.importorskip("onnxscript", reason="needs the extra `onnx`")

FILES = ["onnx/model.onnx", "onnx/model_quantized.onnx", "onnx/model_fp16.onnx"]
SEGFORMER = {
    "hidden_sizes": (8, 8, 16, 16),
    "depths": (1, 1, 1, 1),
    "num_attention_heads": (1, 1, 2, 2),
    "decoder_hidden_size": 16,
}
LABELS = {
    "id2label": {0: "sky", 1: "road", 2: "car", 3: "tree"},
    "label2id": {"sky": 0, "road": 1, "car": 2, "tree": 3},
}


def write_model(folder, config, image_processor=None):
    """A model whose weights are all far from their start, so that its classes are many and decided."""
    torch.manual_seed(0)
    model = auto_model_class(config).from_config(config)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    (image_processor or OffSegImageProcessor(size={"height": 64, "width": 96})).save_pretrained(folder)
    return folder


def session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def files_below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "tiny", OffSegConfig(**SEGFORMER, **LABELS))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for index in range(4):
        blots = Image.fromarray(generator.integers(0, 256, (4, 6, 3), dtype=np.uint8))
        blots.resize((90 + 10 * index, 70), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def exported(model_folder, photos, tmp_path_factory):
    """The folder of an export with every file, and its report."""
    folder = tmp_path_factory.mktemp("exports") / "tiny-ONNX"
    return folder, export_onnx(model_folder, folder, int8=True, fp16=True, calibration_images=photos)


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (5, 3, 40, 200), (2, 3, 97, 33)])
def test_float32_file_gives_torchs_logits(exported, model_folder, shape):
    pixel_values = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = load_model(model_folder)(pixel_values).logits
    (found,) = session(exported[0] / "onnx/model.onnx").run(["logits"], {"pixel_values": pixel_values.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-4)


def test_input_and_output_are_named_and_any_size(exported):
    graph = onnx.load(str(exported[0] / "onnx/model.onnx")).graph
    (pixel_values,), (logits,) = graph.input, graph.output
    axes = [axis.dim_param or axis.dim_value for axis in pixel_values.type.tensor_type.shape.dim]
    assert (pixel_values.name, axes) == ("pixel_values", ["batch", 3, "height", "width"])
    assert logits.name == "logits" and logits.type.tensor_type.shape.dim[1].dim_value == 4


def test_int8_file_holds_eight_bit_weights_scaled_per_channel(exported):
    graph = onnx.load(str(exported[0] / "onnx/model_quantized.onnx")).graph
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = {name: tensor for name, tensor in tensors.items() if name.endswith("_quantized") and tensor.ndim == 4}
    assert len(weights) > 10 and all(tensor.dtype == np.int8 for tensor in weights.values())
    for name, tensor in weights.items():
        assert tensors[name.replace("_quantized", "_scale")].shape == (len(tensor),)


def test_int8_file_leaves_offset_learning_in_float32(exported):
    graph = onnx.load(str(exported[0] / "onnx/model_quantized.onnx")).graph
    producers = {output: node for node in graph.node for output in node.output}
    softmaxes = [node for node in graph.node if node.op_type == "Softmax"][-2:]  # over pixels and over classes
    inputs = {name for node in graph.node if set(node.input) & {s.output[0] for s in softmaxes} for name in node.input}
    assert len(softmaxes) == 2
    in_8_bits = [name for name in inputs if name in producers and producers[name].op_type == "DequantizeLinear"]
    assert not in_8_bits, (
        "torch may note the classes of nodes under another name than `CLASSES_OF_NODE` by now: print the "
        "`metadata_props` of a node before they are cleared, and correct it"
    )


def test_fp16_file_takes_and_gives_float32_with_weights_of_half_the_size(exported):
    fp16 = session(exported[0] / "onnx/model_fp16.onnx")
    assert [value.type for value in (*fp16.get_inputs(), *fp16.get_outputs())] == ["tensor(float)"] * 2
    sizes = {name: sum(t.ByteSize() for t in onnx.load(str(exported[0] / name)).graph.initializer) for name in FILES}
    assert sizes["onnx/model_fp16.onnx"] < 0.7 * sizes["onnx/model.onnx"]


@pytest.mark.parametrize(("file", "least"), [("onnx/model_quantized.onnx", 0.9), ("onnx/model_fp16.onnx", 0.99)])
def test_smaller_files_choose_the_same_classes(exported, file, least):
    pixel_values = np.random.default_rng(0).standard_normal((2, 3, 80, 120), dtype=np.float32)
    expected, found = (
        session(exported[0] / name).run(None, {"pixel_values": pixel_values})[0].argmax(1) for name in (FILES[0], file)
    )
    assert len(np.unique(expected)) > 1 and (found == expected).mean() >= least


def test_report_tells_size_and_difference_of_each_file(exported):
    folder, report = exported
    assert list(report) == FILES
    assert all(figures["megabytes"] == (folder / file).stat().st_size / 1e6 for file, figures in report.items())
    assert report[FILES[0]]["largest_difference"] < 1e-4
    assert 0.9 < report[FILES[1]]["agree"] <= 1 and 0.99 < report[FILES[2]]["agree"] <= 1


def test_folder_holds_what_transformers_js_reads(exported):
    folder = exported[0]
    assert files_below(folder) == {"config.json", "preprocessor_config.json", *FILES}
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "segformer" and config["id2label"]["2"] == "car" and config["label2id"]["car"] == 2
    assert config["transformers.js_config"] == {"dtype": "q8"}
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    assert processor["image_processor_type"] == "SegformerImageProcessor"
    assert processor["size"] == {"height": 64, "width": 96} and processor["image_mean"] == [0.485, 0.456, 0.406]


@pytest.mark.parametrize("file", FILES)
def test_files_tell_nothing_of_the_machine_that_wrote_them(exported, file):
    content = (exported[0] / file).read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in content and b"site-packages" not in content


def test_a_file_that_computes_something_else_is_refused(exported, model_folder):
    model = load_model(model_folder)
    model.decode_head.offset_learning.mask_norm.bias.data += 0.01
    with pytest.raises(
        ValueError, match=r"but for a batch of 1 images of 64×96 their logits differ by 1\.0e-02, more than"
    ):
        _largest_difference(OnnxNetwork(model, "logits"), exported[0] / FILES[0], None)


def test_a_label_map_differs_by_what_its_classes_lack_to_the_likeliest():
    logits = torch.tensor([[[[0.5, 2.0]], [[1.0, -1.0]]]])  # (1, 2, 1, 2)
    assert _regret(logits, torch.tensor([[[1, 0]]])).tolist() == [[[0.0, 0.0]]]
    assert _regret(logits, torch.tensor([[[0, 1]]])).tolist() == [[[0.5, 3.0]]]
    assert _regret(logits[:, :1] - 1, torch.tensor([[[1, 1]]])).tolist() == [[[0.5, 0.0]]]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"task": "panoptic"}, ValueError, "`task` must be one of logits, label_map, got 'panoptic'"),
        ({"int8": True}, ValueError, "`int8` needs photos to learn the ranges from; pass `calibration_images`"),
        ({"int8": True, "calibration_images": "nowhere"}, FileNotFoundError, "there is no nowhere"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(model_folder, tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        export_onnx(model_folder, tmp_path / "new" / "folder", **arguments)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_files_is_left_alone(model_folder, tmp_path):
    (tmp_path / "config.json").write_text("mine")
    with pytest.raises(FileExistsError, match="`output` must be a new or empty folder"):
        export_onnx(model_folder, tmp_path)
    assert files_below(tmp_path) == {"config.json"} and (tmp_path / "config.json").read_text() == "mine"


def test_missing_packages_are_named(model_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # as if it were not installed
    with pytest.raises(ImportError, match="packages that are missing here: onnxscript; `pip install 'offseg-hf"):
        export_onnx(model_folder, tmp_path / "new")


def test_a_model_that_needs_one_size_is_refused_with_the_remedy(tmp_path):
    vit = {"image_size": 64, "patch_size": 16, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
    pools = {"intermediate_size": 16, "out_indices": [0, 1, 2, 3], "pool_scales": [1, 2], "auxiliary_channels": 8}
    config = OffsetLearningConfig(Data2VecVisionConfig(**vit, **pools, **LABELS))
    folder = write_model(tmp_path / "model", config)
    with pytest.raises(
        ValueError, match=r"of type offset_learning cannot be \(.+\); try `size`, one height and width"
    ):
        export_onnx(folder, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.slow
def test_a_model_that_draws_random_numbers_at_every_call_is_refused(tmp_path):
    config = OffSegSegNextConfig(**FAMILIES["segnext"][1], resample_bases_in_evaluation=True, num_labels=4)
    folder = write_model(tmp_path / "model", config)
    with pytest.raises(ValueError, match="of type offseg_segnext cannot be"):
        export_onnx(folder, tmp_path / "new", size=(64, 96))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


SWIN = {
    "model_type": "swin",
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 4,
    "image_size": 64,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
MOBILEVIT = {
    "image_size": 64,
    "hidden_sizes": [12, 16, 20],
    "neck_hidden_sizes": [8, 8, 12, 16, 16, 16, 32],
    "num_attention_heads": 2,
    "aspp_out_channels": 16,
}
FAMILIES = {
    "segformer": (SegformerConfig, SEGFORMER),
    "wrapped segformer": (lambda **labels: OffsetLearningConfig(SegformerConfig(**SEGFORMER, **labels)), {}),
    "wrapped mobilevit": (lambda **labels: OffsetLearningConfig(MobileViTConfig(**MOBILEVIT, **labels)), {}),
    "backbone": (
        OffSegBackboneConfig,
        {
            "backbone_config": ConvNextV2Config(
                depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], out_features=["stage1", "stage2", "stage3", "stage4"]
            ),
            "decoder_hidden_size": 16,
        },
    ),
    "swin v2": (
        OffSegBackboneConfig,
        {
            "backbone_config": Swinv2Config(  # with shifted windows, of which a depth of 1 has none
                embed_dim=8, depths=[2] * 4, num_heads=[1, 1, 2, 2], window_size=4, out_features=SWIN["out_features"]
            ),
            "decoder_hidden_size": 16,
        },
    ),
    "segnext": (
        OffSegSegNextConfig,
        {
            "hidden_sizes": (8, 8, 16, 16),
            "depths": (1, 1, 1, 1),
            "mlp_ratios": (2, 2, 2, 2),
            "decoder_hidden_size": 16,
            "num_groups": 4,
            "nmf_rank": 4,
            "nmf_eval_steps": 3,
        },
    ),
    "efficientformer": (
        OffSegEfficientFormerConfig,
        {
            "hidden_sizes": (8, 8, 16, 16),
            "depths": (1, 1, 2, 2),
            "num_attention_blocks": 1,
            "mlp_ratios": ((2,), (2,), (2, 2), (2, 2)),
            "num_attention_heads": 2,
            "key_dim": 4,
            "value_dim": 8,
            "downsample_key_dim": 4,
            "downsample_value_dim": 8,
            "attention_grid_size": 2,
            "neck_hidden_sizes": (32, 32, 16, 16),
            "decoder_hidden_size": 16,
            "num_groups": 4,
        },
    ),
    "mask2former": (
        OffSegMask2FormerConfig,
        {
            "backbone_config": SWIN,
            "feature_size": 32,
            "mask_feature_size": 32,
            "hidden_dim": 32,
            "encoder_feedforward_dim": 16,
            "dim_feedforward": 16,
            "encoder_layers": 1,
            "decoder_layers": 3,
            "num_attention_heads": 2,
            "num_queries": 5,
        },
    ),
}


@pytest.mark.slow
def test_swin_v2_is_not_exported_for_any_size_and_the_remedy_is_named(tmp_path):
    config_class, fields = FAMILIES["swin v2"]
    folder = write_model(tmp_path / "model", config_class(**fields, **LABELS))
    with pytest.raises(ValueError, match=r"offseg_backbone cannot be \(.+\); try `size`, one height and width"):
        export_onnx(folder, tmp_path / "new")


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_exported(name, tmp_path):
    config_class, fields = FAMILIES[name]
    needs_one_size = name in ("wrapped mobilevit", "mask2former", "swin v2")
    image_processor = Mask2FormerImageProcessorPil(size={"height": 32, "width": 32}) if name == "mask2former" else None
    folder = write_model(tmp_path / "model", config_class(**fields, **LABELS), image_processor)
    size = (64, 96) if needs_one_size else None
    report = export_onnx(folder, tmp_path / "new", "label_map", size=size, fp16=True)
    assert report[FILES[0]]["largest_difference"] < 1e-3 and report[FILES[2]]["agree"] > 0.95
    pixel_values = np.random.default_rng(0).standard_normal((4, 3, *(size or (50, 88))), dtype=np.float32)
    (label_map,) = session(tmp_path / "new" / FILES[0]).run(["label_map"], {"pixel_values": pixel_values})
    assert label_map.shape == (4, *pixel_values.shape[2:]) and label_map.min() >= 0 and label_map.max() < 4
    if needs_one_size:
        processor = json.loads((tmp_path / "new" / "preprocessor_config.json").read_text())
        assert processor["size"] == {"height": 64, "width": 96}
