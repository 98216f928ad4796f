"""One trial of a search, as a Ray Tune actor. Kept apart: worker processes import only this."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from ray.tune import Trainable

from ray_pipeline.errors import TrainingError
from ray_pipeline.job import Model, Train, Tune
from ray_pipeline.model import boosting, checkpoints, latency, loop, strategy, zoo
from ray_pipeline.model.averaging import Averaged
from ray_pipeline.model.feed import MemoryFeed, Place
from ray_pipeline.model.objectives import LATENCY, LOSS
from ray_pipeline.model.settings import apply

Record = dict[str, Any]


class Trial(Trainable):
    """One set of settings; a step is an epoch. An actor is used again for the next trial."""

    averaged = True  # whether an epoch is judged by the mean of its latest weights

    def setup(self, config: Record, **shared: Any) -> None:
        self.shared = shared
        self.settings: Tune = shared["settings"]
        torch.set_num_threads(max(1, int(self.settings.cpus)))
        device = torch.device("cuda" if self.settings.gpus > 0 else "cpu")
        self.place = Place(rank=0, world=1, device=device, seed=shared["train"].seed)
        self.reset_config(config)

    def reset_config(self, new_config: Record) -> bool:
        shared = self.shared
        model, train = apply(new_config, shared["model"], shared["train"])
        self.train_settings = train.model_copy(update={"epochs": self.settings.epochs})
        begun = self._boosting if model.name == "trees" else self._network
        self.epoch: Callable[[int], Record] = begun(model, self.train_settings)
        return True

    def step(self) -> Record:
        done = self.iteration + 1
        measures = self.epoch(self.iteration)
        return {"epoch": done, **measures, "done": done >= self.train_settings.epochs}

    def _feed(self, train: Train) -> MemoryFeed:
        data = self.shared["data"]
        return MemoryFeed(data["train"], data["validation"], train.batch_size, self.place)

    def _network(self, model: Model, train: Train) -> Callable[[int], Record]:
        statistics, feed = self.shared["statistics"], self._feed(train)
        torch.manual_seed(train.seed)
        self.network = network = zoo.build(model, loop.inputs(statistics)).to(self.place.device)
        mean = Averaged(network, feed.steps) if self.averaged else None
        judged = network if mean is None else mean.network
        self.engine = engine = strategy.prepared(
            network, train, "ddp", self.place.device, feed.share
        )
        fastest = math.inf

        def epoch(number: int) -> Record:
            nonlocal fastest
            loss = loop.train_epoch(engine, feed, train, statistics, number, stepped=mean)
            measures = {"train_loss": loss, **loop.validate(judged, feed, statistics, judged)}
            if self.settings.timed:  # whatever else runs on the machine can only add to it
                fastest = min(fastest, latency.one_row_ms(network, feed))
                measures[LATENCY] = fastest
            return measures

        return epoch

    def _boosting(self, model: Model, train: Train) -> Callable[[int], Record]:
        statistics, data = self.shared["statistics"], self.shared["data"]
        ranks = boosting.ranks_of(statistics, data["train"])
        grown = boosting.Boosting(
            model,
            train,
            statistics,
            training=data["train"],
            validation=data["validation"],
            ranks=ranks,
        )

        def epoch(number: int) -> Record:
            measures = grown.epoch()
            if self.settings.timed:  # each epoch adds trees
                network = zoo.build(model, loop.inputs(statistics))
                network.load_state_dict(grown.state(number + 1))
                measures[LATENCY] = latency.one_row_ms(network, self._feed(train))
            return measures

        return epoch


class Member(Trial):
    """A trial of a population. Its configuration is `{"member": {"settings", "state"}}`: whoever
    gives it another `state` has it go on from another's weights.

    A state is a checkpoint in `shared["states"]`: weights, optimizer, the epochs it has behind it
    (whosever they were), and the weights of the best of them. One is left after each interval.
    """

    averaged = False  # the best one's weights are the model, so they themselves are judged

    def reset_config(self, new_config: Record) -> bool:
        member = new_config["member"]
        super().reset_config(member["settings"])
        begun = member["state"]
        state = checkpoints.loaded(self.shared["states"] / begun) if begun else None
        self.losses: list[float] = state["losses"] if state else []
        self.best = state["best"] if state else self.engine.weights()
        if state:
            self.network.load_state_dict(state["weights"])
            self.engine.restore(state["optimizer"])
        return True

    def step(self) -> Record:
        try:
            measures = self.epoch(len(self.losses))
        except TrainingError:  # the loss is not finite: the member is to be replaced, not the end
            measures = {"train_loss": math.inf, LOSS: math.inf, "score": -math.inf}
        self.losses.append(measures[LOSS])
        if self.losses.index(min(self.losses)) == len(self.losses) - 1:
            self.best = self.engine.weights()
        epochs = len(self.losses)
        done = epochs >= self.train_settings.epochs
        due = done or epochs % self.settings.interval == 0
        return {"epoch": epochs, **measures, "state": self._kept() if due else None, "done": done}

    def _kept(self) -> str:
        name = f"{self.trial_id}-{len(self.losses)}"
        state = {
            "weights": self.engine.weights(),
            "optimizer": self.engine.optimizer_state(),
            "losses": self.losses,
            "best": self.best,
        }
        checkpoints.save(self.shared["states"] / name, state)
        return name

    def save_checkpoint(self, checkpoint_dir: str) -> Record:
        return {}  # Tune wants one to pause a trial; what counts is in the state

    def load_checkpoint(self, checkpoint: Record | None) -> None:
        return
