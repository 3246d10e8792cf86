"""The benchmark: what it compares, what it measures, and what it makes of the numbers."""

import json

import benchmark
import numpy as np
import pytest
import torch
from benchmark import alternating_seconds, measure_case, peak_above
from benchmark_cases import OFFSET_LEARNING_CLASSES, VARIANT_NAMES, Case, Settings, list_cases
from benchmark_models import (
    MODELS,
    border_cells,
    checkpoint_config,
    create_model,
    photo_file,
    photo_path,
    scene_batch,
    segformer_config,
    training_step,
)
from benchmark_pictures import WIDER, draw_accuracy, draw_sizes
from benchmark_pictures import main as draw_pictures
from benchmark_report import is_measured, markdown_tables, start_record
from PIL import Image
from tiny_models import tiny_efficientformer, tiny_offseg

from offseg_hf import VARIANTS
from offseg_hf.complexity import count_parameters
from offseg_hf.variants import variant_config


@pytest.fixture
def checkpoint(tmp_path):
    tiny_offseg(dice_loss_weight=0.5).save_pretrained(tmp_path / "model")
    return f"{tmp_path}/model"


def measured(measure="forward", variant="offseg-b0", height=64, width=64, median=0.1, **fields):
    """A case as it stands in a record, in which OffSeg is twice as fast as the others."""
    values = {name: median if name == "offseg" else 2 * median for name in MODELS}
    names = ("median", "lower_quartile", "upper_quartile")
    models = {name: {**dict.fromkeys(names, value), "values": [value]} for name, value in values.items()}
    case = Case(measure, variant, 150, height, width)
    return {**vars(case), "models": models, "ratios": {"segformer": 0.5, "literal": 0.5}, **fields}


def record_of(*cases, **settings):
    settings = {**vars(Settings()), "versions": {"torch": "2", "transformers": "5"}, "gpu": None, "processor": "a CPU",
                **settings}  # fmt: skip
    return {"settings": settings, "cases": list(cases)}


def test_models_take_turns_after_a_round_that_does_not_count():
    calls = []
    functions = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = alternating_seconds(functions, num_repeats=3)
    assert "".join(calls) == "cba" + "abc" + "cba" + "abc"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_ratios_are_of_each_round(monkeypatch):
    values = {"offseg": [1.0, 1.0, 9.0], "segformer": [2.0, 1.0, 10.0], "literal": [4.0, 4.0, 9.0]}
    monkeypatch.setattr(benchmark, "alternating_seconds", lambda *arguments: values)
    monkeypatch.setitem(benchmark.FUNCTIONS, "forward", lambda *arguments: {})
    result = measure_case(Case("forward", "offseg-b0", 4, 64, 64), Settings(num_threads=torch.get_num_threads()))
    assert result["ratios"] == {"segformer": 0.9, "literal": 0.25}
    assert result["models"]["segformer"] == {
        "median": 2.0, "lower_quartile": 1.5, "upper_quartile": 6.0, "values": [2.0, 1.0, 10.0],
    }  # fmt: skip


def test_added_memory_is_what_a_function_takes_and_gives_back():
    assert 60e6 < peak_above(lambda: np.ones(8_000_000)) < 80e6
    assert peak_above(lambda: None) < 10e6


def test_memory_is_measured_in_a_process_of_its_own(checkpoint):
    case = Case("training_memory", "checkpoint", 4, 256, 256, batch_size=2)
    added = benchmark._added_memory_in_new_process("literal", case, Settings(num_threads=1, checkpoint=checkpoint))
    assert 2 * 4 * 256 * 256 * 4 < added < 500e6  # upsampled logits at least


@pytest.mark.parametrize(
    ("measure", "names"), [("whole_memory", ["offseg", "segformer"]), ("window_memory", ["offseg"])]
)
def test_memory_of_photos_of_any_size_is_measured(measure, names, checkpoint):
    case = Case(measure, "checkpoint", 4, 512, 768)
    result = measure_case(case, Settings(num_threads=torch.get_num_threads(), checkpoint=checkpoint))
    assert list(result["models"]) == names
    for summary in result["models"].values():
        assert 512 * 768 * 3 * 4 < summary["median"] < 500e6  # the normalised photo at least


def start_and_kill(process, start=benchmark.PROCESSES.Process.start):
    start(process)
    process.kill()


def test_memory_tells_when_its_process_fails_or_is_ended(monkeypatch):
    case = Case("photo_memory", "offseg-b9", 4, 64, 64)
    with pytest.raises(
        RuntimeError, match=r"memory of offseg at 64x64 could not be measured: .*`variant` must be one of"
    ):
        benchmark._added_memory_in_new_process("offseg", case, Settings())
    monkeypatch.setattr(benchmark.PROCESSES.Process, "start", start_and_kill)
    with pytest.raises(MemoryError, match="process of offseg at 64x64 was ended by signal 9; pass smaller ones"):
        benchmark._added_memory_in_new_process("offseg", case, Settings())


def test_literal_form_computes_what_the_paper_says_and_ours_less():
    result = measure_case(Case("counts", "offseg-b0", 150, 512, 512), Settings(num_threads=torch.get_num_threads()))
    counts = {name: counted["multiply_adds"] / 1e9 for name, counted in result["models"].items()}
    assert counts["literal"] == pytest.approx(8.7, abs=0.05) and counts["segformer"] == pytest.approx(8.4, abs=0.05)
    assert counts["offseg"] < counts["literal"] - 2
    assert result["models"]["segformer"]["paper_gflops"] == 8.4
    assert result["models"]["literal"]["parameters"] == VARIANTS["offseg-b0"].parameters


@pytest.mark.parametrize("name", VARIANT_NAMES)
def test_segformer_is_of_the_released_or_the_papers_size(name):
    config = variant_config(name, num_labels=150)
    released = segformer_config(config)
    assert released.decoder_hidden_size == (256 if name in ("offseg-b0", "offseg-b1") else 768)
    assert (released.hidden_sizes, released.depths) == (config.hidden_sizes, config.depths)
    published = VARIANTS[name.replace("offseg", "segformer")].parameters
    assert count_parameters(segformer_config(config, decoder_size=256)) == published


def test_ways_of_ours_and_of_the_literal_form_end_in_the_same_label_map(checkpoint):
    file, config = photo_file((96, 128)), checkpoint_config(checkpoint)
    maps = {
        name: photo_path(name, create_model(name, config, checkpoint), "cpu", torch.float32)(file, (64, 64), (96, 128))
        for name in MODELS
    }
    assert all(label_map.shape == (96, 128) for label_map in maps.values())
    assert (maps["offseg"] == maps["literal"]).float().mean() > 0.98  # resizing rounds differently


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_step_of_training_moves_the_parameters(name, dtype, checkpoint):
    model = create_model(name, checkpoint_config(checkpoint), checkpoint).train()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    loss = training_step(model, "cpu", dtype)(*scene_batch(2, (64, 64), 4))
    assert loss > 0 and loss.isfinite()
    moved = [not torch.equal(old, new) for old, new in zip(before, model.parameters())]
    assert sum(moved) > 0.9 * len(moved)


@pytest.mark.parametrize("num_labels", [1, 2, 5, 150])
def test_scenes_have_labels_of_their_classes(num_labels):
    pixel_values, labels = scene_batch(2, (64, 96), num_labels)
    assert pixel_values.shape == (2, 3, 64, 96) and labels.shape == (2, 64, 96)
    ids = set(labels.unique().tolist()) - {255}
    assert len(ids) > 1 and max(ids) < max(num_labels, 2)


def test_border_cells_are_those_beside_another_class():
    classes = torch.tensor([[0, 0, 0, 1], [0, 0, 0, 0], [2, 2, 0, 0]])
    logits = torch.nn.functional.one_hot(classes).permute(2, 0, 1)[None].float()
    assert border_cells(logits) == 8  # the 1 and its two neighbours; the 2s, the two above and the one beside
    assert border_cells(torch.where(classes == 1, 1.0, -1.0)[None, None]) == 3
    assert border_cells(torch.ones(1, 1, 3, 3)) == 0


def test_cases_are_all_combinations():
    sizes = [(64, 64), (64, 128)]
    cases = list_cases(["forward", "memory"], ["offseg-b0"], sizes, [19, 150], [1, 2], training_batch_size=3)
    counted = {(case.measure, case.batch_size): 0 for case in cases}
    for case in cases:
        counted[case.measure, case.batch_size] += 1
    assert counted == {("forward", 1): 4, ("forward", 2): 4, ("photo_memory", 1): 4, ("training_memory", 3): 4}
    layers = list_cases(["offset_learning"], VARIANT_NAMES, sizes, [19])
    assert {case.num_labels for case in layers} == set(OFFSET_LEARNING_CLASSES) and len(layers) == 8


def test_checkpoint_brings_its_classes(checkpoint):
    (case,) = list_cases(["forward"], ["offseg-b0"], [(64, 64)], [150, 19], checkpoint=checkpoint)
    assert (case.variant, case.num_labels) == ("checkpoint", 4)


def test_checkpoint_of_another_family_is_refused(tmp_path):
    tiny_efficientformer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`checkpoint` must hold an OffSeg model on SegFormer, got 'offseg_efficient"):
        checkpoint_config(f"{tmp_path}")


def test_offset_learning_is_measured_alone():
    result = measure_case(
        Case("offset_learning", "layer", 2, 8, 8), Settings(num_repeats=1, num_threads=torch.get_num_threads())
    )
    assert set(result["models"]) == {"offseg", "literal"} and result["ratios"]["literal"] > 0


@pytest.mark.slow
def test_compiled_models_are_measured(checkpoint):
    case, threads = Case("forward", "checkpoint", 4, 64, 64), torch.get_num_threads()
    result = measure_case(case, Settings(num_repeats=1, num_threads=threads, compile=True, checkpoint=checkpoint))
    assert result["graph_breaks"]["offseg"] == 0 and set(result["graph_breaks"]) == set(MODELS)


def test_tables_have_a_row_for_each_case():
    cases = [measured(), measured("photo", height=512, width=1024, median=1.5)]
    counts = {"parameters": 1234567, "multiply_adds": 8.76e9}
    text = markdown_tables(record_of(*cases, {**measured("counts"), "models": {"offseg": counts}}))
    assert "| offseg-b0 |     150 | 64×64 |     1 |    100 |       200 |     200 |               0.50 |" in text
    assert "|  1,500 |     3,000 |   3,000 |" in text
    assert "| OffSeg |  1,234,567 |               8.76 |" in text
    assert text.count("Weights are random") == 1
    assert "Weights are random" not in markdown_tables(record_of(*cases, checkpoint="mine"))


def test_tables_tell_the_largest_photo_that_fits():
    sizes = ((1000, 1000, 500e6), (2000, 1000, 800e6))  # 300 bytes a pixel and 200e6 besides
    cases = [
        {
            **measured("whole_memory", height=height, width=width),
            "models": {"offseg": {"median": memory, "values": [1]}},
        }
        for height, width, memory in sizes
    ]
    largest = round((8 * 2**30 - 200e6) / 300 / 1e6)
    cases = [{**case, "ratios": {}} for case in cases]
    others = [{**case, "variant": "offseg-b2"} for case in cases]
    text = markdown_tables(record_of(*cases, *others))
    assert f"OffSeg (offseg-b0, 150 classes): 300 bytes a pixel, {largest} megapixels in 8 GiB." in text
    assert f"OffSeg (offseg-b2, 150 classes): 300 bytes a pixel, {largest} megapixels in 8 GiB." in text
    assert "megapixels in" not in markdown_tables(record_of(cases[0], others[0]))


def test_sizes_are_drawn_where_there_are_several():
    small, large = measured(), measured(height=128, width=128, median=0.4)
    assert draw_sizes(record_of(small)) is None
    (axes,) = draw_sizes(record_of(large, small, measured("photo"))).axes
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert axes.get_ylabel() == "forward pass (ms)" and axes.get_title(loc="left").startswith("offseg-b0, 150 classes")
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["64×64", "128×128"]
    curves = {curve.get_label(): curve.get_xydata().tolist() for curve in axes.lines}
    assert curves["OffSeg"] == [[64 * 64, 100], [128 * 128, 400]]
    assert curves["SegFormer"] == [[64 * 64, 200], [128 * 128, 800]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(curves)


def test_accuracy_is_drawn_where_there_are_several_variants():
    cases = [measured(variant=name, median=median) for name, median in (("offseg-b2", 0.3), ("offseg-b0", 0.1))]
    assert draw_accuracy(record_of(cases[0])) is None
    assert draw_accuracy(record_of(measured(variant="checkpoint"), cases[0])) is None
    (axes,) = draw_accuracy(record_of(*cases, segformer_decoder_size=256)).axes
    curves = {curve.get_label(): curve.get_xydata().tolist() for curve in axes.lines}
    assert curves["OffSeg"] == [[100, VARIANTS["offseg-b0"].ade20k], [300, VARIANTS["offseg-b2"].ade20k]]
    assert curves["SegFormer"] == [[200, VARIANTS["segformer-b0"].ade20k], [600, VARIANTS["segformer-b2"].ade20k]]
    assert [text.get_text() for text in axes.texts] == ["B0", "B2", "B0", "B2"]
    assert WIDER not in axes.get_title(loc="left")


def test_accuracy_marks_decoders_that_are_not_the_papers():
    cases = [measured(variant=name, median=median) for name, median in (("offseg-b0", 0.1), ("offseg-b2", 0.3))]
    (axes,) = draw_accuracy(record_of(*cases)).axes
    assert [text.get_text() for text in axes.texts] == ["B0", "B2", "B0", "B2*"]  # OffSeg's, SegFormer's
    assert WIDER in axes.get_title(loc="left")


def test_pictures_are_drawn_again_from_a_record(tmp_path, capsys):
    cases = [measured(), measured(height=128, width=128, median=0.4), measured(variant="offseg-b2")]
    (tmp_path / "benchmark.json").write_text(json.dumps(record_of(*cases)))
    draw_pictures([f"{tmp_path}/benchmark.json", "--output", f"{tmp_path}/new"])
    names = ["benchmark.png", "accuracy.png"]
    assert capsys.readouterr().out.split() == [f"{tmp_path}/new/{name}" for name in names]
    assert [Image.open(tmp_path / "new" / name).size for name in names] == [(640, 420), (640, 420)]
    with pytest.raises(SystemExit):
        draw_pictures([f"{tmp_path}/none.json", "--output", f"{tmp_path}"])
    assert "`record` must be the JSON file of a benchmark, got" in capsys.readouterr().err


def test_record_is_gone_on_from_only_with_its_settings(tmp_path):
    path = tmp_path / "benchmark.json"
    assert start_record(path, {"dtype": "float32"}, resume=True) == {"settings": {"dtype": "float32"}, "cases": []}
    path.write_text('{"settings": {"dtype": "float32"}, "cases": [1]}')
    assert start_record(path, {"dtype": "float32"}, resume=True)["cases"] == [1]
    assert start_record(path, {"dtype": "float32"}, overwrite=True)["cases"] == []
    with pytest.raises(ValueError, match=r"`resume` needs the settings of .*, but dtype differ"):
        start_record(path, {"dtype": "bfloat16"}, resume=True)
    with pytest.raises(FileExistsError, match="`output` must not hold a benchmark, but there is"):
        start_record(path, {"dtype": "float32"})
    path.write_text("mine")
    with pytest.raises(ValueError, match=r"`resume` needs a benchmark's record, and .* is none"):
        start_record(path, {}, resume=True)


def test_case_is_measured_where_the_record_has_it():
    record = record_of(measured())
    assert is_measured(record, Case("forward", "offseg-b0", 150, 64, 64))
    assert not is_measured(record, Case("forward", "offseg-b0", 150, 64, 96))
