"""The literal form and the package's model compute the same, so each checks the other."""

import pytest
import torch
from literal import literal_form, literal_offset_learning
from tiny_models import tiny_offseg

from offseg_hf import OffsetLearning


def perturbed(model, seed=1):
    """The model with weights as after some training: no norm, bias or offset left as it starts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point():
                noise = torch.rand(buffer.shape, generator=generator)
                buffer.copy_(0.5 + noise if name.endswith("running_var") else noise - 0.5)
    return model


def inputs(height, width, num_labels, batch_size=2):
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(max(num_labels, 2), (batch_size, height, width), generator=generator)
    labels[:, :5] = 255
    return torch.randn(batch_size, 3, height, width, generator=generator), labels


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (75, 41), (33, 50)])
@pytest.mark.parametrize("num_labels", [1, 2, 5, 24])  # 24 are more than the head's channels
def test_logits_are_the_models(num_labels, size):
    model = perturbed(tiny_offseg(num_labels=num_labels)).eval()
    pixel_values, _ = inputs(*size, num_labels)
    with torch.no_grad():
        expected, logits = model(pixel_values).logits, literal_form(model)(pixel_values).logits
    assert logits.shape == expected.shape == (2, num_labels, (size[0] + 3) // 8, (size[1] + 3) // 8)
    assert (logits - expected).abs().max() < 1e-5 * max(1, expected.abs().max())


@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize("num_labels", [1, 2, 5, 24])  # below 20, training has the loss of the coupled attention too
def test_loss_and_gradients_are_the_models(num_labels, is_training):
    model = perturbed(tiny_offseg(num_labels=num_labels, drop_path_rate=0.0)).train(is_training)
    assert (model.config.attention_loss_weight > 0) == (num_labels < 20)
    literal = literal_form(model)
    pixel_values, labels = inputs(64, 72, num_labels)
    loss, literal_loss = model(pixel_values, labels=labels).loss, literal(pixel_values, labels=labels).loss
    assert literal_loss.item() == pytest.approx(loss.item(), rel=1e-4)
    loss.backward()
    literal_loss.backward()
    largest = max(parameter.grad.abs().max() for parameter in literal.parameters())
    gradients = {name: parameter.grad for name, parameter in literal.named_parameters()}
    for name, parameter in model.named_parameters():
        # What cancels out to zero, such as a key's bias, is compared with the other gradients.
        error = (gradients[name] - parameter.grad).abs().max()
        assert error <= 1e-4 * max(parameter.grad.abs().max(), 1e-2 * largest), name


@pytest.mark.parametrize(
    ("num_classes", "normalization"),
    [(2, "class_bias"), (5, "class_bias"), (5, "layer_norm"), (5, "fitted_layer_norm"), (24, "layer_norm")],
)
def test_literal_offset_learning_is_the_layers(num_classes, normalization):
    torch.manual_seed(0)
    layer = perturbed(OffsetLearning(num_classes, 8, normalization))
    features = torch.randn(2, 8, 6, 7)
    expected = layer(features)
    assert (literal_offset_learning(layer, features) - expected).abs().max() < 1e-5 * max(1, expected.abs().max())


def test_weights_are_copies_under_the_same_names():
    model = tiny_offseg()
    literal = literal_form(model)
    ours, theirs = (dict(module.named_parameters()) | dict(module.named_buffers()) for module in (model, literal))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]) and value.data_ptr() != theirs[name].data_ptr(), name


def test_mode_and_dtype_are_the_models():
    assert literal_form(tiny_offseg().train()).training
    literal = literal_form(tiny_offseg().eval().to(torch.bfloat16))
    assert not literal.training and {parameter.dtype for parameter in literal.parameters()} == {torch.bfloat16}


def test_literal_form_stops_when_the_loss_is_another():
    with pytest.raises(ValueError, match="`dice_loss_weight` must be 0 for the literal form"):
        literal_form(tiny_offseg(dice_loss_weight=0.5))
