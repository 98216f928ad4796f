"""What training makes small, on a whole batch or on a part of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from operator import itemgetter
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from ray_pipeline.data.statistics import Statistics
from ray_pipeline.errors import TrainingError
from ray_pipeline.model.feed import Rows
from ray_pipeline.model.strategy import LossOf

Taught = Callable[[Rows, Tensor, Tensor], Tensor]
"""From rows, a model's logits for them and its mean loss to the loss that it learns from."""


class Teacher(Protocol):
    """Another model's word on rows, besides their labels."""

    def opened(self, student: nn.Module, device: torch.device) -> Taught: ...


def loss_of(logits: Tensor, label: Tensor, statistics: Statistics) -> Tensor:
    """Mean cross entropy, or mean squared error on the standardised label, or a token's loss.

    Where a row may have several labels, the mean over rows and classes of the binary one.

    A language model's loss is that of the answers' tokens over N times the mean answer's number of
    them: each token counts alike, whichever batch and part it is in. A pair's loss is one number,
    and its mean 1.
    """
    if statistics.tells_loss:
        return logits[:, 0].sum() / (len(label) * statistics.label.mean)
    return row_losses(logits, label, statistics, reduction="mean")


def row_losses(
    logits: Tensor,
    label: Tensor,
    statistics: Statistics,
    *,
    smoothing: float = 0.0,
    balanced: bool = False,
    reduction: Literal["none", "mean"] = "none",
) -> Tensor:
    """Each row's loss [N], or their mean as torch itself takes it.

    `smoothing` is the share of a class's certainty that goes to all classes alike, or of one of
    several labels to there being none (Szegedy et al. 2016, https://arxiv.org/abs/1512.00567).
    Where it is `balanced`, the presence of each of several labels counts what the label's
    statistics say.
    """
    if statistics.task == "classification":
        return cross_entropy(logits, label, reduction=reduction, label_smoothing=smoothing)
    if statistics.task == "multilabel":
        weights = statistics.label.weights if balanced else ()
        pos_weight = torch.tensor(weights, device=logits.device) if weights else None
        target = label.to(logits.dtype) * (1 - smoothing) + smoothing / 2
        cells = binary_cross_entropy_with_logits(
            logits, target, reduction=reduction, pos_weight=pos_weight
        )
        return cells if reduction == "mean" else cells.mean(1)
    return mse_loss(logits[:, 0], standardised(label, statistics), reduction=reduction)


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


def training_loss(
    logits: Tensor, rows: Rows, statistics: Statistics, smoothing: float = 0.0
) -> Tensor:
    """The mean loss that is learned from: `loss_of` with all that only training knows, which are
    weights, smoothed labels and rows that were mixed with others.

    With weights [N], Σ w loss / N. The batch's own Σ w is no divisor: workers would each divide by
    another number, and a batch of light rows would count for as much as one of heavy ones.
    """
    if statistics.tells_loss:
        return loss_of(logits, rows.label, statistics)
    options: dict[str, Any] = {"smoothing": smoothing, "balanced": True}
    if rows.mixed is None and rows.weight is None:
        return row_losses(logits, rows.label, statistics, reduction="mean", **options)
    losses = row_losses(logits, rows.label, statistics, **options)
    if rows.mixed is not None:
        other, share = rows.mixed
        losses = share * losses + (1 - share) * row_losses(logits, other, statistics, **options)
    return (losses if rows.weight is None else rows.weight * losses).mean()


def part_loss(
    batch: Rows, statistics: Statistics, taught: Taught | None = None, smoothing: float = 0.0
) -> LossOf:
    """A model's loss on a part of `batch`; over all parts they sum to the batch's mean loss.

    `taught` adds what a teacher says of the part to its mean loss.
    """

    def loss(model: nn.Module, part: Rows) -> Tensor:
        logits = model(**part.inputs)
        share = len(part.label) / len(batch.label)
        mean = training_loss(logits, part, statistics, smoothing)
        return (mean if taught is None else taught(part, logits, mean)) * share

    return loss
