"""OffsetLearningForSemanticSegmentation: starts as its base, whatever that is, and learns from there."""

import copy
import logging
import re

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from segmentation_model_tests import Interruption, assert_equal_tensors, coloured_examples, examples, randomised
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForSemanticSegmentation,
    BeitConfig,
    BeitImageProcessorPil,
    ConvNextConfig,
    Data2VecVisionConfig,
    DPTConfig,
    MobileNetV2Config,
    MobileViTConfig,
    MobileViTV2Config,
    PreTrainedConfig,
    PreTrainedModel,
    SegformerConfig,
    SwinConfig,
    Trainer,
    TrainingArguments,
    UperNetConfig,
    pipeline,
)
from transformers.modeling_outputs import SemanticSegmenterOutput

from offseg_hf import OffsetLearningConfig, OffsetLearningForSemanticSegmentation
from offseg_hf.models.modeling_offset_learning_wrapper import ClassifierOffsetLearning
from offseg_hf.models.offset_learning import OffsetLearning

STAGES = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
VIT = {
    "image_size": 64,
    "patch_size": 16,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
BACKBONE = ConvNextConfig(**STAGES, out_features=["stage1", "stage2", "stage3", "stage4"])
# Name: configuration of a tiny model, path of its classifier, image sizes that it takes.
BASES = {
    "segformer": (
        lambda **fields: SegformerConfig(**STAGES, num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16, **fields),
        "decode_head.classifier",
        [(64, 64), (33, 47), (96, 160)],
    ),
    "upernet": (
        lambda **fields: UperNetConfig(
            backbone_config=BACKBONE, hidden_size=16, auxiliary_in_channels=16, auxiliary_channels=8, **fields
        ),
        "decode_head.classifier",
        [(64, 64), (70, 101), (96, 160)],
    ),
    "beit": (
        lambda **fields: BeitConfig(
            **VIT, out_indices=[1, 2, 3, 4], pool_scales=[1, 2], auxiliary_channels=8, drop_path_rate=0, **fields
        ),
        "decode_head.classifier",
        [(64, 64)],
    ),
    "data2vec": (
        lambda **fields: Data2VecVisionConfig(
            **VIT, out_indices=[0, 1, 2, 3], pool_scales=[1, 2], auxiliary_channels=8, drop_path_rate=0, **fields
        ),
        "decode_head.classifier",
        [(64, 64)],
    ),
    "dpt": (
        lambda **fields: DPTConfig(
            **VIT,
            is_hybrid=False,
            backbone_out_indices=[0, 1, 2, 3],
            neck_hidden_sizes=[8, 8, 16, 16],
            fusion_hidden_size=16,
            **fields,
        ),
        "head.head.4",
        [(64, 64)],
    ),
    "mobilevit": (
        lambda **fields: MobileViTConfig(
            image_size=64,
            hidden_sizes=[12, 16, 20],
            neck_hidden_sizes=[8, 8, 12, 16, 16, 16, 32],
            num_attention_heads=2,
            aspp_out_channels=16,
            **fields,
        ),
        "segmentation_head.classifier.convolution",
        [(64, 64), (96, 160)],
    ),
    "mobilevitv2": (
        lambda **fields: MobileViTV2Config(
            image_size=64, width_multiplier=0.125, ffn_multiplier=1, aspp_out_channels=16, **fields
        ),
        "segmentation_head.classifier.convolution",
        [(64, 64), (96, 160)],
    ),
    "mobilenet_v2": (
        lambda **fields: MobileNetV2Config(
            image_size=64, depth_multiplier=0.1, min_depth=8, finegrained_output=False, **fields
        ),
        "segmentation_head.classifier.convolution",
        [(64, 64), (33, 47), (96, 160)],
    ),
}
every_base = pytest.mark.parametrize("name", BASES)
some_bases = pytest.mark.parametrize("name", ["segformer", "beit"])
NEW = {"cls_repr", "cls_offset_proj.weight", "feat_offset_proj.weight", "mask_norm.bias"}


def tiny_base(name="segformer", num_labels=4, **fields):
    """A base in evaluation mode whose weights and statistics are all far from their start."""
    torch.manual_seed(0)
    config = BASES[name][0](num_labels=num_labels, **fields)
    return randomised(AutoModelForSemanticSegmentation.from_config(config)).eval()


def wrapped(base, **arguments):
    return OffsetLearningForSemanticSegmentation.from_base(base, **arguments)


def trained(model):
    """`model` with an offset-learning layer that no longer is the classifier it started as."""
    generator = torch.Generator().manual_seed(3)
    for parameter in model.offset_learning.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture
def pixel_values():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels():
    return torch.randint(0, 4, (2, 64, 64), generator=torch.Generator().manual_seed(2))


def upsampled_label_map(logits, size):
    return F.interpolate(logits, size, mode="bilinear").argmax(1)


# The start


@every_base
def test_label_map_is_the_bases_before_training(name):
    base = tiny_base(name)
    classifier = base.get_submodule(BASES[name][1])
    classifier.bias.data -= base(torch.randn(2, 3, 64, 64)).logits.mean((0, 2, 3))  # so that no class is everywhere
    model = wrapped(base)
    for size in BASES[name][2]:
        images = torch.randn(2, 3, *size)
        logits, expected = model(images).logits, base(images).logits
        assert torch.equal(logits, expected)
        label_map = upsampled_label_map(logits, size)
        assert torch.equal(label_map, upsampled_label_map(expected, size)) and len(label_map.unique()) > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("num_classes", "channels"), [(1, 32), (2, 32), (19, 32), (150, 64)])
def test_layer_answers_what_the_classifier_answers_when_it_starts(num_classes, channels, bias, dtype):
    classifier = nn.Conv2d(channels, num_classes, 1, bias=bias, dtype=dtype)
    layer = ClassifierOffsetLearning(num_classes, channels, "class_bias").to(dtype)
    layer.start_from(classifier)
    features = 3 * torch.randn(2, channels, 31, 17, dtype=dtype)
    assert torch.equal(layer(features), classifier(features))


@pytest.mark.parametrize("normalization", ["class_bias", "layer_norm", "fitted_layer_norm"])
@pytest.mark.parametrize("num_classes", [4, 40])
def test_layer_is_offset_learning_when_trained(num_classes, normalization):
    layer = OffsetLearning(num_classes, 16, normalization).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    other = ClassifierOffsetLearning(num_classes, 16, normalization).double()
    other.load_state_dict(layer.state_dict())
    features = torch.randn(2, 16, 9, 7, dtype=torch.float64)
    torch.testing.assert_close(other(features), layer(features), rtol=1e-10, atol=1e-10)


@every_base
def test_only_the_classifier_is_replaced(name):
    base, path = tiny_base(name), BASES[name][1]
    model = wrapped(base)
    assert model.config.classifier == path and type(model.offset_learning) is ClassifierOffsetLearning
    kept = {f"model.{key}": tensor for key, tensor in base.state_dict().items() if not key.startswith(f"{path}.")}
    state_dict = model.state_dict()
    assert state_dict.keys() - kept.keys() == {f"model.{path}.{key}" for key in NEW}
    assert_equal_tensors({key: state_dict[key] for key in kept}, kept)
    modules = {name: type(module) for name, module in base.named_modules() if not name.startswith(path)}
    assert modules.items() <= {name: type(module) for name, module in model.model.named_modules()}.items()


def test_model_given_stays_as_it_is(pixel_values, labels):
    base = tiny_base()
    state_dict, logits, config = copy.deepcopy(base.state_dict()), base(pixel_values).logits, base.config.to_dict()
    model = wrapped(base).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(pixel_values, labels=labels).loss.backward()
    optimizer.step()
    model.config.num_labels = 7
    assert type(base.decode_head.classifier) is nn.Conv2d and base.config.to_dict() == config
    assert_equal_tensors(base.state_dict(), state_dict)
    assert torch.equal(base(pixel_values).logits, logits)


@pytest.mark.parametrize("training", [False, True])
def test_mode_frozen_parameters_and_dtype_are_the_bases(training):
    base = tiny_base().bfloat16().train(training)
    base.segformer.requires_grad_(False)
    model = wrapped(base)
    assert {module.training for module in model.modules()} == {training}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    trainable = {name.split(".")[1] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {"decode_head"} and model.config.dtype == torch.bfloat16


def test_weights_given_are_kept_when_the_library_has_not_seen_them_made():
    base = tiny_base()
    for module in base.modules():
        module._is_hf_initialized = False
    assert_equal_tensors(wrapped(base).model.segformer.state_dict(), base.segformer.state_dict())


@pytest.mark.parametrize("num_labels", [1, 2])
def test_few_classes_work_as_in_the_base(num_labels, pixel_values, labels):
    base = tiny_base(num_labels=num_labels)
    model = wrapped(base)
    outputs, expected = (m(pixel_values, labels=labels % 2) for m in (model, base))
    assert torch.equal(outputs.logits, expected.logits) and torch.equal(outputs.loss, expected.loss)


@pytest.mark.parametrize("normalization", ["layer_norm", "fitted_layer_norm"])
def test_layer_norm_normalises_the_logits_without_the_classifiers_bias(normalization, pixel_values):
    base = tiny_base()
    logits = wrapped(base, logit_normalization=normalization)(pixel_values).logits
    base.decode_head.classifier.bias.data.zero_()
    unbiased = base(pixel_values).logits
    gain = OffsetLearning(4, 16, normalization).mask_norm.gain
    expected = gain * F.layer_norm(unbiased.movedim(1, -1), (4,)).movedim(-1, 1)
    torch.testing.assert_close(logits, expected)
    assert torch.equal(logits.argmax(1), unbiased.argmax(1))


def test_error_when_a_layer_norm_would_have_fewer_than_3_classes():
    with pytest.raises(Exception, match="`logit_normalization` must be 'class_bias' for fewer than 3 classes"):
        wrapped(tiny_base(num_labels=2), logit_normalization="layer_norm")


# Where the classifier is


def test_classifier_is_the_layer_of_that_name_when_several_fit():
    base = tiny_base("upernet", num_labels=16)  # as many classes as the head has channels
    assert wrapped(base).config.classifier == "decode_head.classifier"


def test_error_lists_the_candidates_when_several_fit():
    base = tiny_base("dpt", num_labels=16)
    with pytest.raises(
        ValueError, match=r"`classifier` must be the path of .* got \d+ that fit; candidates are"
    ) as error:
        wrapped(base)
    assert "'head.head.4' (1×1 Conv2d, 16 → 16)" in str(error.value) and "auxiliary_head" not in str(error.value)
    assert wrapped(base, classifier="head.head.4").config.classifier == "head.head.4"


def test_error_lists_the_candidates_when_none_fits():
    base = tiny_base()
    base.decode_head.classifier = nn.Conv2d(16, 4, kernel_size=3, padding=1)
    message = r"got 0 that fit; candidates are 'decode_head.classifier' \(3×3 Conv2d, 16 → 4\)\.$"
    with pytest.raises(ValueError, match=message):
        wrapped(base)
    base.decode_head.classifier = nn.Linear(16, 7)
    with pytest.raises(ValueError, match=r"candidates are .*'decode_head.classifier' \(Linear, 16 → 7\)\.$"):
        wrapped(base)


@pytest.mark.parametrize(
    "path", ["decode_head.nonesuch", "decode_head", "decode_head.linear_fuse", "segformer.stages.0.blocks.0.mlp.fc1"]
)
def test_error_when_the_layer_named_is_not_the_classifier(path):
    message = rf"`classifier` must be .* got '{path}'; candidates are 'decode_head.classifier' \(1×1 Conv2d, 16 → 4\)"
    with pytest.raises(ValueError, match=message):
        wrapped(tiny_base(), classifier=path)


def test_error_when_an_auxiliary_head_is_named():
    with pytest.raises(ValueError, match=r"outside of an auxiliary head, got 'auxiliary_head.classifier'"):
        wrapped(tiny_base("upernet"), classifier="auxiliary_head.classifier")


def test_error_when_it_is_no_transformers_model():
    with pytest.raises(ValueError, match=r"`model_or_path` must be a transformers model, .* got Sequential; pass"):
        wrapped(nn.Sequential())


def test_error_when_arguments_for_loading_come_with_a_model():
    with pytest.raises(ValueError, match="`num_labels` must be left out where `model_or_path` is a model"):
        wrapped(tiny_base(), num_labels=5)


# The base's own behaviour


@every_base
def test_loss_and_outputs_are_the_bases(name, pixel_values, labels):
    base = tiny_base(name)
    model = wrapped(base)
    labels[0, :20] = 255
    outputs, expected = (m(pixel_values, labels=labels, output_hidden_states=True) for m in (model, base))
    assert type(outputs) is type(expected) and torch.equal(outputs.loss, expected.loss)
    for state, expected_state in zip(outputs.hidden_states, expected.hidden_states, strict=True):
        assert torch.equal(state, expected_state)
    as_tuples = (m(pixel_values, labels=labels, return_dict=False) for m in (model, base))
    for output, expected_output in zip(*as_tuples, strict=True):
        assert torch.equal(output, expected_output) if torch.is_tensor(output) else len(output) == len(expected_output)


@pytest.mark.parametrize("name", ["segformer", "beit", "data2vec", "dpt"])
def test_attention_implementation_is_set_in_the_base(name, pixel_values):
    model = trained(wrapped(tiny_base(name)))
    assert model.config._attn_implementation == model.model.config._attn_implementation == "sdpa"
    logits = model(pixel_values).logits
    model.set_attn_implementation("eager")
    outputs = model(pixel_values, output_attentions=True)
    assert len(outputs.attentions) == 4
    torch.testing.assert_close(outputs.logits, logits, rtol=1e-4, atol=1e-4)


def test_attention_implementations_are_the_bases_own_when_they_differ(tmp_path):
    swin = SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=2,
        out_indices=[1, 2, 3, 4],
    )
    config = UperNetConfig(
        backbone_config=swin, hidden_size=16, auxiliary_in_channels=32, auxiliary_channels=8, num_labels=4
    )
    base = AutoModelForSemanticSegmentation.from_config(config)
    implementations = (base.config._attn_implementation, base.backbone.config._attn_implementation)
    assert implementations == ("eager", "sdpa")
    model = wrapped(base)
    model.save_pretrained(tmp_path)
    for same in (model, OffsetLearningForSemanticSegmentation.from_pretrained(tmp_path)):
        assert implementations == (same.config._attn_implementation, same.model.backbone.config._attn_implementation)
    eager = OffsetLearningForSemanticSegmentation.from_pretrained(tmp_path, attn_implementation="eager")
    assert eager.model.backbone.config._attn_implementation == "eager"


@some_bases
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
def test_gradient_checkpointing_reaches_the_base(name, pixel_values, labels):
    model = trained(wrapped(tiny_base(name)))
    gradients = []
    for checkpointing in (False, True):
        run = copy.deepcopy(model).train()
        if checkpointing:
            run.gradient_checkpointing_enable()
            assert any(getattr(module, "gradient_checkpointing", False) for module in run.model.modules())
        torch.manual_seed(0)  # of drop path and dropout
        run(pixel_values, labels=labels).loss.backward()
        gradients.append([parameter.grad for parameter in run.parameters()])
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
def test_error_when_the_base_cannot_checkpoint_gradients():
    with pytest.raises(ValueError, match="OffsetLearningForSemanticSegmentation does not support"):
        wrapped(tiny_base("mobilenet_v2")).gradient_checkpointing_enable()


def test_modules_that_must_stay_on_one_device_are_the_bases_and_the_layer():
    assert wrapped(tiny_base())._no_split_modules >= {"ClassifierOffsetLearning", "SegformerStage"}


@pytest.mark.parametrize(
    "name", ["segformer", *(pytest.param(name, marks=pytest.mark.slow) for name in BASES if name != "segformer")]
)
def test_compiles_in_one_graph_without_a_forward_pass_before(name, pixel_values):
    model = trained(wrapped(tiny_base(name)))
    torch.compiler.reset()
    with torch.no_grad():
        logits = torch.compile(model, fullgraph=True, backend="eager")(pixel_values).logits
        assert torch.equal(logits, model(pixel_values).logits)


def test_bfloat16_and_autocast_are_close_to_float32(pixel_values, labels):
    model = trained(wrapped(tiny_base()))
    expected = model(pixel_values).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(pixel_values, labels=labels)
    outputs.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    half = copy.deepcopy(model).bfloat16()(pixel_values.bfloat16()).logits
    for logits in (outputs.logits, half):
        assert (logits.float() - expected).norm() < 0.1 * expected.norm()


def test_float16_is_finite_when_the_products_leave_its_range():
    layer = ClassifierOffsetLearning(4, 16, "layer_norm").half()
    nn.init.constant_(layer.cls_repr, 10)
    assert layer(torch.full((1, 16, 8, 8), 1000.0, dtype=torch.float16)).isfinite().all()


# Learning


@every_base
def test_every_new_parameter_moves_and_a_tiny_data_set_is_learnt(name):
    images, labels = coloured_examples(2, 4)
    torch.manual_seed(0)
    # Without dropout, with gradients clipped and a rate that ends at 0, so that rounding decides nothing: on several
    # processors and from several seeds the losses end below 0.45 of the first one.
    dropout = {"mobilevit": ("classifier_dropout_prob", "hidden_dropout_prob")}.get(name, ("classifier_dropout_prob",))
    still = dict.fromkeys(dropout, 0.0) if "mobile" in name else {}
    num_steps = 80 if "mobile" in name else 20  # their logits are at 1/32 of the image
    base = AutoModelForSemanticSegmentation.from_config(BASES[name][0](num_labels=4, **still))
    model = wrapped(base).train()
    start = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2, weight_decay=0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=num_steps)
    losses = []
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss = model(images, labels=labels).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    for key in NEW:
        path = f"model.{BASES[name][1]}.{key}"
        assert not torch.equal(model.state_dict()[path], start[path]), key
    assert sum(losses[-3:]) / 3 < 0.8 * losses[0]


def trainer(folder, name, callbacks=(), seed=0, **arguments):
    """Trainer of a wrapped model; `seed` is that of the model's start, not of the training."""
    model = randomised(wrapped(tiny_base(name)), seed)
    quiet = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False}
    arguments = TrainingArguments(output_dir=str(folder), learning_rate=1e-3, logging_steps=1, **quiet, **arguments)
    return Trainer(model, arguments, train_dataset=examples(4), callbacks=list(callbacks))


@some_bases
def test_resumed_training_equals_an_uninterrupted_one(name, tmp_path):
    options = {"max_steps": 3, "save_steps": 2, "per_device_train_batch_size": 2}
    whole = trainer(tmp_path / "whole", name, **options)
    whole.train()
    trainer(tmp_path / "parts", name, callbacks=[Interruption()], **options).train()
    resumed = trainer(tmp_path / "parts", name, seed=1, **options)
    resumed.train(resume_from_checkpoint=True)
    assert_equal_tensors(resumed.model.state_dict(), whole.model.state_dict())


def test_accumulated_gradients_equal_those_of_the_whole_batch(tmp_path):
    norms = []
    for batch_size, steps in [(4, 1), (2, 2)]:
        options = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": steps, "max_steps": 1}
        run = trainer(tmp_path, "beit", save_strategy="no", **options)
        for module in run.model.modules():
            module.eval()  # its statistics would be those of the smaller batch
            module.train = lambda mode=True: None
        run.train()
        norms.append(run.state.log_history[0]["grad_norm"])
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)


# Files


@every_base
def test_files_keep_the_bases_names_and_every_tensor(name, tmp_path, transformers_log):
    base, path = tiny_base(name), BASES[name][1]
    model = trained(wrapped(base))
    base.save_pretrained(tmp_path / "base")
    model.save_pretrained(tmp_path / "first")
    file = load_file(tmp_path / "first" / "model.safetensors")
    names = {f"model.{key}" for key in load_file(tmp_path / "base" / "model.safetensors")}
    assert {key for key in names if not key.startswith(f"model.{path}.")} == {
        key for key in file if not key.startswith(f"model.{path}.")
    }
    assert {key for key in file if key.startswith(f"model.{path}.")} == {f"model.{path}.{key}" for key in NEW}

    with transformers_log.at_level(logging.WARNING):
        loaded, report = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "first", output_loading_info=True)
    assert type(loaded) is OffsetLearningForSemanticSegmentation and not loaded.training
    assert not any(report.values()) and not transformers_log.text
    assert_equal_tensors(loaded.state_dict(), model.state_dict())
    loaded.save_pretrained(tmp_path / "second")
    assert_equal_tensors(load_file(tmp_path / "second" / "model.safetensors"), file)

    randomised(loaded, seed=1)
    loaded.load_state_dict(file)  # as Trainer and Accelerate do
    assert_equal_tensors(loaded.state_dict(), model.state_dict())


def test_base_in_a_folder_is_loaded_with_the_callers_arguments(tmp_path, pixel_values):
    base = tiny_base()
    base.save_pretrained(tmp_path)
    model = wrapped(tmp_path)
    assert torch.equal(model(pixel_values).logits, base(pixel_values).logits) and not model.training
    model.save_pretrained(tmp_path / "wrapped")
    assert str(tmp_path) not in (tmp_path / "wrapped" / "config.json").read_text()
    assert wrapped(tmp_path, attn_implementation="eager").model.config._attn_implementation == "eager"

    names = {0: "sky", 1: "road"}
    model = wrapped(str(tmp_path), id2label=names, ignore_mismatched_sizes=True, dtype=torch.bfloat16)
    assert (model.config.id2label, model.dtype) == (names, torch.bfloat16)
    assert model(pixel_values.bfloat16()).logits.shape == (2, 2, 16, 16)
    assert_equal_tensors(model.model.segformer.state_dict(), base.bfloat16().segformer.state_dict())


@pytest.mark.parametrize("given", [{"num_labels": 6}, {"id2label": {0: "sky", 1: "road"}}])
def test_only_the_classes_are_new_when_their_number_changes(given, tmp_path, pixel_values):
    model = trained(wrapped(tiny_base("upernet")))
    model.save_pretrained(tmp_path)
    loaded = OffsetLearningForSemanticSegmentation.from_pretrained(tmp_path, ignore_mismatched_sizes=True, **given)
    num_labels = loaded.config.num_labels
    assert num_labels == loaded.model.config.num_labels == given.get("num_labels", 2)
    assert loaded(pixel_values).logits.shape == (2, num_labels, 64, 64)
    new = ("decode_head.classifier.cls_repr", "decode_head.classifier.mask_norm.bias", "auxiliary_head.classifier")
    kept = {name: t for name, t in model.state_dict().items() if not name.removeprefix("model.").startswith(new)}
    assert_equal_tensors({name: loaded.state_dict()[name] for name in kept}, kept)
    classes = loaded.offset_learning.cls_repr
    assert classes.std().item() == pytest.approx(1 / (3 * classes.shape[2]) ** 0.5, rel=0.4)  # of few values
    assert not loaded.offset_learning.mask_norm.bias.any()

    loaded.save_pretrained(tmp_path / "again")
    again = AutoConfig.from_pretrained(tmp_path / "again")
    assert again.id2label == again.base_config.id2label == loaded.config.id2label


def test_error_when_the_number_of_classes_changes_unasked(tmp_path):
    wrapped(tiny_base()).save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        OffsetLearningForSemanticSegmentation.from_pretrained(tmp_path, num_labels=8)


@pytest.mark.parametrize("normalization", ["class_bias", "fitted_layer_norm"])
def test_layer_starts_as_offset_learning_does_when_there_is_no_trained_base(normalization, tmp_path):
    config = OffsetLearningConfig(base_config=BASES["segformer"][0](num_labels=4), logit_normalization=normalization)
    model = OffsetLearningForSemanticSegmentation(config)
    assert model.config.classifier == "decode_head.classifier"
    model.save_pretrained(tmp_path)
    file = load_file(tmp_path / "model.safetensors")
    encoder_alone = {name: tensor for name, tensor in file.items() if "decode_head" not in name}
    loaded = OffsetLearningForSemanticSegmentation.from_pretrained(None, config=config, state_dict=encoder_alone)
    for layer in (model.offset_learning, loaded.offset_learning):
        as_convolution = 1 / (3 * layer.cls_repr.shape[2]) ** 0.5
        expected = as_convolution if normalization == "class_bias" else 0.02
        assert layer.cls_repr.std().item() == pytest.approx(expected, rel=0.4)  # of few values
        for projection in (layer.cls_offset_proj, layer.feat_offset_proj):
            assert 0.01 < projection.weight.std() < 0.03
        if normalization == "class_bias":
            assert not layer.mask_norm.bias.any()
        else:
            assert (layer.mask_norm.weight == layer.mask_norm.gain).all() and not layer.mask_norm.bias.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype_is_the_one_asked_for_and_that_of_the_file_by_default(dtype, tmp_path):
    model = trained(wrapped(tiny_base()))
    model.save_pretrained(tmp_path / "float32")
    loaded = OffsetLearningForSemanticSegmentation.from_pretrained(tmp_path / "float32", dtype=dtype)
    assert_equal_tensors(loaded.state_dict(), model.to(dtype).state_dict())
    loaded.save_pretrained(tmp_path / "other")
    again = OffsetLearningForSemanticSegmentation.from_pretrained(tmp_path / "other", dtype="auto")
    assert_equal_tensors(again.state_dict(), loaded.state_dict())


@pytest.mark.parametrize("options", [{"device_map": "cpu"}, {"device_map": "auto"}])
def test_loading_options_give_the_same_model(options, tmp_path, pixel_values):
    model = trained(wrapped(tiny_base()))
    model.save_pretrained(tmp_path)
    loaded = OffsetLearningForSemanticSegmentation.from_pretrained(tmp_path, **options)
    expected = model.to(loaded.device)(pixel_values.to(loaded.device)).logits
    assert torch.equal(loaded(pixel_values.to(loaded.device)).logits, expected)


def test_pipeline_segments_a_photo_with_the_bases_image_processor(tmp_path, transformers_log):
    trained(wrapped(tiny_base("beit", num_labels=3, id2label={0: "sky", 1: "road", 2: "car"}))).save_pretrained(
        tmp_path
    )
    BeitImageProcessorPil(size={"height": 64, "width": 64}, crop_size={"height": 64, "width": 64}).save_pretrained(
        tmp_path
    )
    with transformers_log.at_level(logging.ERROR):
        segments = pipeline("image-segmentation", model=str(tmp_path))(Image.new("RGB", (90, 70), "red"))
    assert not [record for record in transformers_log.records if record.levelno >= logging.ERROR]
    assert {segment["label"] for segment in segments} <= {"sky", "road", "car"}
    assert all(segment["mask"].size == (90, 70) for segment in segments)


class OwnConfig(PreTrainedConfig):
    model_type = "own_segmentation"


class OwnForSemanticSegmentation(PreTrainedModel):
    """A base that transformers does not know: one convolution and a classifier."""

    config: OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.out = nn.Conv2d(8, config.num_labels, 1, bias=False)
        self.post_init()

    def forward(self, pixel_values, labels=None, **kwargs):
        return SemanticSegmenterOutput(logits=self.out(self.stem(pixel_values)))


def test_base_of_ones_own_is_loaded_when_it_is_registered(tmp_path, pixel_values, monkeypatch):
    base = randomised(OwnForSemanticSegmentation(OwnConfig(num_labels=4)))
    model = wrapped(base)
    assert model.config.classifier == "out" and torch.equal(model(pixel_values).logits, base(pixel_values).logits)
    model.save_pretrained(tmp_path)
    message = "`base_config` must be of a `model_type` that is registered, got 'own_segmentation'; import .* register"
    with pytest.raises(ValueError, match=message):
        OffsetLearningForSemanticSegmentation.from_pretrained(tmp_path)

    from transformers import CONFIG_MAPPING, MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING

    monkeypatch.setitem(CONFIG_MAPPING._extra_content, "own_segmentation", OwnConfig)
    monkeypatch.setitem(MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING._extra_content, OwnConfig, OwnForSemanticSegmentation)
    loaded = OffsetLearningForSemanticSegmentation.from_pretrained(tmp_path)
    assert_equal_tensors(loaded.state_dict(), model.state_dict())


def test_example_of_the_class_runs_with_a_local_base(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_base("beit").save_pretrained("base")
    BeitImageProcessorPil(size={"height": 64, "width": 64}, crop_size={"height": 64, "width": 64}).save_pretrained(
        "base"
    )
    example = re.findall(r"^ +>>> (.*)$", OffsetLearningForSemanticSegmentation.__doc__, re.MULTILINE)
    code = "\n".join(example).replace("nvidia/segformer-b0-finetuned-ade-512-512", "base")
    scope = {}
    exec(code, scope)
    assert scope["segment"](Image.new("RGB", (90, 70)))


def test_error_when_a_plain_base_is_loaded_as_if_it_had_offset_learning(tmp_path):
    tiny_base().save_pretrained(tmp_path)
    message = "`from_pretrained` must be given a model with offset learning, got one of type 'segformer'; .*from_base"
    with pytest.raises(ValueError, match=message):
        OffsetLearningForSemanticSegmentation.from_pretrained(tmp_path)


def test_configuration_on_disk_stays_the_same_when_saved_again(tmp_path):
    wrapped(tiny_base()).save_pretrained(tmp_path / "first")
    OffsetLearningForSemanticSegmentation.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    first, second = ((tmp_path / name / "config.json").read_text() for name in ("first", "second"))
    assert first == second
