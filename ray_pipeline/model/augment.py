"""Training images and texts changed at random, a whole batch at a time.

Random numbers come from torch's generator on the CPU, which a training loop seeds by epoch and
worker: the same epoch is the same wherever it is computed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from ray_pipeline.job import Augment
from ray_pipeline.model.feed import Rows


def changed(batch: Rows, augment: Augment | None) -> Rows:
    """A training batch with its images and tokens changed, if there are any and `augment` says
    how."""
    if augment is None:
        return batch
    inputs = dict(batch.inputs)
    if "image" in inputs:
        inputs["image"] = augmented(inputs["image"], augment)
    if "tokens" in inputs and augment.drop:
        inputs["tokens"] = thinned(inputs["tokens"], augment.drop)
    return batch._replace(inputs=inputs)


def thinned(tokens: Tensor, share: float) -> Tensor:
    """Tokens [N, T] of which about `share` are -1, which networks do not look at; never the first,
    so that something is left. Iyyer et al., "Deep Unordered Composition Rivals Syntactic Methods"
    (2015), https://aclanthology.org/P15-1162: word dropout."""
    left_out = torch.rand(tokens.shape).to(tokens.device) < share
    left_out[:, 0] = False
    return tokens.masked_fill(left_out, -1)


def augmented(images: Tensor, augment: Augment) -> Tensor:
    """Images [N, H, W, C] uint8, each mirrored, turned, moved and cut out as `augment` says.

    What comes in from beyond an edge is black.
    """
    if augment.flip:
        images = _mirrored(images)
    if augment.rotate:
        images = _turned(images, augment.rotate)
    if augment.shift:
        images = _moved(images, augment.shift)
    if augment.cutout:
        images = _cut_out(images, augment.cutout)
    return images


def _drawn(count: int, images: Tensor) -> Tensor:
    """`count` numbers from 0 to 1 for each image, [count, N, 1, 1]."""
    return torch.rand(count, len(images), 1, 1).to(images.device)


def _mirrored(images: Tensor) -> Tensor:
    chosen = _drawn(1, images)[0, :, :, :, None] < 0.5
    return torch.where(chosen, images.flip(2), images)


def _moved(images: Tensor, share: float) -> Tensor:
    """Each image moved by whole pixels."""
    _, height, width, _ = images.shape
    reach = round(share * height), round(share * width)
    padded = torch.nn.functional.pad(images, (0, 0, reach[1], reach[1], reach[0], reach[0]))
    down, across = _drawn(2, images)
    rows = _axis(height, images) + (down * (2 * reach[0] + 1)).long()
    columns = _axis(width, images) + (across * (2 * reach[1] + 1)).long()
    number = torch.arange(len(images), device=images.device)[:, None, None]
    return padded[number, rows.transpose(1, 2), columns]


def _axis(length: int, images: Tensor) -> Tensor:
    return torch.arange(length, device=images.device)[None, None, :]


def _turned(images: Tensor, degrees: float) -> Tensor:
    """Each image turned around its middle, pixels mixed from the four nearest."""
    count, height, width, channels = images.shape
    angle = (2 * _drawn(1, images).flatten() - 1) * math.radians(degrees)
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # Coordinates run from -1 to 1 over either side: a turn must not stretch what is not square.
    across, down = -sine * height / width, sine * width / height
    turn = torch.stack([cosine, across, zero, down, cosine, zero], 1).view(-1, 2, 3)
    grid = affine_grid(turn, [count, channels, height, width], align_corners=False)
    planes = images.permute(0, 3, 1, 2).float()
    return grid_sample(planes, grid, align_corners=False).round().byte().permute(0, 2, 3, 1)


def _cut_out(images: Tensor, share: float) -> Tensor:
    """Each image with a square made black, wholly inside (DeVries & Taylor 2017,
    https://arxiv.org/abs/1708.04552, who let it reach over the edges)."""
    _, height, width, _ = images.shape
    side = round(share * min(height, width))
    down, across = _drawn(2, images)
    top, left = (down * (height - side + 1)).long(), (across * (width - side + 1)).long()
    rows, columns = _axis(height, images).transpose(1, 2), _axis(width, images)
    inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
    return images.masked_fill(inside[..., None], 0)
