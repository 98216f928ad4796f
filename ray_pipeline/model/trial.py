"""One trial of a search, as a Ray Tune actor. Kept apart: worker processes import only this."""

from __future__ import annotations

from typing import Any

import torch
from ray.tune import Trainable

from ray_pipeline.job import Tune
from ray_pipeline.model import loop, strategy, zoo
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
        data = shared["data"]
        self.feed = MemoryFeed(data["train"], data["validation"], train.batch_size, self.place)
        torch.manual_seed(train.seed)
        self.network = zoo.build(model, loop.inputs(shared["statistics"]))
        self.engine = strategy.prepared(
            self.network, self.train_settings, "ddp", self.place.device, self.feed.share
        )
        return True

    def step(self) -> Record:
        train, statistics = self.train_settings, self.shared["statistics"]
        loss = loop.train_epoch(self.engine, self.feed, train, statistics, self.iteration)
        measures = loop.validate(self.engine, self.feed, statistics, self.network)
        return {"train_loss": loss, **measures, "done": self.iteration + 1 >= train.epochs}
