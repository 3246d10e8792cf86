"""What every per-pixel model with offset learning must do, whatever its encoder.

A model's own test file subclasses [`SegmentationModelTests`] as `class TestX(SegmentationModelTests)`, names its
classes and a tiny architecture, and adds what only this model does.
"""

import copy
import json
import logging

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import (
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    pipeline,
)

from offseg_hf import OffSegImageProcessor


def randomised(model, seed=0):
    """`model` with weights and statistics that are all far from their start."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer += torch.rand(buffer.shape, generator=generator)
    return model


def assert_equal_tensors(state_dict, expected):
    assert state_dict.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(state_dict[name], tensor) and state_dict[name].dtype == tensor.dtype, name


def examples(count):
    generator = torch.Generator().manual_seed(0)
    pixel_values = torch.randn(count, 3, 64, 64, generator=generator)
    labels = torch.randint(0, 4, (count, 64, 64), generator=generator)
    return [{"pixel_values": pixels, "labels": ids} for pixels, ids in zip(pixel_values, labels)]


def coloured_examples(count, num_classes):
    """Images of coloured quarters, whose colours are their classes."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.tensor([[2.0, 0.0, -2.0], [-2.0, 2.0, 0.0], [0.0, -2.0, 2.0], [2.0, 2.0, 2.0]])[:num_classes]
    labels = torch.randint(0, num_classes, (count, 2, 2), generator=generator)
    labels = labels.repeat_interleave(32, 1).repeat_interleave(32, 2)  # (count, 64, 64)
    return colours[labels].permute(0, 3, 1, 2), labels


class Interruption(TrainerCallback):
    """Ends the training as a lost machine would, after the second step's checkpoint."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 2


class SegmentationModelTests:
    """The shared tests; a subclass sets these attributes.

    `config_class`, `model_class`: what is tested.
    `tiny`: fields of a tiny architecture, drop path included, without the number of classes.
    `still`: fields that take all randomness out of training.
    `stride`: the logits are at 1/stride of the image.
    `stage_shapes`: shapes of the hidden states for two images of 64×64 pixels.
    `files`: the code files that go to the Hub with a model, besides `image_processing_offseg.py`.
    `num_learning_steps`: steps of AdamW (lr 1e-2) in which coloured quarters are learnt.
    """

    config_class = None
    model_class = None
    tiny = {}
    still = {"drop_path_rate": 0.0}
    stride = 8
    stage_shapes = ()
    files = set()
    num_learning_steps = 40

    def has_no_gradient(self, name):
        """Whether a parameter, by its name, rightly gets no gradient."""
        return False

    def logits_size(self, height, width):
        """Size of the logits for an image's size."""
        return -(-height // self.stride), -(-width // self.stride)

    def new_model(self, **fields):
        torch.manual_seed(0)
        return self.model_class(self.config_class(**{**self.tiny, "num_labels": 4, **fields}))

    def tiny_model(self, **fields):
        return randomised(self.new_model(**fields)).eval()

    @pytest.fixture
    def model(self):
        return self.tiny_model()

    @pytest.fixture
    def pixel_values(self):
        return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))

    @pytest.fixture
    def labels(self):
        return torch.randint(0, 4, (2, 64, 64), generator=torch.Generator().manual_seed(2))

    # What it computes

    @pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 96), (35, 101), (32, 257)])
    def test_logits_have_the_right_size_whatever_the_images(self, model, size):
        logits = model(torch.randn(2, 3, *size)).logits
        assert logits.shape == (2, 4, *self.logits_size(*size))
        assert logits.isfinite().all()

    def test_result_of_an_image_does_not_depend_on_its_batch_or_the_global_seed(self, model, pixel_values):
        together = model(pixel_values).logits
        for image, expected in zip(pixel_values, together):
            torch.manual_seed(7)
            torch.testing.assert_close(model(image[None]).logits[0], expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("label_size", [(64, 64), (50, 75)])
    def test_loss_is_the_cross_entropy_at_the_labels_resolution(self, model, pixel_values, label_size):
        labels = torch.randint(0, 4, (2, *label_size))
        labels[0, :20] = 255
        outputs = model(pixel_values, labels=labels)
        logits = F.interpolate(outputs.logits, label_size, mode="bilinear")
        assert outputs.loss.item() == pytest.approx(F.cross_entropy(logits, labels, ignore_index=255).item(), rel=1e-5)

    def test_coupled_attention_is_asked_for_a_segmentation_too_in_training(self, pixel_values, labels):
        model = self.tiny_model(attention_loss_weight=0.5).train()
        layer, features = model.decode_head.offset_learning, []
        layer.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
        outputs = model(pixel_values, labels=labels)
        attention = torch.einsum("bchw,kc->bkhw", features[0], layer.cls_repr[0])
        loss, attention_loss = (
            F.cross_entropy(F.interpolate(scores, (64, 64), mode="bilinear"), labels)
            for scores in (outputs.logits, attention)
        )
        torch.testing.assert_close(outputs.loss, loss + 0.5 * attention_loss)

    def test_loss_honours_the_ignore_index_of_the_configuration(self, pixel_values, labels):
        ignored = labels.clone()
        ignored[:, 32:] = -1
        expected = self.tiny_model()(pixel_values, labels=ignored.where(ignored >= 0, 255)).loss
        model = self.tiny_model(semantic_loss_ignore_index=-1)
        assert torch.equal(model(pixel_values, labels=ignored).loss, expected)

    def test_loss_is_zero_with_finite_gradients_when_all_labels_are_ignored(self, model, pixel_values):
        loss = model.train()(pixel_values, labels=torch.full((2, 64, 64), 255)).loss
        loss.backward()
        assert loss.item() == 0
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())

    def test_error_names_labels_that_are_no_class(self, model, pixel_values, labels):
        labels[0, 0, 0], labels[1, 5, 5] = 4, 200
        with pytest.raises(ValueError, match=r"`labels` must be class ids .* got \[4, 200\]"):
            model(pixel_values, labels=labels)

    @pytest.mark.parametrize(
        ("num_labels", "normalization"),
        [(1, "class_bias"), (2, "class_bias"), (3, "layer_norm"), (3, "fitted_layer_norm"), (4, "class_bias")],
    )
    def test_every_parameter_gets_a_gradient(self, num_labels, normalization, pixel_values, labels):
        fields = {"num_labels": num_labels, "logit_normalization": normalization}
        model = self.tiny_model(**fields, **self.still).train()
        model(pixel_values, labels=labels % max(num_labels, 2)).loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad.any() or self.has_no_gradient(name), name

    @pytest.mark.parametrize("num_labels", [1, 2])
    def test_error_when_a_layer_norm_over_fewer_than_3_classes_is_trained(self, num_labels, pixel_values, labels):
        model = self.tiny_model(num_labels=num_labels, logit_normalization="layer_norm")
        assert model(pixel_values, labels=labels % 2).loss.isfinite()  # evaluation goes on
        with pytest.raises(ValueError, match="`logit_normalization` must be 'class_bias' to train fewer than 3"):
            model.train()(pixel_values, labels=labels % 2)

    def test_hidden_states_are_the_four_stages(self, model, pixel_values):
        states = model(pixel_values, output_hidden_states=True).hidden_states
        assert tuple(tuple(state.shape) for state in states) == self.stage_shapes
        assert model(pixel_values).hidden_states is None

    def test_output_is_a_tuple_when_return_dict_is_false(self, model, pixel_values, labels):
        outputs = model(pixel_values, labels=labels, output_hidden_states=True)
        loss, logits, hidden_states = model(pixel_values, labels=labels, output_hidden_states=True, return_dict=False)
        assert torch.equal(loss, outputs.loss) and torch.equal(logits, outputs.logits) and len(hidden_states) == 4
        model.config.return_dict = False
        assert torch.equal(model(pixel_values)[0], logits)

    # The ways torch runs it

    @pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
    def test_gradient_checkpointing_gives_the_same_gradients(self, model, pixel_values, labels):
        gradients = []
        for checkpointing in (False, True):
            trained = copy.deepcopy(model).train()
            if checkpointing:
                trained.gradient_checkpointing_enable()
                assert any(getattr(module, "gradient_checkpointing", False) for module in trained.modules())
            torch.manual_seed(0)  # of all that is drawn
            trained(pixel_values, labels=labels).loss.backward()
            gradients.append([parameter.grad for parameter in trained.parameters()])
        torch.testing.assert_close(*gradients, rtol=0, atol=0)

    def test_bfloat16_is_close_to_float32(self, model, pixel_values, labels):
        outputs = copy.deepcopy(model).bfloat16()(pixel_values.bfloat16(), labels=labels)
        expected = model(pixel_values, labels=labels)
        assert outputs.logits.dtype == torch.bfloat16
        error = (outputs.logits - expected.logits).norm() / expected.logits.norm()
        assert error < 0.1
        assert outputs.loss.item() == pytest.approx(expected.loss.item(), rel=0.05)

    def test_float16_is_finite(self, model, pixel_values):
        logits = model.half()(pixel_values.half()).logits
        assert logits.dtype == torch.float16 and logits.isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_autocast_trains_with_finite_gradients(self, model, pixel_values, labels, dtype):
        with torch.autocast("cpu", dtype=dtype):
            outputs = model.train()(pixel_values, labels=labels)
        outputs.loss.backward()
        assert (outputs.logits.dtype, outputs.loss.dtype) == (torch.float32, torch.float32)
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())

    @pytest.mark.slow  # but for the smallest model, in its own file
    @pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
    def test_trains_with_the_same_gradients_when_compiled_in_one_graph(self, backend, pixel_values, labels):
        model = self.tiny_model(**self.still).train()
        reference = copy.deepcopy(model)
        torch.compiler.reset()
        losses = []
        for trained in (torch.compile(model, fullgraph=True, backend=backend), reference):
            torch.manual_seed(0)
            losses.append(trained(pixel_values, labels=labels).loss)
            losses[-1].backward()
        torch.testing.assert_close(*losses)
        for (name, parameter), expected in zip(model.named_parameters(), reference.parameters(), strict=True):
            error = (parameter.grad - expected.grad).abs().max()
            assert error <= 1e-3 * expected.grad.abs().max() + 1e-6, name

    @pytest.mark.slow
    def test_predicts_the_same_when_compiled_in_one_graph(self, model, pixel_values):
        torch.compiler.reset()
        with torch.no_grad():
            logits = torch.compile(model, fullgraph=True)(pixel_values).logits
            torch.testing.assert_close(logits, model(pixel_values).logits, rtol=1e-4, atol=1e-4)

    @pytest.mark.slow
    def test_exports_with_any_batch_and_image_size(self, model):
        dim = torch.export.Dim
        # A map of one pixel is a case of its own to torch.export; 64 pixels give two by two in every stage.
        sizes = {0: dim("batch"), 2: dim("height", min=64, max=4096), 3: dim("width", min=64, max=4096)}
        exported = torch.export.export(model, (torch.randn(2, 3, 64, 96),), dynamic_shapes={"pixel_values": sizes})
        for shape in [(1, 3, 64, 64), (3, 3, 65, 79), (2, 3, 101, 130)]:
            pixel_values = torch.randn(shape)
            logits = exported.module()(pixel_values).logits
            torch.testing.assert_close(logits, model(pixel_values).logits, rtol=1e-4, atol=1e-5)

    # Learning

    def test_every_parameter_moves_and_a_tiny_data_set_is_learnt(self):
        model = self.new_model().train()
        start = copy.deepcopy(model.state_dict())
        images, labels = coloured_examples(8, 4)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0)
        for _ in range(self.num_learning_steps):
            optimizer.zero_grad()
            model(images, labels=labels).loss.backward()
            optimizer.step()
        for name, parameter in model.named_parameters():
            assert not torch.equal(parameter, start[name]) or self.has_no_gradient(name), name
        with torch.no_grad():
            logits = model.eval()(images).logits
        predicted = F.interpolate(logits, (64, 64), mode="bilinear").argmax(1)
        assert (predicted == labels).float().mean() > 0.9

    def trainer(self, folder, data, callbacks=(), seed=0, still=False, **arguments):
        """Trainer of a new model; `seed` is that of the model's start, not of the training."""
        model = randomised(self.new_model(**(self.still if still else {})), seed)
        quiet = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False}
        arguments = TrainingArguments(
            output_dir=str(folder), learning_rate=1e-3, logging_steps=1, **quiet, **arguments
        )
        return Trainer(model, arguments, train_dataset=data, eval_dataset=data, callbacks=list(callbacks))

    def test_accumulated_gradients_equal_those_of_the_whole_batch(self, tmp_path):
        logs = []
        for batch_size, steps in [(4, 1), (2, 2), (1, 4)]:
            run = self.trainer(
                tmp_path,
                examples(4),
                max_steps=1,
                per_device_train_batch_size=batch_size,
                gradient_accumulation_steps=steps,
                save_strategy="no",
                still=True,
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
            assert log["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-3)

    def test_resumed_training_equals_an_uninterrupted_one(self, tmp_path):
        options = {"max_steps": 4, "save_steps": 2, "per_device_train_batch_size": 2}
        whole = self.trainer(tmp_path / "whole", examples(6), **options)
        whole.train()
        interrupted = self.trainer(tmp_path / "parts", examples(6), callbacks=[Interruption()], **options)
        interrupted.train()
        resumed = self.trainer(tmp_path / "parts", examples(6), seed=1, **options)
        resumed.train(resume_from_checkpoint=True)

        assert (interrupted.state.global_step, resumed.state.global_step) == (2, 4)
        assert_equal_tensors(resumed.model.state_dict(), whole.model.state_dict())
        assert resumed.state.log_history[-2]["loss"] == whole.state.log_history[-2]["loss"]

    def test_best_checkpoint_is_restored_whole_at_the_end(self, tmp_path):
        run = self.trainer(
            tmp_path,
            examples(2),
            max_steps=2,
            per_device_train_batch_size=2,
            eval_strategy="steps",
            eval_steps=1,
            save_steps=1,
            load_best_model_at_end=True,
            metric_for_best_model="score",
        )
        scores = iter([3.0, 2.0])
        run.compute_metrics = lambda _: {"score": next(scores)}
        run.train()
        best = tmp_path / "checkpoint-1"
        assert run.state.best_model_checkpoint == str(best)
        assert_equal_tensors(run.model.state_dict(), self.model_class.from_pretrained(best).state_dict())
        name = "decode_head.offset_learning.cls_repr"
        last = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
        assert not torch.equal(last[name], run.model.state_dict()[name])

    # Files

    def test_nothing_is_reported_when_a_whole_model_is_loaded(self, model, tmp_path, transformers_log):
        model.save_pretrained(tmp_path)
        with transformers_log.at_level(logging.WARNING):
            loaded, report = AutoModelForSemanticSegmentation.from_pretrained(tmp_path, output_loading_info=True)
        assert type(loaded) is self.model_class and not loaded.training
        assert_equal_tensors(loaded.state_dict(), model.state_dict())
        assert not any(report.values()) and not transformers_log.text
        pixel_values = torch.rand(1, 3, 64, 64)
        assert torch.equal(loaded(pixel_values).logits, model(pixel_values).logits)

    def test_names_stay_when_a_loaded_model_is_saved_again(self, model, tmp_path):
        model.save_pretrained(tmp_path / "first")
        self.model_class.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
        first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
        assert_equal_tensors(second, first)

    @pytest.mark.parametrize("num_labels", [1, 2, 8])
    def test_only_the_classes_are_new_when_their_number_changes(self, model, num_labels, tmp_path):
        model.save_pretrained(tmp_path)
        loaded, report = self.model_class.from_pretrained(
            tmp_path, num_labels=num_labels, ignore_mismatched_sizes=True, output_loading_info=True
        )
        new = {name for name in model.state_dict() if "cls_repr" in name or "mask_norm" in name}
        kept = {name: tensor for name, tensor in model.state_dict().items() if name not in new}
        assert_equal_tensors({name: tensor for name, tensor in loaded.state_dict().items() if name not in new}, kept)
        assert {name for name, *_ in report["mismatched_keys"]} <= new and not report["missing_keys"]
        assert loaded(torch.rand(1, 3, 64, 64)).logits.shape == (1, num_labels, *self.logits_size(64, 64))

    def test_error_when_the_number_of_classes_changes_unasked(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
            self.model_class.from_pretrained(tmp_path, num_labels=8)

    def test_load_state_dict_restores_every_tensor_of_a_file(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        other = randomised(self.new_model(), seed=1)
        other.load_state_dict(load_file(tmp_path / "model.safetensors"))
        assert_equal_tensors(other.state_dict(), model.state_dict())

    def test_accelerator_load_state_restores_every_tensor(self, model, tmp_path):
        accelerator = Accelerator(cpu=True)
        model = accelerator.prepare(model)
        expected = copy.deepcopy(model.state_dict())
        accelerator.save_state(tmp_path)
        randomised(model, seed=1)
        accelerator.load_state(tmp_path)
        assert_equal_tensors(model.state_dict(), expected)

    @pytest.mark.parametrize("options", [{"device_map": "cpu"}, {"device_map": "auto"}, {"low_cpu_mem_usage": True}])
    def test_loading_options_give_the_same_model(self, model, options, tmp_path):
        model.save_pretrained(tmp_path)
        loaded = self.model_class.from_pretrained(tmp_path, **options)
        pixel_values = torch.rand(1, 3, 64, 64)
        expected = model.to(loaded.device)(pixel_values.to(loaded.device)).logits
        assert torch.equal(loaded(pixel_values.to(loaded.device)).logits, expected)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_dtype_is_the_one_asked_for(self, model, dtype, tmp_path):
        model.save_pretrained(tmp_path)
        loaded = self.model_class.from_pretrained(tmp_path, dtype=dtype)
        assert_equal_tensors(loaded.state_dict(), model.to(dtype).state_dict())
        assert loaded(torch.rand(1, 3, 64, 64, dtype=dtype)).logits.dtype == dtype

    def test_sharded_files_hold_every_tensor(self, model, tmp_path):
        model.save_pretrained(tmp_path, max_shard_size="20KB")
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert len(set(index["weight_map"].values())) > 1
        assert_equal_tensors(self.model_class.from_pretrained(tmp_path).state_dict(), model.state_dict())

    def test_pipeline_segments_a_photo_without_a_warning(self, tmp_path, transformers_log):
        id2label = {0: "sky", 1: "road", 2: "car"}
        self.model_class(self.config_class(**self.tiny, id2label=id2label)).save_pretrained(tmp_path)
        OffSegImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
        photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8))
        with transformers_log.at_level(logging.WARNING):
            segments = pipeline("image-segmentation", model=str(tmp_path))(photo)
        assert not transformers_log.text
        assert segments and {segment["label"] for segment in segments} <= {"sky", "road", "car"}
        assert all(segment["mask"].size == (90, 70) for segment in segments)

    def test_auto_image_processor_is_ours_for_a_configuration_alone(self, model, tmp_path):
        model.config.save_pretrained(tmp_path)
        processor = OffSegImageProcessor(do_reduce_labels=True).to_dict()
        del processor["image_processor_type"]
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
        processor = AutoImageProcessor.from_pretrained(tmp_path)
        assert type(processor) is OffSegImageProcessor and processor.do_reduce_labels
