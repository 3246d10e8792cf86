"""From logits to label maps: "upsample all logits, then arg-max", without upsampling what cannot win.

An upsampled logit is a blend of the four logits around it. Inside a cell of four neighbours with the same best class,
that class stays the best; where the neighbours disagree, only the classes that no other class exceeds at all four of
them can win. Most cells of a trained model's logits are of the first kind, and few classes are left in the others.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

MAX_CHUNK_VALUES = 2**19  # of the cells handled at once: 2 MB in float32, which stay in the processor's cache


def upsampled_label_map(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The class id of every pixel: "upsample all logits, then arg-max", without holding all upsampled logits.

    The same as `F.interpolate(logits.float(), size, mode="bilinear", align_corners=False).argmax(1)`, the first of
    equal classes included, except for pixels whose two best upsampled logits differ by no more than their rounding
    error, some 1e-6 of the largest logit (1e-5 on processors without fused multiply-add): there it is one of the two.
    It takes the memory of a few (H, W) planes. float64 logits stay float64.

    Args:
        logits (`torch.Tensor` of shape (B, K, h, w)): Finite scores of K classes, or -inf for a class that is excluded
            everywhere; with K = 1, of class 1 against class 0.
        size (`tuple[int, int]`): (height, width) of the result in pixels.

    Returns:
        `torch.LongTensor` of shape (B, height, width): ids in [0, K); with K = 1, 1 where the logit is above 0.

    Raises:
        ValueError: `size` is no (height, width), or a pixel has logits that are not finite.
    """
    size = checked_size(size, "size")
    check_finite(logits)
    return torch.stack([_label_map(image_logits, size) for image_logits in logits])


def label_map_and_confidence(logits: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The label map of one image's logits (K, h, w), and the float32 probabilities of its classes, both of `size`."""
    check_finite(logits[None])
    return _from_all_classes(logits, size, with_confidence=True)


def check_finite(logits: torch.Tensor) -> None:
    """Raises a ValueError where the largest of a pixel's logits (B, K, h, w) is not finite."""
    num_wrong = logits.numel() and (~logits.amax(dim=1).isfinite()).sum().item()
    if num_wrong:
        raise ValueError(
            f"`logits` must be finite numbers to choose a class by, but at {num_wrong} of {logits[:, 0].numel()} "
            "positions they are NaN or infinite; check the weights, or compute in float32 (`dtype=torch.float32`)."
        )


def checked_size(size: Sequence[int] | torch.Size, name: str) -> tuple[int, int]:
    """`size` as a pair of numbers."""
    pair = tuple(int(side) for side in np.ravel(size))
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"`{name}` must be (height, width) in pixels, both at least 1, but is {pair}; correct it.")
    return pair


@torch.no_grad()
def _from_all_classes(logits, size, with_confidence=False):
    """The label map and, on request, its classes' probabilities, both of shape `size`, from logits (K, h, w)."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits = logits.clamp(min=torch.finfo(logits.dtype).min / 2)  # -inf times a share of 0 would be nan
    best = logits.new_full(size, -torch.inf)
    label_map = torch.zeros(size, dtype=torch.long, device=logits.device)
    total = 0.0  # of exp(logit - best) over the classes seen
    step = 1 if logits.device.type == "cpu" else 8  # a CPU's cache holds few planes; devices want more work at a time
    for start in range(0, len(logits), step):
        some = logits[None, start : start + step].contiguous()  # for logits in channels-last order
        planes = F.interpolate(some, size, mode="bilinear", align_corners=False)[0]
        values, winner = (planes[0], 0) if len(planes) == 1 else planes.max(dim=0)
        label_map = torch.where(values > best, winner + start, label_map)  # not >=: the first of equals stays
        previous, best = best, torch.maximum(best, values)
        if with_confidence:
            total = total * (previous - best).exp() + (planes - best).exp().sum(0)
    if len(logits) == 1:
        label_map, total = (best > 0).long(), 1 + (-best.abs()).exp()
    return label_map, (1 / total).float() if with_confidence else None


@torch.no_grad()
def _label_map(logits, size):
    """The label map of shape `size` from logits (K, h, w), from as few classes as can be."""
    num_classes, height, width = logits.shape
    # With few classes or few pixels a cell, there is little to leave out; and other devices than a CPU would have to
    # wait for each decision.
    if num_classes < 8 or size[0] < 4 * height or size[1] < 4 * width or logits.device.type != "cpu":
        return _from_all_classes(logits, size)[0]

    points = logits.flatten(1)
    blocks = points.split(max(1, MAX_CHUNK_VALUES // num_classes), dim=1)
    winners = torch.cat([block.T.contiguous().argmax(1) for block in blocks])
    rows, columns = _Cells(height, size[0], logits.dtype), _Cells(width, size[1], logits.dtype)

    # (4, cells down, cells across)
    corners = torch.stack([down[:, None] * width + across for down in rows.ends for across in columns.ends])
    corner_winners = winners[corners]
    down, across = (corner_winners != corner_winners[0]).any(0).nonzero(as_tuple=True)
    # Noise: leaving out classes takes as long in a cell as evaluating all in some 64 pixels, more if there are few.
    if (64 + 2048 // num_classes) * len(down) > size[0] * size[1]:
        return _from_all_classes(logits, size)[0]

    label_map = winners.view(height, width)[rows.ends[0][rows.of_line]][:, columns.ends[0][columns.of_line]]
    chunk = max(1, MAX_CHUNK_VALUES // max(4 * num_classes, len(rows.lines) * len(columns.lines)))
    for start in range(0, len(down), chunk):
        i, j = down[start : start + chunk], across[start : start + chunk]
        values = points[:, corners[:, i, j]].to(rows.shares.dtype)  # (K, 4, N)
        order, labels = _cell_labels(values, corner_winners[:, i, j], rows.shares[:, i], columns.shares[:, j])
        label_map[rows.lines[:, None, i[order]], columns.lines[:, j[order]]] = labels
    return label_map


class _Cells:
    """The intervals between neighbouring points along one axis, half an interval beyond both ends included.

    `ends`: the first and last point of each. `of_line`: the interval in which each line of pixels lies. `lines`: of
    shape (most lines in one, intervals), each interval's lines, the last repeated, and `shares` of the same shape: how
    far between the ends.
    """

    def __init__(self, num_points, num_lines, dtype):
        # From -0.5 to num_points - 0.5, rounded once, as torch's are wherever a processor has fused multiply-add:
        # rounded twice, they would be up to 1e-5 of an interval off.
        dtype = torch.promote_types(dtype, torch.float32)
        scale = torch.tensor(num_points / num_lines, dtype=dtype).item()
        positions = ((torch.arange(num_lines, dtype=torch.float64) + 0.5) * scale - 0.5).to(dtype)
        self.of_line = positions.floor().long() + 1
        numbers = torch.arange(-1, num_points + 1).clamp(0, num_points - 1)
        self.ends = numbers[:-1], numbers[1:]
        counts = self.of_line.bincount(minlength=num_points + 1)
        self.lines = counts.cumsum(0) - counts + torch.arange(counts.max())[:, None].minimum(counts - 1)
        self.shares = (positions - positions.floor())[self.lines]


def _cell_labels(values, corner_winners, row_shares, column_shares):
    """An order of N cells, and in it their labels (S, T, N), from all logits (K, 4, N) at their corners."""
    # A class is out where another one is above it at all four corners; try the best of each corner and of the centre.
    can_win = torch.ones_like(values[:, 0], dtype=torch.bool)  # (K, N)
    for winner in [*corner_winners, values.sum(1).argmax(0)]:
        a, b, c, d = (values < values.take_along_dim(winner[None, None], dim=0)).unbind(1)  # not <=: equals stay
        can_win &= ~(a & b & c & d)

    counts, order = can_win.sum(0).sort(descending=True)
    ranks, cells = (counts > torch.arange(counts[0])[:, None]).nonzero(as_tuple=True)
    first = counts.cumsum(0) - counts
    classes = can_win.T[order].nonzero(as_tuple=True)[1][first[cells] + ranks]  # all cells' first, then their second …
    scores_at_corners = values[classes, :, order[cells]].T.contiguous()  # (4, pairs)

    row_shares, column_shares = row_shares[:, None, order], column_shares[:, order]
    best = row_shares.new_full((len(row_shares), *column_shares.shape), -torch.inf)
    labels = classes[: len(order)].expand(best.shape).clone()
    sizes = ranks.bincount().tolist()  # cells with a first class, with a second one …
    for ids, corners in zip(classes.split(sizes), scores_at_corners.split(sizes, dim=1)):
        rank_cells = slice(len(ids))  # the cells that have a class of this rank
        left, right = corners[::2, None], corners[1::2, None]  # (2, 1, cells)
        above, below = left.lerp(right, column_shares[:, rank_cells])  # (T, cells)
        scores = above.lerp(below, row_shares[..., rank_cells])  # (S, T, cells)
        best_so_far, labels_so_far = best[..., rank_cells], labels[..., rank_cells]
        torch.where(scores > best_so_far, ids, labels_so_far, out=labels_so_far)  # the first of equals stays
        torch.maximum(scores, best_so_far, out=best_so_far)
    return order, labels
