"""The training loop: what one worker does, alone or among others."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Literal

import ray
import torch
from torch import Tensor, nn
from upath import UPath

from ray_pipeline.data.statistics import Statistics
from ray_pipeline.errors import PipelineError, TrainingError
from ray_pipeline.job import Model, Train
from ray_pipeline.model import checkpoints, memory, strategy, zoo
from ray_pipeline.model.augment import changed
from ray_pipeline.model.feed import Feed, Matrices, MemoryFeed, Place, StreamFeed
from ray_pipeline.model.losses import Taught, Teacher, loss_of, part_loss, parts, standardised
from ray_pipeline.model.schedule import rate_factor
from ray_pipeline.model.strategy import Engine

Record = dict[str, Any]


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
    begin: Callable[[nn.Module], None] | None = None
    """What is done to the fresh network, say to give it another's weights."""
    teacher: Teacher | None = None
    """A network whose word counts besides the labels."""


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
    from ray.train.torch import get_device

    context, train = get_context(), setup.train
    rank, world = context.get_world_rank(), context.get_world_size()
    feed = _feed(setup, Place(rank, world, get_device(), train.seed))
    state = checkpoints.loaded(setup.work) or {}
    network, engine, name = _engine(setup, feed, state)
    history: list[Record] = state.get("history", [])
    begun_with, begun_step = len(history), state.get("step", 0)
    log = logger(setup.log_dir if rank == 0 else None, begun_with)
    notice = checkpoints.Notice()
    taught = setup.teacher.opened(feed.place.device) if setup.teacher else None

    def keep(step: int, loss: float) -> None:
        """Rank 0 writes what a restart needs; `step` steps of the next epoch are done."""
        weights, optimizer = engine.weights(), engine.optimizer_state()
        if step == 0 and best_epoch(history) == len(history) - 1:
            state["best"] = weights
        state.update(history=history, weights=weights, optimizer=optimizer, step=step, loss=loss)
        if rank == 0:
            checkpoints.save(setup.work, state)

    def stepped(step: int, total: Tensor) -> bool:
        due = train.checkpoint_every is not None and step % train.checkpoint_every == 0
        due |= notice.came()
        if due:
            keep(step, float(strategy.summed(total.clone())) / world)
        return due

    while len(history) < train.epochs and not stale(history, train.patience):
        begun = time.monotonic()
        part_done = (state.get("step", 0), state.get("loss", 0.0))
        loss = train_epoch(
            engine,
            feed,
            train,
            setup.statistics,
            len(history),
            part_done=part_done,
            kept=stepped,
            taught=taught,
        )
        measures = {"train_loss": loss, **validate(engine, feed, setup.statistics, network)}
        seconds = round(time.monotonic() - begun, 4)
        place = {"epoch": len(history) + 1, "epochs": train.epochs}
        history.append({**place, **measures, "seconds": seconds})
        keep(0, 0.0)
        if rank == 0:
            log(history[-1])
            setup.report(history[-1])
        report(measures)
    return {
        "strategy": name,
        "workers": world,
        "device": feed.place.device.type,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "resumed_after": begun_with,
        "resumed_step": begun_step,
        "steps": feed.steps,
    }


def _engine(setup: Setup, feed: Feed, state: Record) -> tuple[nn.Module, Engine, str]:
    """The network, with the weights of the checkpoint `state` if it has any, its engine, and the
    strategy's name."""
    from ray.train.collective import broadcast_from_rank_zero

    train, place = setup.train, feed.place
    torch.manual_seed(train.seed)
    network = zoo.build(setup.model, inputs(setup.statistics))
    if setup.begin is not None:
        setup.begin(network)
    name = broadcast_from_rank_zero(_strategy(setup, network, feed))
    if state:
        network.load_state_dict(state["weights"])
    engine = strategy.prepared(network, train, name, place.device, feed.share)
    if state:
        engine.restore(state["optimizer"])
    return network, engine, name


def _strategy(setup: Setup, network: nn.Module, feed: Feed) -> str:
    """The strategy's name; under `auto` a few rows are run through the network, if it is shared."""
    from ray.train import get_context

    place, train = feed.place, setup.train
    if train.strategy != "auto":
        return train.strategy
    if place.world < 2:
        return "ddp"
    batch = next(feed.training(0)).to(torch.device("cpu"))

    def loss(rows: int) -> Tensor:
        few = batch.mapped(itemgetter(slice(rows)))
        return part_loss(few, setup.statistics)(network, few)

    available = memory.available(place.device, get_context().get_local_world_size())
    return strategy.chosen(train, memory.shape(network, loss), place.world, feed.share, available)


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
) -> float:
    """The mean training loss of one epoch over all workers.

    `part_done` are the steps of it that were done before an interruption, and their summed loss.
    `kept(step, total)` is called after each step but the last, and says whether it left a
    checkpoint. `taught` makes the loss that is learned from, where there is a teacher. The
    generator is seeded by epoch, rank and the step after a checkpoint, so that an epoch is the same
    whether training went straight through it or was interrupted there.

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
        batch = changed(batch, train.augment)  # noqa: PLW2901
        total += engine.step(parts(batch, train.accumulate), part_loss(batch, statistics, taught))
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
    engine: Engine, feed: Feed, statistics: Statistics, network: nn.Module
) -> dict[str, float]:
    """Mean loss, and the score over all validation rows: accuracy, or R² of a regression; of a
    language model, those of a token; of an embedding, those of a question among the passages of
    its worker's chunk.

    Validation rows have no weights, whatever `data.balance` says: the loss that chooses the epoch
    and the trial speaks of the rows as they come, and can be compared between runs.
    """
    strategy.average_buffers(network)
    engine.model.eval()
    device = next(network.parameters()).device
    # rows (or tokens), loss, hits; for a regression also the labels' sum and sum of squares
    sums = torch.zeros(5, dtype=torch.float64, device=device)
    for chunk in feed.validation():
        logits = engine.model(**chunk.inputs)
        if statistics.tells_loss:
            sums[0] += chunk.label.sum()
            sums[1:3] += logits.double().sum(0)
            continue
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


def best_epoch(history: list[Record]) -> int:
    """The index of the epoch with the lowest validation loss."""
    return min(range(len(history)), key=lambda epoch: history[epoch]["validation_loss"])


def error_line(traceback: str) -> str:
    """The line of a traceback's text that says what went wrong: the last that is not indented."""
    lines = [line for line in traceback.splitlines() if line.strip() and not line[0].isspace()]
    return lines[-1].removeprefix("ray_pipeline.errors.") if lines else ""


def _feed(setup: Setup, place: Place) -> Feed:
    size = setup.train.batch_size
    if setup.feed == "stream":
        return StreamFeed(ray.train.get_dataset_shard("train"), setup.features, size, place)
    data = held(setup)
    return MemoryFeed(data["train"], data["validation"], size, place)


def held(setup: Setup) -> dict[str, Matrices]:
    """The prepared rows of both sides, which are shared by the processes of a machine."""
    data = ray.get(setup.data) if isinstance(setup.data, ray.ObjectRef) else setup.data
    return dict(data)


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
