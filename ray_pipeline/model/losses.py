"""What training makes small, on a whole batch or on a part of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from operator import itemgetter
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from ray_pipeline.data.statistics import Statistics
from ray_pipeline.errors import TrainingError
from ray_pipeline.model.feed import Rows
from ray_pipeline.model.strategy import LossOf

Taught = Callable[[Rows, Tensor, Tensor], Tensor]
"""From rows, a model's logits for them and its mean loss to the loss that it learns from."""


class Teacher(Protocol):
    """Another model's word on rows, besides their labels."""

    def opened(self, device: torch.device) -> Taught: ...


def loss_of(
    logits: Tensor, label: Tensor, statistics: Statistics, weight: Tensor | None = None
) -> Tensor:
    """Mean cross entropy, or mean squared error on the standardised label, or a token's loss.

    With weights [N], Σ w loss / N. The batch's own Σ w is no divisor: workers would each divide by
    another number, and a batch of light rows would count for as much as one of heavy ones. For the
    same reason a language model's loss is that of the answers' tokens over N times the mean
    answer's number of them: each token counts alike, whichever batch and part it is in. A pair's
    loss is one number, and its mean 1.
    """
    if statistics.tells_loss:
        return logits[:, 0].sum() / (len(label) * statistics.label.mean)
    reduction: Literal["none", "mean"] = "mean" if weight is None else "none"
    if statistics.task == "classification":
        loss = cross_entropy(logits, label, reduction=reduction)
    else:
        loss = mse_loss(logits[:, 0], standardised(label, statistics), reduction=reduction)
    return loss if weight is None else (weight * loss).mean()


def standardised(label: Tensor, statistics: Statistics) -> Tensor:
    """A regression's label [N] minus its training mean, over its training deviation."""
    return (label - statistics.label.mean) / (statistics.label.deviation or 1.0)


def parts(batch: Rows, count: int) -> list[Rows]:
    """A worker's batch, cut into `count` parts of nearly equal length.

    Raises:
        TrainingError: there are more parts than rows.
    """
    rows = len(batch.label)
    if count > rows:
        raise TrainingError(
            f"{rows} rows cannot be taken in {count} parts",
            where="train.accumulate",
            hint="lower it, or raise train.batch_size",
        )
    bounds = [rows * part // count for part in range(count + 1)]
    slices = [slice(start, end) for start, end in itertools.pairwise(bounds)]
    return [batch.mapped(itemgetter(each)) for each in slices] if count > 1 else [batch]


def part_loss(batch: Rows, statistics: Statistics, taught: Taught | None = None) -> LossOf:
    """A model's loss on a part of `batch`; over all parts they sum to the batch's mean loss.

    `taught` adds what a teacher says of the part to its mean loss.
    """

    def loss(model: nn.Module, part: Rows) -> Tensor:
        logits = model(**part.inputs)
        share = len(part.label) / len(batch.label)
        mean = loss_of(logits, part.label, statistics, part.weight)
        return (mean if taught is None else taught(part, logits, mean)) * share

    return loss
