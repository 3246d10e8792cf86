"""OffSegMask2FormerForUniversalSegmentation: what it computes and learns, how torch runs it, its files."""

import copy
import json
import logging

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file
from segmentation_model_tests import Interruption, assert_equal_tensors, coloured_examples, randomised
from torch.nn import functional as F
from transformers import (
    AutoImageProcessor,
    AutoModelForImageSegmentation,
    AutoModelForUniversalSegmentation,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessorPil,
    Trainer,
    TrainingArguments,
    pipeline,
)

from offseg_hf import MaskOffsetLearning, OffSegMask2FormerConfig, OffSegMask2FormerForUniversalSegmentation
from offseg_hf.models.modeling_offseg_mask2former import semantic_scores

SWIN = {
    "model_type": "swin",
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 4,
    "image_size": 64,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
TINY = {
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
    "train_num_points": 64,
    "num_labels": 4,
}
STILL = {"backbone_config": {**SWIN, "drop_path_rate": 0.0}}
LEARNER = {**STILL, "decoder_layers": 2, "train_num_points": 256}
OFFSET_MAPS = {
    f"model.transformer_module.decoder.mask_predictor.offset_learning.{name}_offset_proj.weight"
    for name in ("cls", "feat")
}
UNUSED = "model.pixel_level_module.encoder.swin.layernorm."  # of native backbones, which norm each stage themselves


def new_model(**fields):
    torch.manual_seed(0)
    return OffSegMask2FormerForUniversalSegmentation(OffSegMask2FormerConfig(**{**TINY, **fields}))


def tiny_model(**fields):
    """A model in evaluation mode whose weights are all far from their start."""
    return randomised(new_model(**fields)).eval()


def plain_model():
    """A native Mask2Former, likewise."""
    torch.manual_seed(0)
    return randomised(Mask2FormerForUniversalSegmentation(Mask2FormerConfig(**TINY))).eval()


@pytest.fixture
def model():
    return tiny_model()


@pytest.fixture
def pixel_values():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels():
    labels = torch.randint(0, 4, (2, 64, 64), generator=torch.Generator().manual_seed(2))
    labels[:, :8] = 255
    return labels


def predictor(model):
    return model.model.transformer_module.decoder.mask_predictor


# What it computes


def literal_masks(layer, embeddings, features):
    """(Q + ΔQ)(E + ΔE)ᵀ as the paper writes it, image by image: (B, Q, C) and (B, C, H, W) → (B, Q, H, W)."""
    images = []
    for q, e in zip(embeddings, features.flatten(2).mT):  # (Q, C), (H*W, C)
        a = e @ q.T
        aligned_q = q + a.softmax(0).T @ e @ layer.cls_offset_proj.weight.T
        aligned_e = e + a.softmax(1) @ q @ layer.feat_offset_proj.weight.T
        images.append((aligned_q @ aligned_e.T).unflatten(1, features.shape[2:]))
    return torch.stack(images)


@pytest.fixture
def layer_by_layer(pixel_values):
    """Masks that every decoder layer predicts, those to be expected, and the attention masks that the layers get."""
    model, embeddings, attention_masks = tiny_model().double(), [], []
    predictor(model).mask_embedder.register_forward_hook(lambda module, inputs, output: embeddings.append(output))
    for layer in model.model.transformer_module.decoder.layers:
        layer.register_forward_pre_hook(
            lambda module, inputs, options: attention_masks.append(options["encoder_attention_mask"]),
            with_kwargs=True,
        )
    outputs = model(pixel_values.double(), output_auxiliary_logits=True)
    masks = [*(logits["masks_queries_logits"] for logits in outputs.auxiliary_logits), outputs.masks_queries_logits]
    layer, features = predictor(model).offset_learning, outputs.pixel_decoder_last_hidden_state
    return masks, [literal_masks(layer, q, features) for q in embeddings], attention_masks


def test_masks_of_every_decoder_layer_are_products_of_the_aligned_pair(layer_by_layer):
    masks, expected, _ = layer_by_layer
    assert len(masks) == len(expected) == 3
    for actual, literal in zip(masks, expected):
        torch.testing.assert_close(actual, literal)


def test_queries_attend_to_their_aligned_masks(layer_by_layer):
    _, expected, attention_masks = layer_by_layer
    for literal, attention_mask, size in zip(expected, attention_masks, [(2, 2), (4, 4)]):
        shut = F.interpolate(literal, size, mode="bilinear").flatten(2) < 0  # (B, Q, h*w)
        shut[shut.all(2)] = False  # a query that may look nowhere looks everywhere
        assert shut.any() and not shut.all()
        assert torch.equal(attention_mask.unflatten(0, (2, 2)), shut[:, None].expand(-1, 2, -1, -1))  # (B, heads, …)


def test_one_offset_learning_serves_all_decoder_layers():
    model = new_model(decoder_layers=5)
    assert sum(isinstance(module, MaskOffsetLearning) for module in model.modules()) == 1
    native = Mask2FormerForUniversalSegmentation(Mask2FormerConfig(**{**TINY, "decoder_layers": 5}))
    assert model.num_parameters() == native.num_parameters() + 2 * 32 * 32


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 96), (35, 101), (32, 257)])
def test_masks_are_at_a_quarter_of_any_size(model, size):
    outputs = model(torch.randn(2, 3, *size))
    assert outputs.masks_queries_logits.shape == (2, 5, -(-size[0] // 4), -(-size[1] // 4))
    assert outputs.class_queries_logits.shape == (2, 5, 5)
    assert outputs.masks_queries_logits.isfinite().all() and outputs.class_queries_logits.isfinite().all()


def test_semantic_scores_are_the_masks_counted_for_their_classes():
    class_logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    mask_logits = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    expected = torch.zeros(2, 4, 4, 6)
    for image in range(2):
        for query in range(3):
            probabilities = class_logits[image, query].softmax(0)
            for class_id in range(4):  # the fifth is "no object"
                expected[image, class_id] += probabilities[class_id] * mask_logits[image, query].sigmoid()
    torch.testing.assert_close(semantic_scores(class_logits, mask_logits), expected)


def test_labels_are_learnt_as_one_segment_per_class(model, pixel_values):
    labels = torch.tensor([[[0, 2, 2], [255, 0, 2]], [[3, 3, 3], [3, 3, 3]]])
    mask_labels = [
        torch.tensor([[[1.0, 0, 0], [0, 1, 0]], [[0, 1, 1], [0, 0, 1]]]),
        torch.ones(1, 2, 3),
    ]
    losses = []
    for segments in (
        {"labels": labels},
        {"mask_labels": mask_labels, "class_labels": [torch.tensor([0, 2]), torch.tensor([3])]},
    ):
        torch.manual_seed(0)  # of the points at which masks are compared
        losses.append(model(pixel_values, **segments).loss)
    assert torch.equal(*losses)


def test_loss_honours_the_ignore_index_of_the_configuration(pixel_values, labels):
    losses = []
    for ignore_index in (255, -1):
        model = tiny_model(semantic_loss_ignore_index=ignore_index)
        torch.manual_seed(0)
        losses.append(model(pixel_values, labels=labels.where(labels != 255, ignore_index)).loss)
    assert torch.equal(*losses)


def test_gradients_are_finite_when_all_labels_are_ignored(model, pixel_values):
    loss = model.train()(pixel_values, labels=torch.full((2, 64, 64), 255)).loss
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


def test_error_names_labels_that_are_no_class(model, pixel_values, labels):
    labels[0, 0, 0], labels[0, 5, 5] = 4, 200
    with pytest.raises(
        ValueError, match=r"`labels` must be class ids from 0 to 3 or `ignore_value` .* got \[4, 200\]"
    ):
        model(pixel_values, labels=labels)


@pytest.mark.parametrize("wrong", [torch.zeros(2, 64, 64), torch.zeros(2, 1, 64, 64, dtype=torch.long)])
def test_error_when_labels_are_no_maps_of_ids(wrong, model, pixel_values):
    with pytest.raises(ValueError, match=r"`labels` must be integer class ids of shape \(batch_size, height, width\)"):
        model(pixel_values, labels=wrong)


@pytest.mark.parametrize("name", ["mask_labels", "class_labels"])
def test_error_when_segments_are_given_twice(name, model, pixel_values, labels):
    with pytest.raises(ValueError, match="`labels` must not be given together with `mask_labels` or `class_labels`"):
        model(pixel_values, labels=labels, **{name: [torch.zeros(1)] * 2})


def test_output_is_a_tuple_when_return_dict_is_false(model, pixel_values, labels):
    torch.manual_seed(0)
    outputs = model(pixel_values, labels=labels)
    torch.manual_seed(0)
    loss, classes, masks, *others = model(pixel_values, labels=labels, return_dict=False)
    assert torch.equal(loss, outputs.loss) and len(others) == 3
    assert torch.equal(classes, outputs.class_queries_logits) and torch.equal(masks, outputs.masks_queries_logits)


# The ways torch runs it


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
def test_gradient_checkpointing_gives_the_same_gradients(pixel_values, labels):
    model, gradients = tiny_model(**STILL).train(), []
    for checkpointing in (False, True):
        trained = copy.deepcopy(model)
        if checkpointing:
            trained.gradient_checkpointing_enable()
            assert all(layer.gradient_checkpointing for layer in trained.model.transformer_module.decoder.layers)
        torch.manual_seed(0)
        trained(pixel_values, labels=labels).loss.backward()
        named = trained.named_parameters()
        gradients.append({name: parameter.grad for name, parameter in named if not name.startswith(UNUSED)})
    assert_equal_tensors(*gradients)


def test_sdpa_equals_eager(model, pixel_values):
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    expected = eager(pixel_values).masks_queries_logits
    torch.testing.assert_close(model(pixel_values).masks_queries_logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_predict_and_have_a_loss(dtype, model, pixel_values, labels):
    outputs = copy.deepcopy(model).to(dtype)(pixel_values.to(dtype), labels=labels)
    assert outputs.masks_queries_logits.dtype == outputs.class_queries_logits.dtype == dtype
    assert outputs.masks_queries_logits.isfinite().all() and outputs.class_queries_logits.isfinite().all()
    assert outputs.loss.item() == pytest.approx(model(pixel_values, labels=labels).loss.item(), rel=0.2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_trains_with_finite_gradients(dtype, model, pixel_values, labels):
    with torch.autocast("cpu", dtype=dtype):
        outputs = model.train()(pixel_values, labels=labels)
    outputs.loss.backward()
    assert (outputs.masks_queries_logits.dtype, outputs.loss.dtype) == (torch.float32, torch.float32)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_predicts_the_same_when_compiled_in_one_graph(backend, pixel_values):
    model = tiny_model(decoder_layers=2)
    torch.compiler.reset()
    with torch.no_grad():
        outputs = torch.compile(model, fullgraph=True, backend=backend)(pixel_values)
        expected = model(pixel_values)
    for name in ("masks_queries_logits", "class_queries_logits"):
        torch.testing.assert_close(outputs[name], expected[name], rtol=1e-3, atol=1e-3)


# Learning


@pytest.fixture(scope="module")
def scenes():
    """Noisy images of coloured quarters and their label maps; without the noise, attention would have no gradient."""
    images, labels = coloured_examples(4, 4)
    return images + 0.2 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0)), labels


@pytest.fixture(scope="module")
def learnt(scenes):
    """A model that has learnt the scenes."""
    model = new_model(id2label={0: "red", 1: "green", 2: "blue", 3: "white"}, **LEARNER).train()
    torch.manual_seed(0)  # of the points that the loss is taken at
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3, weight_decay=0)
    # So many steps, and clipped, that rounding decides nothing: four seeds on two versions end above 0.99.
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=160)
    for _ in range(160):
        optimizer.zero_grad()
        model(scenes[0], labels=scenes[1]).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def test_every_parameter_moves(learnt):
    start = new_model(**LEARNER).state_dict()
    for name, parameter in learnt.named_parameters():
        assert not torch.equal(parameter, start[name]) or name.startswith(UNUSED), name


@torch.no_grad()
def test_a_tiny_data_set_is_learnt(learnt, scenes):
    outputs = learnt(scenes[0])
    scores = semantic_scores(outputs.class_queries_logits, outputs.masks_queries_logits)
    assert scores.shape == (4, 4, 16, 16)
    predicted = F.interpolate(scores, (64, 64), mode="bilinear").argmax(1)
    assert (predicted == scenes[1]).float().mean() > 0.9


def saved_with_processor(model, folder):
    model.save_pretrained(folder)
    statistics = {"image_mean": [0.5] * 3, "image_std": [0.125] * 3}  # colours from -4 to 4
    Mask2FormerImageProcessorPil(size={"height": 64, "width": 64}, **statistics).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def segmenter(learnt, tmp_path, transformers_log):
    """The pipeline of the learnt model, loaded without a warning."""
    with transformers_log.at_level(logging.WARNING):
        segmenter = pipeline("image-segmentation", model=saved_with_processor(learnt, tmp_path))
    assert not transformers_log.text
    return segmenter


@pytest.fixture
def photo(scenes):
    """The first scene as a photo of 192×128 pixels."""
    pixels = ((scenes[0][0] * 0.125 + 0.5) * 255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize((128, 192), Image.Resampling.NEAREST)


@pytest.fixture
def photo_labels(scenes):
    return scenes[1][0].repeat_interleave(3, 0).repeat_interleave(2, 1)  # (192, 128)


def is_inside(segment):
    """Where a segment is, (height, width)."""
    return torch.from_numpy(np.array(segment["mask"])) > 0


def test_pipeline_names_the_class_of_every_pixel(segmenter, photo, photo_labels):
    predicted = torch.full(photo_labels.shape, -1)
    for segment in segmenter(photo, subtask="semantic"):
        assert segment["score"] is None
        predicted[is_inside(segment)] = segmenter.model.config.label2id[segment["label"]]
    assert (predicted == photo_labels).float().mean() > 0.9


@pytest.mark.parametrize("subtask", ["instance", "panoptic"])
def test_pipeline_finds_segments(subtask, segmenter, photo, photo_labels):
    segments = segmenter(photo, subtask=subtask, threshold=0.3)
    best = max(segments, key=lambda segment: segment["score"])
    assert 0.3 < best["score"] <= 1 and is_inside(best).float().mean() > 0.1
    inside = photo_labels[is_inside(best)]
    assert (inside == segmenter.model.config.label2id[best["label"]]).float().mean() > 0.9


def test_auto_image_processor_is_the_native_one(learnt, tmp_path):
    folder = saved_with_processor(learnt, tmp_path)
    assert "Mask2FormerImageProcessor" in type(AutoImageProcessor.from_pretrained(folder)).__name__
    file = tmp_path / "preprocessor_config.json"
    options = json.loads(file.read_text())
    del options["image_processor_type"]
    file.write_text(json.dumps(options))
    assert "Mask2FormerImageProcessor" in type(AutoImageProcessor.from_pretrained(folder)).__name__


def trainer(folder, seed=0, callbacks=(), **arguments):
    """Trainer of a new model; `seed` is that of the model's start, not of the training."""
    images, labels = coloured_examples(6, 4)
    data = [{"pixel_values": image, "labels": ids} for image, ids in zip(images, labels)]
    quiet = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False}
    arguments = TrainingArguments(output_dir=str(folder), learning_rate=1e-3, logging_steps=1, **quiet, **arguments)
    model = randomised(new_model(), seed)
    return Trainer(model, arguments, train_dataset=data, eval_dataset=data, callbacks=list(callbacks))


def test_resumed_training_equals_an_uninterrupted_one(tmp_path):
    options = {"max_steps": 4, "save_steps": 2, "per_device_train_batch_size": 2}
    whole = trainer(tmp_path / "whole", **options)
    whole.train()
    interrupted = trainer(tmp_path / "parts", callbacks=[Interruption()], **options)
    interrupted.train()
    resumed = trainer(tmp_path / "parts", seed=1, **options)
    resumed.train(resume_from_checkpoint=True)

    assert (interrupted.state.global_step, resumed.state.global_step) == (2, 4)
    assert_equal_tensors(resumed.model.state_dict(), whole.model.state_dict())
    assert resumed.state.log_history[-2]["loss"] == whole.state.log_history[-2]["loss"]


def test_accumulated_loss_is_a_mean(tmp_path):
    losses = []
    for batch_size, steps in [(6, 1), (1, 6)]:
        options = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": steps}
        run = trainer(tmp_path, max_steps=1, save_strategy="no", **options)
        run.train()
        losses.append(run.state.log_history[0]["loss"])
    # Not the same: points are drawn anew, and masks are counted batch by batch. A sum would be six times as much.
    assert losses[1] == pytest.approx(losses[0], rel=0.3)


def test_trainer_evaluates_label_maps(tmp_path):
    run = trainer(tmp_path, label_names=["labels"], per_device_eval_batch_size=2)
    predictions, label_ids, metrics = run.predict(run.eval_dataset)
    assert metrics["test_loss"] > 0 and label_ids.shape == (6, 64, 64)
    assert [array.shape for array in predictions] == [(6, 5, 5), (6, 5, 16, 16)]


# Files


@pytest.mark.parametrize("config", [None, OffSegMask2FormerConfig(**TINY)], ids=["of the file", "given"])
def test_plain_checkpoint_is_loaded_bit_for_bit_and_predicts_the_same(config, pixel_values, tmp_path):
    native = plain_model()
    native.save_pretrained(tmp_path)
    options = {"config": config} if config else {}
    model, report = OffSegMask2FormerForUniversalSegmentation.from_pretrained(
        tmp_path, output_loading_info=True, **options
    )
    assert report["missing_keys"] == OFFSET_MAPS
    assert not any(value for name, value in report.items() if name != "missing_keys")
    state_dict = model.state_dict()
    assert not any(state_dict.pop(name).any() for name in OFFSET_MAPS)
    assert_equal_tensors(state_dict, native.state_dict())

    asked = {"output_hidden_states": True, "output_auxiliary_logits": True, "output_attentions": True}
    outputs, expected = model(pixel_values, **asked), native(pixel_values, **asked)
    torch.testing.assert_close(dict(outputs), dict(expected), rtol=0, atol=0)


def test_offset_maps_learn_from_a_plain_checkpoint(pixel_values, labels, tmp_path):
    plain_model().save_pretrained(tmp_path)
    model = OffSegMask2FormerForUniversalSegmentation.from_pretrained(tmp_path).train()
    model(pixel_values, labels=labels).loss.backward()
    assert all(weight.grad.any() for weight in predictor(model).offset_learning.parameters())


def test_saved_files_have_the_names_of_a_plain_checkpoint_and_two_more(model, tmp_path):
    model.save_pretrained(tmp_path / "ours")
    plain_model().save_pretrained(tmp_path / "plain")
    ours, plain = (load_file(tmp_path / name / "model.safetensors").keys() for name in ("ours", "plain"))
    assert ours == plain | OFFSET_MAPS
    assert "model.pixel_level_module.encoder.encoder.layers.0.blocks.0.attention.self.query.weight" in ours


@pytest.mark.parametrize("auto_class", [AutoModelForUniversalSegmentation, AutoModelForImageSegmentation])
def test_nothing_is_reported_when_a_whole_model_is_loaded(auto_class, model, tmp_path, transformers_log):
    model.save_pretrained(tmp_path)
    with transformers_log.at_level(logging.WARNING):
        loaded, report = auto_class.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is OffSegMask2FormerForUniversalSegmentation and not loaded.training
    assert_equal_tensors(loaded.state_dict(), model.state_dict())
    assert not any(report.values()) and not transformers_log.text


def test_new_model_starts_as_described():
    for parameter in predictor(new_model(mask_feature_size=64)).offset_learning.parameters():
        assert parameter.std().item() == pytest.approx(0.02, rel=0.1)


def test_parts_that_a_file_lacks_start_by_their_own_rule(model, tmp_path):
    model.save_pretrained(tmp_path)
    encoder = "model.pixel_level_module.encoder."
    state_dict = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(encoder)}
    loaded = OffSegMask2FormerForUniversalSegmentation.from_pretrained(
        None, config=model.config, state_dict=state_dict
    )
    offsets = loaded.model.pixel_level_module.decoder.encoder.layers[0].self_attn.sampling_offsets
    assert offsets.bias[:4].tolist() == [1, 0, 2, 0] and not offsets.weight.any()  # steps along the first direction
    for parameter in predictor(loaded).offset_learning.parameters():
        assert parameter.std().item() == pytest.approx(0.02, rel=0.2)
    loaded_encoder = {name: tensor for name, tensor in loaded.state_dict().items() if name.startswith(encoder)}
    assert_equal_tensors(loaded_encoder, state_dict)


@pytest.mark.parametrize("plain", [False, True])
def test_only_the_classes_are_new_when_their_number_changes(plain, tmp_path):
    model = plain_model() if plain else tiny_model()
    model.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        OffSegMask2FormerForUniversalSegmentation.from_pretrained(tmp_path, num_labels=7)
    loaded, report = OffSegMask2FormerForUniversalSegmentation.from_pretrained(
        tmp_path, num_labels=7, ignore_mismatched_sizes=True, output_loading_info=True
    )
    new = {"class_predictor.weight", "class_predictor.bias", "criterion.empty_weight"}
    assert {name for name, *_ in report["mismatched_keys"]} == new
    assert report["missing_keys"] == (OFFSET_MAPS if plain else set())
    kept = {name: tensor for name, tensor in model.state_dict().items() if name not in new}
    assert_equal_tensors({name: loaded.state_dict()[name] for name in kept}, kept)
    assert loaded(torch.rand(1, 3, 64, 64)).class_queries_logits.shape == (1, 5, 8)
    assert loaded.criterion.empty_weight.tolist() == pytest.approx([1.0] * 7 + [0.1])


@pytest.mark.parametrize("original_format", [True, False], ids=["Hub names", "current names"])
def test_load_state_dict_restores_every_tensor_of_a_file(original_format, model, tmp_path):
    model.save_pretrained(tmp_path, save_original_format=original_format)
    other = randomised(new_model(), seed=1)
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert_equal_tensors(other.state_dict(), model.state_dict())


def test_accelerator_load_state_restores_every_tensor(model, tmp_path):
    accelerator = Accelerator(cpu=True)
    model = accelerator.prepare(model)
    expected = copy.deepcopy(model.state_dict())
    accelerator.save_state(tmp_path)
    randomised(model, seed=1)
    accelerator.load_state(tmp_path)
    assert_equal_tensors(model.state_dict(), expected)


@pytest.mark.parametrize("options", [{"device_map": "cpu"}, {"device_map": "auto"}, {"dtype": torch.bfloat16}])
def test_loading_options_give_the_same_model(options, model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = OffSegMask2FormerForUniversalSegmentation.from_pretrained(tmp_path, **options)
    assert_equal_tensors(loaded.state_dict(), model.to(loaded.device, loaded.dtype).state_dict())
    pixel_values = torch.rand(1, 3, 64, 64, device=loaded.device, dtype=loaded.dtype)
    assert torch.equal(loaded(pixel_values).masks_queries_logits, model(pixel_values).masks_queries_logits)
