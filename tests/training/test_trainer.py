"""The Trainer: exact resumption of streams, whole checkpoints, divided steps, BatchNorm."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import offseg_hf
from offseg_hf import OffSegConfig, OffSegForSemanticSegmentation, OffSegImageProcessor
from offseg_hf.data import TrainTransform, training_dataset
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
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(offseg_hf.__file__).parents[1])}
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


def test_stream_begins_its_next_pass_when_workers_are_others(scenes, tmp_path, caplog):
    values = {"save_strategy": "steps", "save_steps": 3}
    SegmentationTrainer(tiny_model(), arguments(tmp_path, **values), train_dataset=train_data(scenes)).train()
    values |= {"dataloader_num_workers": 2, "dataloader_multiprocessing_context": "fork"}
    resumed = SegmentationTrainer(tiny_model(), arguments(tmp_path, **values), train_dataset=train_data(scenes))
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert [position.number for position in resumed._loader.positions] == [1, 1]


# Checkpoints


@pytest.fixture
def checkpoints(scenes, tmp_path):
    """Two checkpoints of one training."""
    values = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    SegmentationTrainer(tiny_model(), arguments(tmp_path, **values), train_dataset=train_data(scenes)).train()
    return tmp_path


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
    trainer = SegmentationTrainer(
        tiny_model(), arguments(tmp_path, save_strategy="steps", save_steps=2), train_dataset=train_data(scenes)
    )

    def fail(folder):
        raise OSError("No space left on device")

    monkeypatch.setattr(trainer, "_save_rng_state", fail)
    with pytest.raises(OSError, match="No space left"):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))


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


# Divided steps


def test_step_is_the_same_when_it_is_accumulated(scenes, tmp_path):
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
        trainer = SegmentationTrainer(tiny_model(drop_path_rate=0.0), args, train_dataset=data)
        trainer.train()
        losses.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


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
@pytest.mark.parametrize("kind", [["--map_style"], []])
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
    assert metrics[0]["eval_loss"] == pytest.approx(metrics[1]["eval_loss"], rel=1e-5)


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
