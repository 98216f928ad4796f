"""The training loop: an epoch of steps, its validation, and what a history of epochs says."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from upath import UPath

from ray_pipeline.data.statistics import Statistics
from ray_pipeline.errors import TrainingError
from ray_pipeline.job import Train
from ray_pipeline.model import strategy, zoo
from ray_pipeline.model.augment import changed
from ray_pipeline.model.feed import Feed, Place
from ray_pipeline.model.losses import Taught, loss_of, part_loss, parts, standardised
from ray_pipeline.model.mixup import mixed
from ray_pipeline.model.schedule import rate_factor
from ray_pipeline.model.strategy import Engine

Record = dict[str, Any]


def inputs(statistics: Statistics) -> zoo.Inputs:
    """What a network for these features reads and puts out."""
    tokens = statistics.chat or statistics.pairs or statistics.tokens
    return zoo.Inputs(
        numbers=statistics.number_width,
        categories=statistics.category_sizes,
        outputs=statistics.outputs,
        embedded=statistics.embedded_width,
        image=statistics.image,
        tokens=tokens and tokens.model_copy(update={"tokenizer": ""}),
    )


def train_epoch(
    engine: Engine,
    feed: Feed,
    train: Train,
    statistics: Statistics,
    epoch: int,
    *,
    part_done: tuple[int, float] = (0, 0.0),
    kept: Callable[[int, Tensor], bool] = lambda step, total: False,
    taught: Taught | None = None,
    stepped: Callable[[], None] | None = None,
) -> float:
    """The mean training loss of one epoch over all workers.

    `part_done` are the steps of it that were done before an interruption, and their summed loss.
    `kept(step, total)` is called after each step but the last, and says whether it left a
    checkpoint. `taught` makes the loss that is learned from, where there is a teacher. `stepped`
    is called after every step. The generator is seeded by epoch, rank and the step after a
    checkpoint, so that an epoch is the same whether training went straight through it or was
    interrupted there.

    Raises:
        TrainingError: the loss is no longer a finite number.
    """
    start, before = part_done
    _seed(feed.place, epoch, start)
    engine.model.train()
    total = torch.full((), before, device=feed.place.device)
    done, steps = epoch * feed.steps, train.epochs * feed.steps
    for step, batch in enumerate(feed.training(epoch, start), start):
        engine.set_learning_rate(train.learning_rate * rate_factor(train, done + step, steps))
        batch = mixed(changed(batch, train.augment), train.mixup)  # noqa: PLW2901
        loss = part_loss(batch, statistics, taught, train.smoothing)
        total += engine.step(parts(batch, train.accumulate), loss)
        if stepped is not None:
            stepped()
        if step + 1 < feed.steps and kept(step + 1, total):
            _seed(feed.place, epoch, step + 1)
    mean = float(strategy.summed(total)) / feed.steps / feed.place.world
    if not math.isfinite(mean):
        raise TrainingError(
            f"the loss became {mean} in epoch {epoch + 1}",
            where="train.learning_rate",
            hint="lower it, or look for huge values in the data",
        )
    return mean


def _seed(place: Place, epoch: int, step: int) -> None:
    seed = (place.seed * 1_000_003 + epoch) * 4099 + place.rank
    torch.manual_seed(seed ^ ((step << 40) & (2**63 - 1)))


@torch.no_grad()
def validate(
    model: nn.Module, feed: Feed, statistics: Statistics, network: nn.Module
) -> dict[str, float]:
    """Mean loss, and the score over all validation rows: accuracy, or R² of a regression, or where
    a row may have several labels micro F1, each beginning at 0.5; of a language model, those of a
    token; of an embedding, those of a question among the passages of its worker's chunk.

    `model` is what is called for `network`: itself, or what shares it among workers.

    Validation rows have no weights, whatever `data.balance` says: the loss that chooses the epoch
    and the trial speaks of the rows as they come, and can be compared between runs.
    """
    strategy.average_buffers(network)
    model.eval()
    device = next(network.parameters()).device
    # rows (or tokens), loss, hits; for a regression also the labels' sum and sum of squares, for
    # several labels those that rows have, and those that are given
    sums = torch.zeros(5, dtype=torch.float64, device=device)
    for chunk in feed.validation():
        logits = model(**chunk.inputs)
        if statistics.tells_loss:
            sums[0] += chunk.label.sum()
            sums[1:3] += logits.double().sum(0)
            continue
        count = len(chunk.label)
        sums[0] += count
        sums[1] += loss_of(logits, chunk.label, statistics).double() * count
        if statistics.task == "classification":
            sums[2] += (logits.argmax(1) == chunk.label).sum()
        elif statistics.task == "multilabel":
            given, true = logits > 0, chunk.label > 0
            sums[2:] += torch.stack([(given & true).sum(), true.sum(), given.sum()])
        else:
            label = standardised(chunk.label, statistics).double()
            sums[3:] += torch.stack([label.sum(), label.square().sum()])
    rows, loss, hits, label_sum, label_squares = strategy.summed(sums).tolist()
    score = hits / rows
    if statistics.task == "multilabel":
        score = 2 * hits / max(label_sum + label_squares, 1)
    if statistics.task == "regression":
        spread = label_squares - label_sum**2 / rows
        score = 1 - loss / spread if spread > 0 else 0.0
    return {"validation_loss": loss / rows, "score": score}


def best_epoch(history: list[Record]) -> int:
    """The index of the epoch with the lowest validation loss."""
    return min(range(len(history)), key=lambda epoch: history[epoch]["validation_loss"])


def error_line(traceback: str) -> str:
    """The line of a traceback's text that says what went wrong: the last that is not indented."""
    lines = [line for line in traceback.splitlines() if line.strip() and not line[0].isspace()]
    return lines[-1].removeprefix("ray_pipeline.errors.") if lines else ""


def stale(history: list[Record], patience: int) -> bool:
    """Whether the last `patience` epochs were no better than one before them."""
    return bool(history) and len(history) - 1 - best_epoch(history) >= patience


def logger(folder: UPath | None, epoch: int) -> Callable[[Record], None]:
    """A function that adds an epoch's numbers to the TensorBoard log in `folder`, if any."""
    if folder is None:
        return lambda record: None
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder), purge_step=epoch + 1)

    def log(record: Record) -> None:
        for name in ("train_loss", "validation_loss", "score"):
            writer.add_scalar(name, record[name], record["epoch"])
        writer.flush()

    return log
