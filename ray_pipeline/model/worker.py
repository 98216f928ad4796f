"""What one worker does, alone or among others: epoch after epoch, and what lets it go on."""

from __future__ import annotations

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
from ray_pipeline.errors import PipelineError
from ray_pipeline.job import Model, Train
from ray_pipeline.model import checkpoints, loop, memory, strategy, zoo
from ray_pipeline.model.feed import Feed, Matrices, MemoryFeed, Place
from ray_pipeline.model.losses import Teacher, part_loss
from ray_pipeline.model.strategy import Engine
from ray_pipeline.model.stream import StreamFeed

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


def work(config: dict[str, Setup]) -> Record:
    """Train in this worker until the epochs are over or the validation loss stops falling.

    Rank 0 leaves a checkpoint after each epoch; where one is found, training goes on from it.
    An error of our own is returned, not raised: Ray would otherwise start the workers again.
    """
    try:
        return _Training(config["setup"]).done()
    except PipelineError as error:
        return {"error": error}


class _Training:
    """A worker's training, from the last checkpoint on if there is one."""

    def __init__(self, setup: Setup) -> None:
        from ray.train import get_context
        from ray.train.torch import get_device

        context = get_context()
        rank, world = context.get_world_rank(), context.get_world_size()
        self.setup, self.first = setup, rank == 0
        self.feed = _feed(setup, Place(rank, world, get_device(), setup.train.seed))
        self.state: Record = checkpoints.loaded(setup.work) or {}
        self.network, self.engine, self.strategy = _engine(setup, self.feed, self.state)
        self.history: list[Record] = self.state.get("history", [])
        self.log = loop.logger(setup.log_dir if self.first else None, len(self.history))
        self.notice = checkpoints.Notice()
        teacher = setup.teacher
        self.taught = teacher.opened(self.network, self.feed.place.device) if teacher else None

    def done(self) -> Record:
        """Train to the end; what was trained, where, and from where on."""
        from ray.train import report

        train, place = self.setup.train, self.feed.place
        begun_with, begun_step = len(self.history), self.state.get("step", 0)
        while len(self.history) < train.epochs and not loop.stale(self.history, train.patience):
            measures = self._epoch()
            self._keep(0, 0.0)
            if self.first:
                self.log(self.history[-1])
                self.setup.report(self.history[-1])
            report(measures)
        return {
            "strategy": self.strategy,
            "workers": place.world,
            "device": place.device.type,
            "parameters": sum(parameter.numel() for parameter in self.network.parameters()),
            "resumed_after": begun_with,
            "resumed_step": begun_step,
            "steps": self.feed.steps,
        }

    def _epoch(self) -> Record:
        """The next epoch, or what an interruption left of it; its entry is in the history then."""
        train, statistics, number = self.setup.train, self.setup.statistics, len(self.history)
        begun = time.monotonic()
        loss = loop.train_epoch(
            self.engine,
            self.feed,
            train,
            statistics,
            number,
            part_done=(self.state.get("step", 0), self.state.get("loss", 0.0)),
            kept=self._stepped,
            taught=self.taught,
        )
        found = loop.validate(self.engine.model, self.feed, statistics, self.network)
        measures = {"train_loss": loss, **found}
        seconds = round(time.monotonic() - begun, 4)
        place = {"epoch": number + 1, "epochs": train.epochs}
        self.history.append({**place, **measures, "seconds": seconds})
        return measures

    def _stepped(self, step: int, total: Tensor) -> bool:
        """Whether a checkpoint was left after `step` steps of an epoch with the summed loss."""
        every = self.setup.train.checkpoint_every
        due = every is not None and step % every == 0
        due |= self.notice.came()
        if due:
            self._keep(step, float(strategy.summed(total.clone())) / self.feed.place.world)
        return due

    def _keep(self, step: int, loss: float) -> None:
        """Rank 0 writes what a restart needs; `step` steps of the next epoch are done."""
        weights, optimizer = self.engine.weights(), self.engine.optimizer_state()
        history = self.history
        if step == 0 and loop.best_epoch(history) == len(history) - 1:
            self.state["best"] = weights
        self.state |= {
            "history": history,
            "weights": weights,
            "optimizer": optimizer,
            "step": step,
            "loss": loss,
        }
        if self.first:
            checkpoints.save(self.setup.work, self.state)


def _engine(setup: Setup, feed: Feed, state: Record) -> tuple[nn.Module, Engine, str]:
    """The network, with the weights of the checkpoint `state` if it has any, its engine, and the
    strategy's name."""
    from ray.train.collective import broadcast_from_rank_zero

    train, place = setup.train, feed.place
    torch.manual_seed(train.seed)
    network = zoo.build(setup.model, loop.inputs(setup.statistics))
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


def _feed(setup: Setup, place: Place) -> Feed:
    size = setup.train.batch_size
    if setup.feed == "stream":
        return StreamFeed(setup.features, size, place)
    data = held(setup)
    return MemoryFeed(data["train"], data["validation"], size, place)


def held(setup: Setup) -> dict[str, Matrices]:
    """The prepared rows of both sides, which are shared by the processes of a machine."""
    data = ray.get(setup.data) if isinstance(setup.data, ray.ObjectRef) else setup.data
    return dict(data)
