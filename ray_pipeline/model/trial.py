"""One trial of a search, as a Ray Tune actor. Kept apart: worker processes import only this."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ray.tune import Trainable

from ray_pipeline.job import Model, Train, Tune
from ray_pipeline.model import boosting, loop, strategy, zoo
from ray_pipeline.model.feed import MemoryFeed, Place
from ray_pipeline.model.settings import apply

Record = dict[str, Any]


class Trial(Trainable):
    """One set of settings; a step is an epoch. An actor is used again for the next trial."""

    def setup(self, config: Record, **shared: Any) -> None:
        self.shared = shared
        settings: Tune = shared["settings"]
        torch.set_num_threads(max(1, int(settings.cpus)))
        device = torch.device("cuda" if settings.gpus > 0 else "cpu")
        self.place = Place(rank=0, world=1, device=device, seed=shared["train"].seed)
        self.reset_config(config)

    def reset_config(self, new_config: Record) -> bool:
        shared = self.shared
        model, train = apply(new_config, shared["model"], shared["train"])
        self.train_settings = train.model_copy(update={"epochs": shared["settings"].epochs})
        begun = self._boosting if model.name == "trees" else self._network
        self.epoch: Callable[[], Record] = begun(model, self.train_settings)
        return True

    def step(self) -> Record:
        return {**self.epoch(), "done": self.iteration + 1 >= self.train_settings.epochs}

    def _network(self, model: Model, train: Train) -> Callable[[], Record]:
        statistics, data = self.shared["statistics"], self.shared["data"]
        feed = MemoryFeed(data["train"], data["validation"], train.batch_size, self.place)
        torch.manual_seed(train.seed)
        network = zoo.build(model, loop.inputs(statistics))
        engine = strategy.prepared(network, train, "ddp", self.place.device, feed.share)

        def epoch() -> Record:
            loss = loop.train_epoch(engine, feed, train, statistics, self.iteration)
            return {"train_loss": loss, **loop.validate(engine, feed, statistics, network)}

        return epoch

    def _boosting(self, model: Model, train: Train) -> Callable[[], Record]:
        statistics, data = self.shared["statistics"], self.shared["data"]
        ranks = boosting.ranks_of(statistics, data["train"])
        return boosting.Boosting(
            model,
            train,
            statistics,
            training=data["train"],
            validation=data["validation"],
            ranks=ranks,
        ).epoch
