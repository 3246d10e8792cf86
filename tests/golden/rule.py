"""Deterministic weights and inputs, by rule, so that no checkpoint need be stored."""

import zlib

import numpy as np
import torch


def draw(name, shape):
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)


def weight(name, shape):
    n = draw(name, shape)
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "running_var":
        return 0.5 + 0.5 * np.abs(n)
    if leaf == "running_mean":
        return 0.1 * n
    if leaf == "cls_repr":
        return 0.2 * n
    if leaf == "attention_biases_seg":
        return 0.5 * n
    if leaf.startswith("layer_scale"):
        return 0.1 + 0.03 * n
    if leaf == "bias":
        return 0.1 * n
    if leaf == "weight" and len(shape) == 1:
        return 1.0 + 0.1 * n
    fan_in = int(np.prod(shape[1:])) or 1
    return n / np.sqrt(fan_in)


def state_dict(keys):
    """keys: {name: shape} of the float entries of an official checkpoint -> {name: tensor}."""
    return {
        k: torch.from_numpy(np.asarray(weight(k, tuple(s)), dtype=np.float32).reshape(tuple(s)))
        for k, s in keys.items()
    }


def image(seed, height, width):
    """A (1, 3, H, W) float32 image, already normalised."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal((1, 3, height, width)).astype(np.float32))
