"""The comparison of last layers: what is put in the place of offset learning, the runs, the report."""

import json

import pytest
import torch
from compare_last_layers import LAST_LAYERS, differences, draw_differences, interval, main, replace_last_layer, report
from scipy import stats
from transformers import ResNetConfig, ResNetModel

from offseg_hf import OffSegConfig, OffSegImageProcessor
from offseg_hf.data.scenes.scenes import SCENE_LABELS, write_scenes
from offseg_hf.models.decode_head import OffSegDecodeHead

WIDTHS = (8, 8, 16, 16)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny encoder and a few drawn scenes."""
    folder = tmp_path_factory.mktemp("comparison")
    config = ResNetConfig(embedding_size=8, hidden_sizes=list(WIDTHS), depths=[1, 1, 1, 1])
    ResNetModel(config).save_pretrained(folder / "encoder")
    OffSegImageProcessor().save_pretrained(folder / "encoder")
    write_scenes(folder / "scenes", num_train=10, num_validation=2, size=(64, 96), num_shards=1)
    return folder


def arguments(folders, output, *more):
    return [
        "--encoder", str(folders / "encoder"), "--dataset", str(folders / "scenes"),
        "--labels", ",".join(SCENE_LABELS), "--max_steps", "2", "--size", "96", "64", "--seeds", "0",
        "--output", str(output), *more,
    ]  # fmt: skip


@pytest.mark.parametrize("more", [(), ("--finest_stride", "8"), ("--fine_tune",), ("--merge", "road,sky")])
def test_runs_are_written_and_not_repeated(folders, tmp_path, more, capsys):
    main(arguments(folders, tmp_path, *more))
    runs = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.json"))]
    assert [run["last_layer"] for run in runs] == ["conv1x1", "offset_learning"]
    assert all(0 <= run["mean_iou"] <= 1 for run in runs)
    assert len(runs[0]["iou"]) == (2 if "--merge" in more else len(SCENE_LABELS))
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    main(arguments(folders, tmp_path, *more))
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    capsys.readouterr()
    main(["--report", str(tmp_path)])
    assert "| offset_learning |" in capsys.readouterr().out


def test_error_when_runs_of_other_settings_or_unknown_classes_are_asked_for(folders, tmp_path, capsys):
    main(arguments(folders, tmp_path, "--last_layers", "conv1x1"))
    with pytest.raises(SystemExit):
        main(arguments(folders, tmp_path, "--last_layers", "conv1x1", "--learning_rate", "1e-3"))
    assert "`--output` must hold runs of these settings, and" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(arguments(folders, tmp_path, "--merge", "raod,sky"))
    assert "`--merge` must have names of --labels, each once, got raod,sky" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_run(folders, tmp_path):
    for name in ("first", "second"):
        main(arguments(folders, tmp_path / name, "--last_layers", "offset_learning"))
    first, second = (json.loads(next((tmp_path / name).glob("*.json")).read_text()) for name in ("first", "second"))
    assert first["iou"] == second["iou"]


@pytest.mark.parametrize("name", LAST_LAYERS)
def test_last_layers_are_what_they_are_called(name):
    fields = LAST_LAYERS[name]
    head = OffSegDecodeHead(
        OffSegConfig(
            num_labels=5, decoder_hidden_size=32, hidden_sizes=WIDTHS, num_attention_heads=(1, 1, 2, 2), **fields
        )
    )
    offset_learning = head.offset_learning
    size = sum(parameter.numel() for parameter in offset_learning.parameters())
    replace_last_layer(head, name, 5)
    layer = head.offset_learning
    features = torch.randn(2, 32, 4, 6)
    assert layer(features).shape == (2, 5, 4, 6)
    if name.startswith("conv1x1"):
        assert type(layer) is torch.nn.Conv2d
    elif name == "mlp":
        assert sum(parameter.numel() for parameter in layer.parameters()) == size
    else:
        moved = [projection.weight.requires_grad for projection in (layer.cls_offset_proj, layer.feat_offset_proj)]
        expected = {"class_offset": [True, False], "feature_offset": [False, True], "no_offset": [False, False]}
        assert moved == expected.get(name, [True, True])
    if name == "no_offset":
        plain = torch.nn.functional.conv2d(features, layer.cls_repr[0, :, :, None, None], layer.mask_norm.bias)
        torch.testing.assert_close(layer(features), plain)


def test_differences_are_paired_by_seed_and_have_students_interval():
    first = {0: {"mean_iou": 0.5}, 1: {"mean_iou": 0.6}, 2: {"mean_iou": 0.7}}
    second = {0: {"mean_iou": 0.51}, 1: {"mean_iou": 0.63}, 3: {"mean_iou": 0.9}}
    paired = differences(first, second)
    assert paired == pytest.approx([0.01, 0.03])
    low, high = stats.t.interval(0.95, 1, loc=0.02, scale=0.01)
    assert interval(paired) == f"+0.0200 ({low:+.4f} to {high:+.4f})"
    assert interval([0.01]) == "one seed"


def test_report_and_figure_of_two_schedules():
    runs = [
        {
            "encoder": "efficientnet-lite0", "training": "frozen", "finest_stride": 8, "width": 320, "num_classes": 11,
            "max_steps": max_steps, "last_layer": name, "seed": seed, "mean_iou": 0.6 + gain + seed / 100,
        }
        for max_steps, gain in ((100, 0.02), (400, 0.01)) for seed in (0, 1)
        for name, gain in (("conv1x1", 0.0), ("offset_learning", gain))
    ]  # fmt: skip
    text = report(runs)
    assert text.count("### efficientnet-lite0") == 2 and "+0.0200 (+0.0200 to +0.0200)" in text
    (line,) = draw_differences(runs).axes[0].containers
    assert list(line[0].get_xdata()) == [100, 400] and line[0].get_ydata() == pytest.approx([2, 1])


def test_error_when_something_needed_is_not_given(capsys):
    with pytest.raises(SystemExit):
        main(["--encoder", "encoder"])
    assert "`--dataset` must be given, unless `--report` is" in capsys.readouterr().err
