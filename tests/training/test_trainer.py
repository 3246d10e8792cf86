"""The Trainer: exact resumption of streams, whole checkpoints, divided steps, BatchNorm."""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation, Trainer, TrainerCallback
from transformers.utils.logging import is_progress_bar_enabled

from offseg_hf import OffSegConfig, OffSegForSemanticSegmentation, OffSegImageProcessor
from offseg_hf.data import TrainTransform, stack_examples, training_dataset
from offseg_hf.data.scenes.scenes import SCENE_LABELS, draw_scene, write_scenes
from offseg_hf.training.arguments import SegmentationTrainingArguments
from offseg_hf.training.batch_norm import BATCH_NORM_LAYERS, set_up_batch_norm
from offseg_hf.training.checkpoints import broken_file, last_whole_checkpoint
from offseg_hf.training.trainer import SegmentationTrainer

TINY = {"hidden_sizes": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "num_attention_heads": (1, 1, 2, 2)}
TRAIN = Path(__file__).with_name("train_tiny.py")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "scenes"
    return write_scenes(folder, num_train=12, num_validation=2, size=(64, 96))


def tiny_model(**fields):
    torch.manual_seed(0)
    config = OffSegConfig(**TINY, decoder_hidden_size=16, id2label=dict(enumerate(SCENE_LABELS)), **fields)
    return OffSegForSemanticSegmentation(config)


def arguments(folder, **values):
    defaults = {"max_steps": 6, "warmup_steps": 1, "per_device_train_batch_size": 2, "learning_rate": 1e-3}
    quiet = {"save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False}
    return SegmentationTrainingArguments(output_dir=str(folder), **{**defaults, **quiet, **values})


def train_data(scenes, streaming=True):
    return training_dataset(
        str(scenes), "train", image_processor=OffSegImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}),
        transform=TrainTransform(crop_size=(64, 64), resize=(96, 64)), num_labels=len(SCENE_LABELS),
        streaming=streaming, shuffle_buffer_size=4,
    )  # fmt: skip


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# Resuming


class Recorded:
    """A callable that keeps the seeds of the examples that it prepares."""

    def __init__(self, prepare):
        self.prepare = prepare
        self.seeds = []

    def __call__(self, example, name):
        self.seeds.append(example["augmentation_seed"])
        return self.prepare(example, name)


def test_nothing_is_decoded_again_when_a_stream_resumes(scenes, tmp_path):
    values = {"save_strategy": "steps", "save_steps": 3, "gradient_accumulation_steps": 2}
    runs = []
    for checkpoint in (None, tmp_path / "checkpoint-3"):
        data = train_data(scenes)
        data.prepare = Recorded(data.prepare)
        SegmentationTrainer(tiny_model(), arguments(tmp_path, **values), train_dataset=data).train(
            resume_from_checkpoint=checkpoint
        )
        runs.append((data.prepare.seeds, weights(tmp_path / "checkpoint-6")))
    (whole, first), (rest, second) = runs
    assert len(whole) == 24 and rest == whole[12:]
    assert equal(first, second)


def started(command, log):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=log.open("w"), stderr=subprocess.STDOUT)


def finish(command, log):
    assert started(command, log).wait(timeout=300) == 0, log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0, 0.4])
def test_final_weights_are_those_of_an_uninterrupted_run_when_it_was_killed(scenes, tmp_path, seconds):
    """With two workers and a shuffle buffer; killed some time after the first checkpoint appeared."""
    values = [str(scenes), "--dataloader_num_workers", "2", "--save_steps", "2", "--max_steps", "14"]
    whole, killed = ([sys.executable, TRAIN, str(tmp_path / name), *values] for name in ("whole", "killed"))
    log = tmp_path / "log.txt"
    finish(whole, log)
    process = started(killed, log)
    while not list((tmp_path / "killed").glob("checkpoint-*")):
        assert process.poll() is None, log.read_text()
        time.sleep(0.01)
    time.sleep(seconds)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed" / "checkpoint-14").exists()
    finish([*killed, "--resume_from_checkpoint", "last"], log)
    assert equal(weights(tmp_path / "whole" / "checkpoint-14"), weights(tmp_path / "killed" / "checkpoint-14"))


def test_stream_is_refused_when_workers_are_others_unless_it_shall_begin_its_next_pass(checkpoints, scenes):
    values = {"max_steps": 6, "dataloader_num_workers": 2, "dataloader_multiprocessing_context": "fork"}
    resumed = SegmentationTrainer(tiny_model(), arguments(checkpoints, **values), train_dataset=train_data(scenes))
    with pytest.raises(ValueError, match=r"`state` must be of the same .* or pass `--ignore_data_skip`"):
        resumed.train(resume_from_checkpoint=str(checkpoints / "checkpoint-4"))
    args = arguments(checkpoints, ignore_data_skip=True, **values)
    resumed = SegmentationTrainer(tiny_model(), args, train_dataset=train_data(scenes))
    resumed.train(resume_from_checkpoint=str(checkpoints / "checkpoint-4"))
    assert [position.number for position in resumed._loader.positions] == [1, 1]


def test_error_when_a_checkpoint_does_not_have_the_position_in_the_stream(checkpoints, scenes):
    checkpoint = checkpoints / "checkpoint-4"
    (checkpoint / "stream_0.json").unlink()
    resumed = SegmentationTrainer(tiny_model(), arguments(checkpoints), train_dataset=train_data(scenes))
    with pytest.raises(ValueError, match=r"must hold the position in the stream, but .* pass `--ignore_data_skip`"):
        resumed.train(resume_from_checkpoint=str(checkpoint))
    args = arguments(checkpoints, ignore_data_skip=True)
    resumed = SegmentationTrainer(tiny_model(), args, train_dataset=train_data(scenes))
    assert resumed.train(resume_from_checkpoint=str(checkpoint)).global_step == 6


def test_newest_whole_checkpoint_is_taken_when_resuming_from_the_last(checkpoints, scenes):
    os.truncate(checkpoints / "checkpoint-4" / "optimizer.pt", 100)
    resumed = SegmentationTrainer(tiny_model(), arguments(checkpoints), train_dataset=train_data(scenes))
    resumed.train(resume_from_checkpoint=True)
    assert [log["step"] for log in resumed.state.log_history if "loss" in log] == [1, 4, 6]
    for checkpoint in checkpoints.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    with pytest.raises(FileNotFoundError, match="there is none for 'last'"):
        resumed.train(resume_from_checkpoint=True)


def test_arguments_stay_as_they_were_when_a_stream_is_trained_on(scenes, tmp_path):
    args = arguments(tmp_path)
    before = args.to_dict()
    trainer = SegmentationTrainer(tiny_model(), args, train_dataset=train_data(scenes))
    assert trainer.args.ignore_data_skip and args.to_dict() == before


# Checkpoints


@pytest.fixture(scope="module")
def trained(scenes, tmp_path_factory):
    """The folder of a training on a stream that wrote two checkpoints."""
    folder = tmp_path_factory.mktemp("trained")
    args = arguments(folder, save_strategy="steps", save_steps=2, max_steps=4, logging_steps=4)
    SegmentationTrainer(tiny_model(), args, train_dataset=train_data(scenes)).train()
    return folder


@pytest.fixture
def checkpoints(trained, tmp_path):
    """A copy of it, to change."""
    return shutil.copytree(trained, tmp_path / "trained")


def test_checkpoint_is_in_its_place_alone_when_it_is_whole(checkpoints):
    assert sorted(path.name for path in checkpoints.iterdir()) == ["checkpoint-2", "checkpoint-4", "curves.png"]
    assert broken_file(checkpoints / "checkpoint-4") is None
    assert last_whole_checkpoint(checkpoints) == checkpoints / "checkpoint-4"


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "stream_0.json"]
)
def test_checkpoint_before_is_used_when_a_file_is_cut_off(checkpoints, name, caplog):
    file = checkpoints / "checkpoint-4" / name
    os.truncate(file, file.stat().st_size // 2)
    assert broken_file(checkpoints / "checkpoint-4") == name
    assert last_whole_checkpoint(checkpoints) == checkpoints / "checkpoint-2"


@pytest.mark.parametrize("name", ["model.safetensors", "trainer_state.json"])
def test_checkpoint_before_is_used_when_a_file_is_missing(checkpoints, name):
    (checkpoints / "checkpoint-4" / name).unlink()
    assert last_whole_checkpoint(checkpoints) == checkpoints / "checkpoint-2"


def test_checkpoint_does_not_appear_when_writing_fails(scenes, tmp_path, monkeypatch):
    args = arguments(tmp_path, save_strategy="steps", save_steps=2, disable_tqdm=False)
    trainer = SegmentationTrainer(tiny_model(), args, train_dataset=train_data(scenes))

    def fail(folder):
        raise OSError("No space left on device")

    monkeypatch.setattr(trainer, "_save_rng_state", fail)
    with pytest.raises(OSError, match=r"the disk of .* is full"):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))
    assert is_progress_bar_enabled()


def test_progress_bars_are_on_again_when_training_fails(scenes, tmp_path, monkeypatch):
    trainer = SegmentationTrainer(
        tiny_model(), arguments(tmp_path, disable_tqdm=False), train_dataset=train_data(scenes)
    )

    def fail(*args, **kwargs):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(trainer, "training_step", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.train()
    assert is_progress_bar_enabled()


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        (
            "_save_checkpoint",
            "override what Trainer calls at every checkpoint now, or checkpoints appear in parts",
        ),
        ("_get_output_dir", "let `_save_checkpoint` write into `.unfinished` by another way, or it writes in place"),
        ("_train_batch_size", "read the size in `get_train_dataloader` where `auto_find_batch_size` leaves it now"),
    ],
)
def test_private_names_of_trainer_are_there(tmp_path, name, remedy):
    assert hasattr(Trainer(tiny_model(), arguments(tmp_path)), name), f"SegmentationTrainer uses {name}: {remedy}"


def test_old_checkpoints_go_and_the_best_stays_when_their_number_is_limited(scenes, tmp_path):
    from offseg_hf.data import evaluation_dataset

    processor = OffSegImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    data = evaluation_dataset(str(scenes), "validation", image_processor=processor, num_labels=len(SCENE_LABELS))
    values = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    args = arguments(tmp_path, save_total_limit=2, load_best_model_at_end=True, **values)
    trainer = SegmentationTrainer(
        tiny_model(), args, train_dataset=train_data(scenes), eval_dataset=data, image_processor=processor
    )
    trainer.train()
    left = {path.name for path in tmp_path.glob("checkpoint-*")}
    best = Path(trainer.state.best_model_checkpoint)
    assert best.parent == tmp_path and left == {best.name, "checkpoint-6"} | ({"checkpoint-5"} & left)
    assert len(left) == 2
    saved = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())
    assert Path(saved["best_model_checkpoint"]).parent == tmp_path


def test_what_a_killed_run_left_half_written_is_in_nobodys_way(scenes, tmp_path):
    left = tmp_path / ".unfinished" / "checkpoint-3000"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    args = arguments(tmp_path, max_steps=2, save_strategy="steps", save_steps=1)
    SegmentationTrainer(tiny_model(), args, train_dataset=train_data(scenes)).train()
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}
    assert not (tmp_path / ".unfinished").exists()


# Divided steps


def tiny_segformer():
    """transformers' own, whose forward pass takes any keyword, but not Trainer's count of items."""
    torch.manual_seed(0)
    config = SegformerConfig(**TINY, decoder_hidden_size=16, num_labels=8, drop_path_rate=0.0)
    config.classifier_dropout_prob = 0.0
    return SegformerForSemanticSegmentation(config)


@pytest.mark.parametrize("model", [partial(tiny_model, drop_path_rate=0.0), tiny_segformer])
def test_step_is_the_same_when_it_is_accumulated(tmp_path, model):
    """Labels are ignored in very different shares, so that the mean of the batches' means is another loss."""
    pixel_values = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 8, (8, 64, 64), generator=torch.Generator().manual_seed(1))
    for index in range(8):
        labels[index, : 8 * index] = 255
    data = [{"pixel_values": x, "labels": y} for x, y in zip(pixel_values, labels)]
    losses = []
    for batch_size, steps in ((8, 1), (2, 4)):
        args = arguments(
            tmp_path, per_device_train_batch_size=batch_size, gradient_accumulation_steps=steps, logging_steps=1,
            train_sampling_strategy="sequential", max_steps=3, warmup_steps=0, batch_norm="frozen",
        )  # fmt: skip
        trainer = SegmentationTrainer(model(), args, train_dataset=data)
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("losses", [{"dice_loss_weight": 1.0}, {"ohem_threshold": 0.5, "ohem_min_kept": 1}])
def test_losses_that_are_no_sums_are_averaged_by_labelled_pixels_when_accumulated(tmp_path, losses):
    pixel_values = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 8, (4, 64, 64), generator=torch.Generator().manual_seed(1))
    labels[:2] = 0
    labels[:2, 16:] = 255  # so that the first of two batches has a quarter of the second one's labelled pixels
    data = [{"pixel_values": x, "labels": y} for x, y in zip(pixel_values, labels)]
    args = arguments(
        tmp_path, gradient_accumulation_steps=2, train_sampling_strategy="sequential", max_steps=1, warmup_steps=0,
        batch_norm="frozen",
    )  # fmt: skip
    # With a LayerNorm, by which the two batches' losses differ from the start.
    model = tiny_model(drop_path_rate=0.0, logit_normalization="fitted_layer_norm", **losses)
    for module in model.modules():
        module.training = not isinstance(module, BATCH_NORM_LAYERS)
    first, second = (model(pixel_values[part], labels=labels[part]).loss.item() for part in (slice(2), slice(2, 4)))
    trainer = SegmentationTrainer(model, args, train_dataset=data)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(0.2 * first + 0.8 * second, rel=1e-5)
    assert abs(first - second) > 0.01 * second


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["accelerate", "torchrun"])
def test_loss_is_that_of_one_process_with_twice_the_batch_when_there_are_two(scenes, tmp_path, launcher):
    commands = {
        # It starts several processes on CPUs by MPI alone, unless it is told that they are GPUs.
        "accelerate": [
            "accelerate.commands.launch",
            "--multi_gpu",
            "--num_processes",
            "2",
            "--main_process_port",
            "0",
        ],
        "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    }
    common = ["--map_style", "--batch_norm", "frozen", "--save_steps", "6", "--max_steps", "6"]
    one = [sys.executable, TRAIN, str(tmp_path / "one"), str(scenes), *common, "--batch_size", "4"]
    two = [sys.executable, "-m", *commands[launcher], TRAIN, str(tmp_path / "two"), str(scenes), *common]
    finish(one, tmp_path / "log.txt")
    finish([*two, "--batch_size", "2"], tmp_path / "log.txt")
    losses = [
        [log["loss"] for log in json.loads((tmp_path / name / "log.json").read_text()) if "loss" in log]
        for name in ("one", "two")
    ]
    assert len(losses[0]) == 6
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [["--map_style"], [], ["--sets", "--dataloader_num_workers", "1"]])
def test_every_photo_is_evaluated_once_when_there_are_two_processes(tmp_path, kind):
    """Five photos of two sizes."""
    data = tmp_path / "data"
    for split, count in (("train", 2), ("validation", 5)):
        for folder in ("images", "masks"):
            (data / folder / split).mkdir(parents=True)
        for number in range(count):
            photo, mask = draw_scene(number, (64, 96) if number % 2 else (96, 64))
            photo.save(data / "images" / split / f"{number}.png")
            Image.fromarray(mask).save(data / "masks" / split / f"{number}.png")
    arguments = [str(data), "--evaluate", "--max_steps", "2", "--save_steps", "2", *kind]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    metrics = []
    for name, launcher in (("one", []), ("two", torchrun)):
        finish([sys.executable, *launcher, TRAIN, str(tmp_path / name), *arguments], tmp_path / "log.txt")
        metrics.append(json.loads((tmp_path / name / "metrics.json").read_text()))
    names = [name for name in metrics[0] if "iou" in name or "accuracy" in name]
    assert len(names) > 5 and [metrics[1][name] for name in names] == [metrics[0][name] for name in names]
    losses = [name for name in metrics[0] if name.endswith("_loss")]
    assert losses == (["eval_first_loss", "eval_second_loss"] if "--sets" in kind else ["eval_loss"])
    for name in losses:
        assert metrics[0][name] == pytest.approx(metrics[1][name], rel=1e-5)


def test_processes_share_each_of_several_evaluation_sets_and_have_workers(tmp_path, monkeypatch):
    examples = [{"pixel_values": torch.zeros(3, 32, 32), "labels": torch.full((32, 32), i)} for i in range(5)]
    args = arguments(tmp_path, dataloader_num_workers=2, dataloader_prefetch_factor=4)
    trainer = SegmentationTrainer(tiny_model(), args, eval_dataset={"day": examples, "night": examples[:2]})
    monkeypatch.setattr(SegmentationTrainingArguments, "world_size", 2)
    monkeypatch.setattr(SegmentationTrainingArguments, "process_index", 1)
    day, night = (trainer.get_eval_dataloader(name) for name in ("day", "night"))
    assert [example["labels"][0, 0].item() for example in day.dataset] == [1, 3]
    assert [example["labels"][0, 0].item() for example in night.dataset] == [1]
    assert (day.num_workers, day.prefetch_factor) == (2, 4)


def test_every_set_is_measured_when_there_are_several(tmp_path):
    generator = torch.Generator().manual_seed(0)
    examples = [
        {"pixel_values": torch.randn(3, 32, 32, generator=generator), "labels": torch.full((32, 32), number)}
        for number in range(3)
    ]
    metrics = SegmentationTrainer(tiny_model(), arguments(tmp_path), eval_dataset=examples).evaluate()
    sets = {"all": examples, "first": examples[:1]}
    several = SegmentationTrainer(tiny_model(), arguments(tmp_path), eval_dataset=sets).evaluate()
    assert several["eval_all_loss"] == metrics["eval_loss"]
    assert several["eval_all_mean_iou"] == metrics["eval_mean_iou"]
    assert math.isfinite(several["eval_first_loss"]) and several["eval_first_loss"] != metrics["eval_loss"]


# What users replace


def test_collator_metrics_and_callbacks_are_the_users_when_they_are_given(scenes, tmp_path):
    class Steps(TrainerCallback):
        seen = 0

        def on_step_end(self, args, state, control, **kwargs):
            self.seen += 1

    def collate(examples):
        sizes.append(len(examples))
        return stack_examples(examples)

    def compute_metrics(prediction, compute_result):
        shapes.append(prediction.predictions.shape)
        return {"number": len(shapes)}

    sizes, shapes, steps = [], [], Steps()
    data = train_data(scenes, streaming=False)
    trainer = SegmentationTrainer(
        tiny_model(), arguments(tmp_path, max_steps=2), train_dataset=data, eval_dataset=[data[0], data[1]],
        data_collator=collate, compute_metrics=compute_metrics, callbacks=[steps],
    )  # fmt: skip
    trainer.train()
    assert trainer.evaluate()["eval_number"] == 2
    assert (sizes[0], sizes[-1], steps.seen) == (2, 1, 2)
    assert shapes == [(1, 64, 64)] * 2  # label maps, not logits


# BatchNorm


def test_statistics_stay_and_weights_move_when_batch_norm_is_frozen(scenes, tmp_path):
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    SegmentationTrainer(model, arguments(tmp_path, batch_norm="frozen"), train_dataset=train_data(scenes)).train()
    after = model.state_dict()
    for name in before:
        is_statistic = "running" in name or "num_batches" in name
        assert torch.equal(before[name], after[name]) == is_statistic or "offset" in name, name


def test_batch_norm_becomes_synchronized_when_there_are_gpus(tmp_path):
    class Arguments:
        batch_norm, device, world_size, train_batch_size, dataloader_drop_last = (
            None,
            torch.device("cuda"),
            2,
            1,
            False,
        )

    model = tiny_model()
    set_up_batch_norm(model, Arguments, train_dataset=[None] * 3)
    assert {type(module) for module in model.modules() if isinstance(module, BATCH_NORM_LAYERS)} == {nn.SyncBatchNorm}


def test_error_is_raised_when_batch_norm_cannot_be_synchronized(scenes, tmp_path):
    with pytest.raises(ValueError, match="`batch_norm` must be 'local' or 'frozen' on a CPU"):
        SegmentationTrainer(
            tiny_model(), arguments(tmp_path, batch_norm="synchronized"), train_dataset=train_data(scenes)
        )


def test_error_is_raised_when_batch_norm_would_see_one_image(scenes, tmp_path):
    with pytest.raises(ValueError, match="`per_device_train_batch_size` must be at least 2 with BatchNorm"):
        SegmentationTrainer(
            tiny_model(), arguments(tmp_path, per_device_train_batch_size=1), train_dataset=train_data(scenes)
        )
    args = arguments(tmp_path, per_device_train_batch_size=11)
    with pytest.raises(ValueError, match="must not leave a last batch of one image to BatchNorm, got 11 for 12"):
        SegmentationTrainer(tiny_model(), args, train_dataset=train_data(scenes, streaming=False))
    SegmentationTrainer(
        tiny_model(), arguments(tmp_path, per_device_train_batch_size=1, batch_norm="frozen"), train_dataset=[1]
    )


def test_error_lists_what_batch_norm_can_do(tmp_path):
    with pytest.raises(ValueError, match="`batch_norm` must be one of synchronized, local, frozen, got 'sync'"):
        arguments(tmp_path, batch_norm="sync")


# All together


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_accumulation_bfloat16_checkpointing_and_compilation_combine(scenes, tmp_path, compiled):
    args = arguments(
        tmp_path, gradient_accumulation_steps=2, bf16=True, gradient_checkpointing=True, torch_compile=compiled,
        torch_compile_backend="aot_eager" if compiled else None, max_steps=3,
    )  # fmt: skip
    model = tiny_model()
    before = {name: value.clone() for name, value in model.named_parameters()}
    SegmentationTrainer(model, args, train_dataset=train_data(scenes)).train()
    moved = {name for name, value in model.named_parameters() if not torch.equal(before[name], value)}
    assert moved == before.keys()
