"""OffSegForSemanticSegmentation: what it computes, and the ways transformers and torch run it."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F
from transformers import SegformerConfig, SegformerModel

from offseg_hf import OffSegConfig, OffSegForSemanticSegmentation

TINY = {
    "depths": (1, 1, 1, 1),
    "hidden_sizes": (8, 8, 16, 16),
    "num_attention_heads": (1, 1, 2, 2),
    "decoder_hidden_size": 16,
    "num_labels": 4,
}


def tiny_model(**fields):
    """A model in evaluation mode whose weights and statistics are all far from their start."""
    torch.manual_seed(0)
    model = OffSegForSemanticSegmentation(OffSegConfig(**{**TINY, **fields})).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer += torch.rand_like(buffer)
    return model


@pytest.fixture
def model():
    return tiny_model()


@pytest.fixture
def pixel_values():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels():
    return torch.randint(0, 4, (2, 64, 64), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("size", "logits_size"),
    [((32, 32), (4, 4)), ((33, 47), (4, 6)), ((64, 96), (8, 12)), ((35, 101), (4, 13)), ((32, 257), (4, 32))],
)
def test_logits_are_at_an_eighth_of_any_size(model, size, logits_size):
    logits = model(torch.randn(2, 3, *size)).logits
    assert logits.shape == (2, 4, *logits_size)
    assert logits.isfinite().all()


@pytest.mark.parametrize("size", [(31, 64), (64, 31), (1, 1)])
def test_error_when_the_image_is_too_small(model, size):
    with pytest.raises(
        ValueError, match=rf"`pixel_values` must be at least 32 .*, got \({size[0]}, {size[1]}\); resize"
    ):
        model(torch.randn(1, 3, *size))


def conv_module(module, inputs):
    outputs = torch.einsum("oi,bihw->bohw", module.conv.weight[:, :, 0, 0], inputs)
    bn = module.bn
    statistics = (None, None) if bn.training else (bn.running_mean, bn.running_var)
    return F.batch_norm(outputs, *statistics, bn.weight, bn.bias, training=bn.training).relu()


def literal_head(head, stages, normalization):
    """The decode head as the paper has it: everything concatenated, both offsets made and added."""
    size = stages[0].shape[2:]
    maps = [
        F.interpolate(conv_module(module, stage), size, mode="bilinear", align_corners=False)
        for module, stage in zip(head.convs, stages)
    ]
    features = F.max_pool2d(conv_module(head.fusion_conv, torch.cat(maps, dim=1)), 2)
    images = []
    for image in features:  # (C, H, W)
        layer = head.offset_learning
        embeddings, classes = image.flatten(1).T, layer.cls_repr[0]  # (N, C), (K, C)
        attention = embeddings @ classes.T  # (N, K)
        class_offset = attention.softmax(dim=0).T @ embeddings @ layer.cls_offset_proj.weight.T  # (K, C)
        feature_offset = attention.softmax(dim=1) @ classes @ layer.feat_offset_proj.weight.T  # (N, C)
        logits = (embeddings + feature_offset) @ (classes + class_offset).T  # (N, K)
        if normalization == "class_bias":
            logits = logits + layer.mask_norm.bias
        else:
            logits = F.layer_norm(logits, logits.shape[1:], layer.mask_norm.weight, layer.mask_norm.bias, eps=1e-5)
        images.append(logits.T.unflatten(1, image.shape[1:]))  # (K, H, W)
    return torch.stack(images)


@pytest.mark.parametrize("num_labels", [4, 19], ids=["K < C", "K > C"])
@pytest.mark.parametrize("normalization", ["layer_norm", "fitted_layer_norm", "class_bias"])
@pytest.mark.parametrize("training", [False, True])
def test_logits_equal_those_of_the_literal_head(num_labels, normalization, training):
    model = tiny_model(num_labels=num_labels, logit_normalization=normalization).train(training).double()
    outputs = model(torch.randn(2, 3, 65, 83, dtype=torch.float64), output_hidden_states=True)
    expected = literal_head(model.decode_head, outputs.hidden_states, normalization)
    torch.testing.assert_close(outputs.logits, expected, rtol=1e-9, atol=1e-9)


def test_encoder_is_the_native_one(pixel_values):
    model = tiny_model(layer_norm_eps=1e-5)  # torch's default, which the native modules have
    encoder = SegformerModel(SegformerConfig(**TINY)).eval()
    encoder.load_state_dict(model.segformer.state_dict())
    expected = encoder(pixel_values, output_hidden_states=True).hidden_states
    for state, expected_state in zip(
        model(pixel_values, output_hidden_states=True).hidden_states, expected, strict=True
    ):
        assert torch.equal(state, expected_state)


@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_encoder_honours_layer_norm_eps(eps, pixel_values):
    model = tiny_model(layer_norm_eps=eps)
    embeddings = model.segformer.stages[0].patch_embeddings
    states = embeddings.proj(pixel_values).flatten(2).transpose(1, 2)  # (B, H*W, C)
    expected = F.layer_norm(states, (8,), embeddings.layer_norm.weight, embeddings.layer_norm.bias, eps)
    torch.testing.assert_close(embeddings(pixel_values)[0], expected, rtol=0, atol=1e-6)
    norms = [module for module in model.segformer.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(norms) == 19 and {norm.eps for norm in norms} == {eps}
    assert model.decode_head.offset_learning.mask_norm.eps == 1e-5


@pytest.mark.parametrize("label_size", [(64, 64), (50, 75)])
def test_loss_is_the_cross_entropy_at_the_labels_resolution(model, pixel_values, label_size):
    labels = torch.randint(0, 4, (2, *label_size))
    labels[0, :20] = 255
    outputs = model(pixel_values, labels=labels)
    logits = F.interpolate(outputs.logits, label_size, mode="bilinear")
    assert outputs.loss.item() == pytest.approx(F.cross_entropy(logits, labels, ignore_index=255).item(), rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_coupled_attention_is_asked_for_a_segmentation_too_when_trained_so(training, pixel_values, labels):
    model = tiny_model(attention_loss_weight=0.5).train(training)
    layer, features = model.decode_head.offset_learning, []
    layer.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    outputs = model(pixel_values, labels=labels)
    attention = torch.einsum("bchw,kc->bkhw", features[0], layer.cls_repr[0])
    loss, attention_loss = (
        F.cross_entropy(F.interpolate(scores, (64, 64), mode="bilinear"), labels)
        for scores in (outputs.logits, attention)
    )
    torch.testing.assert_close(outputs.loss, loss + 0.5 * attention_loss if training else loss)


def test_loss_honours_the_ignore_index_of_the_configuration(pixel_values, labels):
    model = tiny_model(semantic_loss_ignore_index=-1)
    ignored = labels.clone()
    ignored[:, 32:] = -1
    expected = tiny_model()(pixel_values, labels=ignored.where(ignored >= 0, 255)).loss
    assert torch.equal(model(pixel_values, labels=ignored).loss, expected)


def test_loss_is_zero_with_finite_gradients_when_all_labels_are_ignored(model, pixel_values):
    loss = model.train()(pixel_values, labels=torch.full((2, 64, 64), 255)).loss
    loss.backward()
    assert loss.item() == 0
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_error_names_labels_that_are_no_class(model, pixel_values, labels):
    labels[0, 0, 0], labels[1, 5, 5] = 4, 200
    with pytest.raises(ValueError, match=r"`labels` must be class ids .* got \[4, 200\]"):
        model(pixel_values, labels=labels)


@pytest.mark.parametrize(
    ("num_labels", "normalization"),
    [(1, "class_bias"), (2, "class_bias"), (3, "layer_norm"), (3, "fitted_layer_norm"), (4, "class_bias")],
)
def test_every_parameter_gets_a_gradient(num_labels, normalization, pixel_values, labels):
    model = tiny_model(num_labels=num_labels, logit_normalization=normalization).train()
    model(pixel_values, labels=labels % max(num_labels, 2)).loss.backward()
    for name, parameter in model.named_parameters():
        # A bias of the keys adds the same to all of a query's scores, and so changes nothing.
        assert parameter.grad.any() or name.endswith("k_proj.bias"), name


@pytest.mark.parametrize("num_labels", [1, 2])
def test_error_when_a_layer_norm_over_fewer_than_3_classes_is_trained(num_labels, pixel_values, labels):
    model = tiny_model(num_labels=num_labels, logit_normalization="layer_norm")
    assert model(pixel_values, labels=labels % 2).loss.isfinite()  # evaluation goes on
    with pytest.raises(ValueError, match="`logit_normalization` must be 'class_bias' to train fewer than 3 classes"):
        model.train()(pixel_values, labels=labels % 2)


def test_hidden_states_are_the_four_stages(model, pixel_values):
    states = model(pixel_values, output_hidden_states=True).hidden_states
    assert [tuple(state.shape) for state in states] == [(2, 8, 16, 16), (2, 8, 8, 8), (2, 16, 4, 4), (2, 16, 2, 2)]
    assert model(pixel_values).hidden_states is None


def test_attentions_are_those_of_every_layer_when_eager(model, pixel_values):
    model.set_attn_implementation("eager")
    attentions = model(pixel_values, output_attentions=True).attentions
    shapes = [(2, 1, 256, 4), (2, 1, 64, 4), (2, 2, 16, 4), (2, 2, 4, 4)]  # (B, heads, queries, keys)
    assert [tuple(attention.shape) for attention in attentions] == shapes
    torch.testing.assert_close(attentions[0].sum(-1), torch.ones(2, 1, 256))


def test_output_is_a_tuple_when_return_dict_is_false(model, pixel_values, labels):
    outputs = model(pixel_values, labels=labels, output_hidden_states=True)
    loss, logits, hidden_states = model(pixel_values, labels=labels, output_hidden_states=True, return_dict=False)
    assert torch.equal(loss, outputs.loss) and torch.equal(logits, outputs.logits) and len(hidden_states) == 4


def test_sdpa_equals_eager(model, pixel_values):
    assert model.config._attn_implementation == "sdpa"
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    torch.testing.assert_close(model(pixel_values).logits, eager(pixel_values).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
def test_gradient_checkpointing_gives_the_same_gradients(model, pixel_values, labels):
    gradients = []
    for checkpointing in (False, True):
        trained = copy.deepcopy(model).train()
        if checkpointing:
            trained.gradient_checkpointing_enable()
            assert all(stage.blocks[0].gradient_checkpointing for stage in trained.segformer.stages)
        torch.manual_seed(0)  # of drop path
        trained(pixel_values, labels=labels).loss.backward()
        gradients.append([parameter.grad for parameter in trained.parameters()])
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_bfloat16_is_close_to_float32(model, pixel_values, labels):
    outputs = copy.deepcopy(model).bfloat16()(pixel_values.bfloat16(), labels=labels)
    expected = model(pixel_values, labels=labels)
    assert outputs.logits.dtype == torch.bfloat16
    error = (outputs.logits - expected.logits).norm() / expected.logits.norm()
    assert error < 0.05
    assert outputs.loss.item() == pytest.approx(expected.loss.item(), rel=0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_trains_with_finite_gradients(model, pixel_values, labels, dtype):
    with torch.autocast("cpu", dtype=dtype):
        outputs = model.train()(pixel_values, labels=labels)
    outputs.loss.backward()
    assert (outputs.logits.dtype, outputs.loss.dtype) == (torch.float32, torch.float32)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_new_model_starts_as_described():
    model = OffSegForSemanticSegmentation(OffSegConfig(num_labels=19))
    layer = model.decode_head.offset_learning
    for weight in (layer.cls_repr, layer.cls_offset_proj.weight, layer.feat_offset_proj.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert weight.abs().max() <= 2
    gain = math.log(999 * 18) * math.sqrt(18) / 19
    torch.testing.assert_close(layer.mask_norm.weight, torch.full((19,), gain))
    assert not layer.mask_norm.bias.any()


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_trains_with_the_same_gradients_when_compiled_in_one_graph(backend, pixel_values, labels):
    model = tiny_model(drop_path_rate=0.0).train()
    reference = copy.deepcopy(model)
    losses = [
        torch.compile(model, fullgraph=True, backend=backend)(pixel_values, labels=labels).loss,
        reference(pixel_values, labels=labels).loss,
    ]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    for (name, parameter), expected in zip(model.named_parameters(), reference.parameters(), strict=True):
        error = (parameter.grad - expected.grad).abs().max()
        assert error <= 1e-3 * expected.grad.abs().max() + 1e-6, name


@pytest.mark.slow
def test_predicts_the_same_when_compiled_in_one_graph(model, pixel_values):
    with torch.no_grad():
        logits = torch.compile(model, fullgraph=True)(pixel_values).logits
        torch.testing.assert_close(logits, model(pixel_values).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_exports_with_any_batch_and_image_size(model):
    dim = torch.export.Dim
    # A map of one pixel is a case of its own to torch.export; 64 pixels give two by two keys in every stage.
    sizes = {0: dim("batch"), 2: dim("height", min=64, max=4096), 3: dim("width", min=64, max=4096)}
    exported = torch.export.export(model, (torch.randn(2, 3, 64, 96),), dynamic_shapes={"pixel_values": sizes})
    for shape in [(1, 3, 64, 64), (3, 3, 65, 79), (2, 3, 101, 130)]:
        pixel_values = torch.randn(shape)
        logits = exported.module()(pixel_values).logits
        torch.testing.assert_close(logits, model(pixel_values).logits, rtol=1e-5, atol=1e-5)
