"""OffSegForSemanticSegmentation under the stock Trainer: accumulation, interruption, the best checkpoint."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback, TrainingArguments

from offseg_hf import OffSegConfig, OffSegForSemanticSegmentation

TINY = {
    "depths": (1, 1, 1, 1),
    "hidden_sizes": (8, 8, 16, 16),
    "num_attention_heads": (1, 1, 2, 2),
    "decoder_hidden_size": 16,
    "num_labels": 4,
}


def examples(count):
    generator = torch.Generator().manual_seed(0)
    pixel_values = torch.randn(count, 3, 32, 32, generator=generator)
    labels = torch.randint(0, 4, (count, 32, 32), generator=generator)
    return [{"pixel_values": pixels, "labels": ids} for pixels, ids in zip(pixel_values, labels)]


def trainer(folder, data, callbacks=(), seed=0, **arguments):
    """Trainer of a new model; `seed` is that of the model's start, not of the training."""
    torch.manual_seed(seed)
    model = OffSegForSemanticSegmentation(
        OffSegConfig(**{**TINY, "drop_path_rate": arguments.pop("drop_path_rate", 0.1)})
    )
    quiet = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False}
    arguments = TrainingArguments(output_dir=str(folder), learning_rate=1e-3, logging_steps=1, **quiet, **arguments)
    return Trainer(model, arguments, train_dataset=data, eval_dataset=data, callbacks=list(callbacks))


def assert_equal_tensors(model, expected):
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_accumulated_gradients_equal_those_of_the_whole_batch(tmp_path):
    logs = []
    for batch_size, steps in [(8, 1), (4, 2), (2, 4)]:
        run = trainer(
            tmp_path,
            examples(8),
            max_steps=1,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=steps,
            drop_path_rate=0.0,
            save_strategy="no",
        )
        for module in run.model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # its statistics would be those of the smaller batch
                module.eval()
                module.train = lambda mode=True: None
        run.train()
        logs.append(run.state.log_history[0])
    whole, *accumulated = logs
    for log in accumulated:
        assert log["loss"] == pytest.approx(whole["loss"], rel=1e-4)
        assert log["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-4)


class Interruption(TrainerCallback):
    """Ends the training as a lost machine would, after the second step's checkpoint."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 2


def test_resumed_training_equals_an_uninterrupted_one(tmp_path):
    options = {"max_steps": 4, "save_steps": 2, "per_device_train_batch_size": 2}
    whole = trainer(tmp_path / "whole", examples(6), **options)
    whole.train()
    interrupted = trainer(tmp_path / "parts", examples(6), callbacks=[Interruption()], **options)
    interrupted.train()
    resumed = trainer(tmp_path / "parts", examples(6), seed=1, **options)
    resumed.train(resume_from_checkpoint=True)

    assert (interrupted.state.global_step, resumed.state.global_step) == (2, 4)
    assert_equal_tensors(resumed.model, whole.model)
    assert resumed.state.log_history[-2]["loss"] == whole.state.log_history[-2]["loss"]


def test_best_checkpoint_is_restored_whole_at_the_end(tmp_path):
    run = trainer(
        tmp_path,
        examples(4),
        max_steps=3,
        per_device_train_batch_size=4,
        eval_strategy="steps",
        eval_steps=1,
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="score",
    )
    scores = iter([3.0, 2.0, 1.0])
    run.compute_metrics = lambda _: {"score": next(scores)}
    run.train()
    best = tmp_path / "checkpoint-1"
    assert run.state.best_model_checkpoint == str(best)
    assert_equal_tensors(run.model, OffSegForSemanticSegmentation.from_pretrained(best))
    name = "decode_head.offset_learning.cls_repr"
    assert not torch.equal(
        load_file(tmp_path / "checkpoint-3" / "model.safetensors")[name], run.model.state_dict()[name]
    )
