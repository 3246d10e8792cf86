"""Mask2Former with offset learning."""

from typing import Self

import torch
from torch import nn
from torch.nn import functional as F
from transformers import Mask2FormerForUniversalSegmentation
from transformers.utils import ModelOutput

from .checkpoint_entries import rename_checkpoint_entries
from .configuration_offseg_mask2former import OffSegMask2FormerConfig
from .library_internals import can_return_tuple
from .offset_learning import MaskOffsetLearning


def semantic_scores(class_queries_logits: torch.Tensor, masks_queries_logits: torch.Tensor) -> torch.Tensor:
    """How much each pixel belongs to each class: the masks, each counted for a class as far as its query says so.

    As the native image processor's semantic post-processing, but at the masks' own resolution.

    Args:
        class_queries_logits (`torch.Tensor` of shape `(batch_size, num_queries, num_labels + 1)`): the last class is
            "no object".
        masks_queries_logits (`torch.Tensor` of shape `(batch_size, num_queries, height, width)`): of the same queries.

    Returns:
        `torch.Tensor` of shape `(batch_size, num_labels, height, width)`: not negative, in float32; the arg-max over
        the classes is the label map.
    """
    classes = class_queries_logits.float().softmax(dim=2)[..., :-1]  # (B, Q, K)
    return torch.einsum("bqk,bqhw->bkhw", classes, masks_queries_logits.float().sigmoid())


class OffSegMask2FormerMaskPredictor(nn.Module):
    """Queries, pixel embeddings → mask logits, and where the next layer's queries must not look.

    As the native predictor, whose layers it takes over, but mask and pixel embeddings are aligned before they are
    multiplied.
    """

    def __init__(self, mask_embedder: nn.Module, num_heads: int, mask_feature_size: int):
        super().__init__()
        self.mask_embedder = mask_embedder
        self.num_heads = num_heads
        self.offset_learning = MaskOffsetLearning(mask_feature_size)

    def forward(
        self,
        outputs: torch.Tensor,
        pixel_embeddings: torch.Tensor,
        attention_mask_target_size: tuple[int, int] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        mask_embeddings = self.mask_embedder(outputs.transpose(0, 1))  # (B, Q, C)
        masks = self.offset_learning.masks(mask_embeddings, pixel_embeddings)  # (B, Q, H, W)
        attended = F.interpolate(masks.detach(), size=attention_mask_target_size, mode="bilinear").sigmoid()
        attention_mask = (attended < 0.5).flatten(2)  # (B, Q, h*w)
        return masks, attention_mask.repeat_interleave(self.num_heads, dim=0)  # (B*heads, Q, h*w)


class OffSegMask2FormerForUniversalSegmentation(Mask2FormerForUniversalSegmentation):
    """Mask2Former whose masks are products of mask and pixel embeddings that offset learning has aligned.

    One [`MaskOffsetLearning`] serves all decoder layers, so that attention masks and auxiliary outputs see the aligned
    masks too. Every other part is the native one, and `from_pretrained` loads the files of a plain
    [`transformers.Mask2FormerForUniversalSegmentation`]: the two offset maps then start at zero, and the model with
    the outputs of the plain one.

    Args:
        config ([`OffSegMask2FormerConfig`]): the architecture.
    """

    config: OffSegMask2FormerConfig
    # The loss is a mean over the batch; it must be divided by the number of accumulation steps like any other.
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    _no_split_modules = ["OffSegMask2FormerMaskPredictor"]

    def __init__(self, config: OffSegMask2FormerConfig):
        super().__init__(config)
        decoder = self.model.transformer_module.decoder
        decoder.mask_predictor = OffSegMask2FormerMaskPredictor(
            decoder.mask_predictor.mask_embedder, config.num_attention_heads, config.mask_feature_size
        )
        self.register_load_state_dict_pre_hook(rename_checkpoint_entries)
        self.post_init()

    @classmethod
    def is_custom_code(cls) -> bool:
        """No, although it is: of custom code, the library initialises just modules with parameters of their own.

        Native rules for modules made of others, such as the attention of the pixel decoder, would be left out.
        """
        return False

    @classmethod
    def from_pretrained(cls, *args, output_loading_info: bool = False, **kwargs) -> Self | tuple[Self, dict]:
        """As [`~transformers.PreTrainedModel.from_pretrained`]; offsets that trained masks lack start at zero."""
        model, report = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        new = report["missing_keys"] | {name for name, *_ in report["mismatched_keys"]}
        if not any("mask_predictor.mask_embedder." in name for name in new):
            for name, weight in model.named_parameters():
                if name in new and "mask_predictor.offset_learning." in name:
                    nn.init.zeros_(weight)
        return (model, report) if output_loading_info else model

    def get_loss_dict(
        self,
        masks_queries_logits: torch.Tensor,
        class_queries_logits: torch.Tensor,
        mask_labels: list[torch.Tensor],
        class_labels: list[torch.Tensor],
        auxiliary_predictions: list[dict[str, torch.Tensor]],
    ) -> dict[str, torch.Tensor]:
        """As the native method, of a model in any dtype: the points at which masks are compared are in float32."""
        auxiliary_predictions = [
            {**predictions, "masks_queries_logits": predictions["masks_queries_logits"].float()}
            for predictions in auxiliary_predictions
        ]
        return super().get_loss_dict(
            masks_queries_logits.float(), class_queries_logits, mask_labels, class_labels, auxiliary_predictions
        )

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        mask_labels: list[torch.Tensor] | None = None,
        class_labels: list[torch.Tensor] | None = None,
        pixel_mask: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_auxiliary_logits: bool | None = None,
        output_attentions: bool | None = None,
        labels: torch.Tensor | None = None,
        **kwargs,
    ) -> ModelOutput:
        """Segments a batch of images.

        The segments to learn are given as `mask_labels` and `class_labels`, or for semantic segmentation as `labels`.
        `Trainer` evaluates with `labels` where its arguments say `label_names=["labels"]`.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch_size, num_channels, height, width)`): normalised images.
            mask_labels (`list[torch.Tensor]`, *optional*): for each image its segments' masks, of shape
                `(num_segments, label_height, label_width)`, 1 inside and 0 outside.
            class_labels (`list[torch.Tensor]`, *optional*): for each image its segments' class ids, of shape
                `(num_segments,)`, in [0, `config.num_labels`).
            pixel_mask (`torch.Tensor` of shape `(batch_size, height, width)`, *optional*): accepted as the native
                model does, which does not read it.
            output_hidden_states (`bool`, *optional*): whether to return the maps of encoder and pixel decoder, and the
                queries after each decoder layer.
            output_auxiliary_logits (`bool`, *optional*): whether to return the predictions of each decoder layer.
            output_attentions (`bool`, *optional*): whether to return the decoder's attention weights.
            labels (`torch.Tensor` of shape `(batch_size, label_height, label_width)`, *optional*): class ids in
                [0, `config.num_labels`), or `config.ignore_value`, at any resolution; each class of an image is one
                segment of it.
            return_dict (`bool`, *optional*): `False` for a plain tuple.

        Returns:
            [`~transformers.models.mask2former.modeling_mask2former.Mask2FormerForUniversalSegmentationOutput`]:
            `class_queries_logits` of shape `(batch_size, num_queries, config.num_labels + 1)`, `masks_queries_logits`
            of shape `(batch_size, num_queries, height // 4, width // 4)` (of the height and width rounded up to a
            multiple of 4), and `loss`, a scalar, if segments are given.

        Raises:
            ValueError: where `labels` are not class ids, or given together with `mask_labels` or `class_labels`.
        """
        if labels is not None:
            if mask_labels is not None or class_labels is not None:
                raise ValueError(
                    "`labels` must not be given together with `mask_labels` or `class_labels`, since they are turned "
                    "into these; leave them out."
                )
            mask_labels, class_labels = _semantic_segments(labels, self.config)
        return super().forward(
            pixel_values,
            mask_labels=mask_labels,
            class_labels=class_labels,
            pixel_mask=pixel_mask,
            output_hidden_states=output_hidden_states,
            output_auxiliary_logits=output_auxiliary_logits,
            output_attentions=output_attentions,
            return_dict=True,
        )


def _semantic_segments(labels, config):
    """Label maps (B, H, W) → image by image, a mask of each class that occurs, (n, H, W), and its id, (n,)."""
    if labels.ndim != 3 or labels.is_floating_point():
        raise ValueError(
            "`labels` must be integer class ids of shape (batch_size, height, width), got "
            f"{labels.dtype} of shape {tuple(labels.shape)}."
        )
    mask_labels, class_labels = [], []
    for label_map in labels.long():
        ids = label_map.unique()
        ids = ids[ids != config.ignore_value]  # (n,)
        unknown = ids[(ids < 0) | (ids >= config.num_labels)].tolist()
        if unknown:
            raise ValueError(
                f"`labels` must be class ids from 0 to {config.num_labels - 1} or `ignore_value` "
                f"({config.ignore_value}), got {unknown[:10]}; check `num_labels` and `do_reduce_labels`."
            )
        mask_labels.append((label_map == ids[:, None, None]).float())  # (n, H, W)
        class_labels.append(ids)
    return mask_labels, class_labels
