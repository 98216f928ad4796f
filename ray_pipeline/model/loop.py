"""The training loop: what one worker does, alone or among others."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import ray
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from upath import UPath

from ray_pipeline import files
from ray_pipeline.data.statistics import Statistics
from ray_pipeline.errors import PipelineError, TrainingError
from ray_pipeline.job import Model, Train
from ray_pipeline.model import strategy, zoo
from ray_pipeline.model.feed import Feed, MemoryFeed, Place, StreamFeed
from ray_pipeline.model.strategy import Engine

Record = dict[str, Any]
CHECKPOINT = "checkpoint.pt"
WARM_UP = 0.1
"""Share of the steps in which the learning rate rises."""


@dataclass(frozen=True)
class Setup:
    """All that a worker needs to know; it is pickled to worker processes."""

    model: Model
    train: Train
    statistics: Statistics
    features: UPath
    feed: Literal["memory", "stream"]
    data: Any  # {"train": Matrices, "validation": Matrices}, or a reference to it; None to stream
    work: UPath
    log_dir: UPath | None
    report: Callable[[Record], None]


def inputs(statistics: Statistics) -> zoo.Inputs:
    """What a network for these features reads and puts out."""
    return zoo.Inputs(
        numbers=statistics.number_width,
        categories=statistics.category_sizes,
        outputs=statistics.outputs,
        embedded=statistics.embedded_width,
    )


def work(config: dict[str, Setup]) -> Record:
    """Train in this worker until the epochs are over or the validation loss stops falling.

    Rank 0 leaves a checkpoint after each epoch; where one is found, training goes on from it.
    An error of our own is returned, not raised: Ray would otherwise start the workers again.
    """
    try:
        return _trained(config["setup"])
    except PipelineError as error:
        return {"error": error}


def _trained(setup: Setup) -> Record:
    from ray.train import get_context, report
    from ray.train.collective import broadcast_from_rank_zero
    from ray.train.torch import get_device

    context, train = get_context(), setup.train
    rank, world = context.get_world_rank(), context.get_world_size()
    device = get_device()
    feed = _feed(setup, Place(rank, world, device, train.seed))
    torch.manual_seed(train.seed)
    network = zoo.build(setup.model, inputs(setup.statistics))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    name = broadcast_from_rank_zero(strategy.chosen(train, parameters, world, _gpu_bytes(device)))
    layout = [name, world if name.startswith("zero") else 1]  # what the optimizer's state fits
    saved = loaded(setup.work)
    if saved is not None and saved["layout"] != layout:
        saved = None
    if saved is not None:
        network.load_state_dict(saved["weights"])
    engine = strategy.prepared(network, train, name, device, feed.share)
    if saved is not None:
        engine.restore(saved["optimizer"])
    history: list[Record] = saved["history"] if saved else []
    best = saved["best"] if saved else {}
    begun_with = len(history)
    log = _logger(setup.log_dir if rank == 0 else None, begun_with)

    while len(history) < train.epochs and not _stale(history, train.patience):
        epoch = len(history)
        begun = time.monotonic()
        train_loss = train_epoch(engine, feed, train, setup.statistics, epoch)
        measures = validate(engine, feed, setup.statistics, network)
        history.append(
            {
                "epoch": epoch + 1,
                "epochs": train.epochs,
                "train_loss": train_loss,
                **measures,
                "seconds": round(time.monotonic() - begun, 4),
            }
        )
        weights = engine.weights()
        best = weights if best_epoch(history) == epoch else best
        optimizer = engine.optimizer_state()
        if rank == 0:
            state = {"layout": layout, "history": history, "weights": weights, "best": best}
            save(setup.work, {**state, "optimizer": optimizer})
            log(history[-1])
            setup.report(history[-1])
        report(measures)
    return {
        "strategy": name,
        "workers": world,
        "device": device.type,
        "parameters": parameters,
        "resumed_after": begun_with,
        "steps": feed.steps,
    }


def train_epoch(
    engine: Engine, feed: Feed, train: Train, statistics: Statistics, epoch: int
) -> float:
    """The mean training loss of one epoch over all workers.

    The generator is seeded by epoch and rank, so that an epoch is the same whether training went
    straight to it or was interrupted before.

    Raises:
        TrainingError: the loss is no longer a finite number.
    """
    torch.manual_seed((train.seed * 1_000_003 + epoch) * 4099 + feed.place.rank)
    engine.model.train()
    total = torch.zeros((), device=feed.place.device)
    done, steps = epoch * feed.steps, train.epochs * feed.steps
    for step, batch in enumerate(feed.training(epoch)):
        engine.set_learning_rate(train.learning_rate * rate_factor(done + step, steps))
        logits = engine.model(batch.numbers, batch.categories)
        loss = loss_of(logits, batch.label, statistics, batch.weight)
        engine.step(loss)
        total += loss.detach()
    mean = float(strategy.summed(total)) / feed.steps / feed.place.world
    if not math.isfinite(mean):
        raise TrainingError(
            f"the loss became {mean} in epoch {epoch + 1}",
            where="train.learning_rate",
            hint="lower it, or look for huge values in the data",
        )
    return mean


@torch.no_grad()
def validate(
    engine: Engine, feed: Feed, statistics: Statistics, network: nn.Module
) -> dict[str, float]:
    """Mean loss, and the score over all validation rows: accuracy, or R² of a regression.

    Validation rows have no weights, whatever `data.balance` says: the loss that chooses the epoch
    and the trial speaks of the rows as they come, and can be compared between runs.
    """
    strategy.average_buffers(network)
    engine.model.eval()
    device = next(network.parameters()).device
    # rows, loss, hits; for a regression also the labels' sum and sum of squares
    sums = torch.zeros(5, dtype=torch.float64, device=device)
    for chunk in feed.validation():
        logits = engine.model(chunk.numbers, chunk.categories)
        count = len(chunk.label)
        sums[0] += count
        sums[1] += loss_of(logits, chunk.label, statistics).double() * count
        if statistics.task == "classification":
            sums[2] += (logits.argmax(1) == chunk.label).sum()
        else:
            label = standardised(chunk.label, statistics).double()
            sums[3:] += torch.stack([label.sum(), label.square().sum()])
    rows, loss, hits, label_sum, label_squares = strategy.summed(sums).tolist()
    score = hits / rows
    if statistics.task == "regression":
        spread = label_squares - label_sum**2 / rows
        score = 1 - loss / spread if spread > 0 else 0.0
    return {"validation_loss": loss / rows, "score": score}


def loss_of(
    logits: Tensor, label: Tensor, statistics: Statistics, weight: Tensor | None = None
) -> Tensor:
    """Mean cross entropy, or mean squared error on the standardised label.

    With weights [N], Σ w loss / N. The batch's own Σ w is no divisor: workers would each divide by
    another number, and a batch of light rows would count for as much as one of heavy ones.
    """
    reduction: Literal["none", "mean"] = "mean" if weight is None else "none"
    if statistics.task == "classification":
        loss = cross_entropy(logits, label, reduction=reduction)
    else:
        loss = mse_loss(logits[:, 0], standardised(label, statistics), reduction=reduction)
    return loss if weight is None else (weight * loss).mean()


def standardised(label: Tensor, statistics: Statistics) -> Tensor:
    """A regression's label [N] minus its training mean, over its training deviation."""
    return (label - statistics.label.mean) / (statistics.label.deviation or 1.0)


def rate_factor(step: int, steps: int) -> float:
    """The learning rate's share of its highest value: a linear rise, then half a cosine to 0.

    The fall is that of Loshchilov & Hutter (2017), https://arxiv.org/abs/1608.03983.
    """
    rise = min(1.0, (step + 1) / max(1.0, WARM_UP * steps))
    return rise * 0.5 * (1 + math.cos(math.pi * step / steps))


def best_epoch(history: list[Record]) -> int:
    """The index of the epoch with the lowest validation loss."""
    return min(range(len(history)), key=lambda epoch: history[epoch]["validation_loss"])


def save(folder: UPath, state: Record) -> None:
    """Replace the folder's checkpoint."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    files.write_whole(folder / CHECKPOINT, buffer.getvalue())


def error_line(traceback: str) -> str:
    """The line of a traceback's text that says what went wrong: the last that is not indented."""
    lines = [line for line in traceback.splitlines() if line.strip() and not line[0].isspace()]
    return lines[-1].removeprefix("ray_pipeline.errors.") if lines else ""


def loaded(folder: UPath) -> Record | None:
    """The folder's checkpoint, if there is one."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    stored = io.BytesIO(path.read_bytes())
    state: Record = torch.load(stored, map_location="cpu", weights_only=True)
    return state


def _feed(setup: Setup, place: Place) -> Feed:
    size = setup.train.batch_size
    if setup.feed == "stream":
        return StreamFeed(ray.train.get_dataset_shard("train"), setup.features, size, place)
    data = ray.get(setup.data) if isinstance(setup.data, ray.ObjectRef) else setup.data
    return MemoryFeed(data["train"], data["validation"], size, place)


def _stale(history: list[Record], patience: int) -> bool:
    return bool(history) and len(history) - 1 - best_epoch(history) >= patience


def _gpu_bytes(device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    return int(torch.cuda.get_device_properties(device).total_memory)


def _logger(folder: UPath | None, epoch: int) -> Callable[[Record], None]:
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
