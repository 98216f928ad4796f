"""Training rows made of two: Zhang et al. (2018), https://arxiv.org/abs/1710.09412.

A row's numbers, or its pixels, become λ times its own and 1 - λ times another row's of the batch,
and its loss λ times that of its own label and 1 - λ times that of the other's; λ is drawn anew for
each row from Beta(alpha, alpha). Random numbers come from torch's generator on the CPU, as in
`augment`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Beta

from ray_pipeline.data.statistics import Task
from ray_pipeline.errors import JobError
from ray_pipeline.job import Model, Train
from ray_pipeline.model.feed import Mixed, Rows
from ray_pipeline.model.inputs import Inputs


def mixed(batch: Rows, alpha: float) -> Rows:
    """A training batch with each row mixed with another; as it is if `alpha` is 0."""
    if not alpha:
        return batch
    count, device = len(batch.label), batch.label.device
    order = torch.randperm(count).to(device)
    share = Beta(alpha, alpha).sample((count,)).to(device)
    return pairwise(batch, order, share)


def pairwise(batch: Rows, order: Tensor, share: Tensor) -> Rows:
    """Row i made of `share[i]` of itself and the rest of row `order[i]`.

    Where rows have weights, the loss is share · w · loss + (1 - share) · w' · loss': the row gets
    both weights together, and each label its part of them.
    """
    inputs = {name: _between(part, part[order], share) for name, part in batch.inputs.items()}
    weight, kept = batch.weight, share
    if weight is not None:
        both = share * weight + (1 - share) * weight[order]
        kept = share * weight / both.clamp_min(torch.finfo(both.dtype).tiny)
        weight = both
    return Rows(inputs, batch.label, weight, Mixed(batch.label[order], kept))


def _between(own: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """Numbers, or pixels as the nearest whole ones; a matrix of no width as it is."""
    if not own.numel():
        return own
    weight = share.view(-1, *[1] * (own.dim() - 1))
    made = weight * own + (1 - weight) * other
    return made if own.is_floating_point() else made.round().to(own.dtype)


def check(train: Train, model: Model, inputs: Inputs, task: Task) -> None:
    """Refuse to mix what has no middle, or where nothing is mixed. Raises JobError."""
    if train.smoothing and task not in ("classification", "multilabel"):
        raise JobError("the label has no classes to smooth", where="train.smoothing")
    if model.name == "trees" and (train.mixup or train.smoothing):
        raise JobError(
            "trees learn from whole rows and whole labels",
            where="train.mixup" if train.mixup else "train.smoothing",
            expected="a network, say mlp",
        )
    if train.mixup and inputs.tokens is not None:
        raise JobError(
            "two texts have no middle", where="train.mixup", expected="rows of numbers, or images"
        )
    if train.mixup and inputs.categories:
        raise JobError(
            f"{len(inputs.categories)} columns are read as categories, which have no middle",
            where="train.mixup",
            expected="rows of numbers, or images",
            hint="`data.features.columns`: {column: {encode: onehot}} or {encode: target} makes "
            "numbers of a category",
        )
