"""Gradient-boosted trees, grown by LightGBM: in this process, or by the workers of Ray Train.

An epoch is `model.trees.rounds` rounds, so that history, early stopping and the search's rungs are
those of networks. LightGBM: Ke et al. (2017), https://papers.nips.cc/paper/6907.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from ray_pipeline.data.statistics import Statistics
from ray_pipeline.errors import JobError, PipelineError, TrainingError
from ray_pipeline.job import Model, Train
from ray_pipeline.model import checkpoints, loop, trees, worker
from ray_pipeline.model.feed import Matrices, dataset, matrices, row_groups

if TYPE_CHECKING:
    import lightgbm

Record = dict[str, Any]
SMALLEST = 1e-15
"""No probability counts as less in the loss."""


class Boosting:
    """Trees that grow by `epoch()`.

    Args:
        training, validation: this worker's training rows and all validation rows.
        ranks: what `trees.ranked` gives of all training rows.
        machines: how LightGBM finds the other workers; empty where there are none.
    """

    def __init__(
        self,
        model: Model,
        train: Train,
        statistics: Statistics,
        *,
        training: Matrices,
        validation: Matrices,
        ranks: NDArray[np.float32],
        machines: Mapping[str, Any] | None = None,
    ) -> None:
        import lightgbm

        self.rounds, self.statistics, self.ranks = model.trees.rounds, statistics, ranks
        self.grown: list[int] = []
        """Rounds after each epoch."""
        columns = self._columns(training)
        self.training = lightgbm.Dataset(
            columns, self._label(training), weight=training.get("weight")
        )
        self.validation = self.training.create_valid(
            self._columns(validation), self._label(validation)
        )
        settings = {**_parameters(model, train, statistics), **(machines or {})}
        self.booster = lightgbm.Booster(settings, self.training)
        self.booster.add_valid(self.validation, "validation")

    def epoch(self) -> Record:
        """Some rounds more; then the training loss (of this worker's rows), and the loss and the
        score over the validation rows, as `loop.validate` gives them.

        Raises:
            TrainingError: the loss is no longer a finite number.
        """
        for _ in range(self.rounds):
            if self.booster.update():
                break  # no leaf can be split any more
        self.grown.append(self.booster.current_iteration())
        train_loss = self.booster.eval_train(self._measured)[0][2]
        loss, score = (found[2] for found in self.booster.eval_valid(self._measured))
        if not np.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss} after {self.grown[-1]} rounds",
                where="model.trees",
                hint="look for huge values in the data",
            )
        return {"train_loss": train_loss, "validation_loss": loss, "score": score}

    def state(self, epochs: int) -> dict[str, Tensor]:
        """The state of `trees.Trees` that the first `epochs` have grown."""
        dumped = self.booster.dump_model(num_iteration=self.grown[epochs - 1])
        return trees.state_of(dumped, self.ranks, self.statistics.outputs)

    def _columns(self, rows: Matrices) -> NDArray[np.float32]:
        sizes = self.statistics.category_sizes
        offsets = np.cumsum([0, *sizes[:-1]]).astype(np.int64)[: len(sizes)]
        return np.hstack([rows["numbers"], self.ranks[rows["categories"] + offsets]])

    def _label(self, rows: Matrices) -> NDArray[Any]:
        if self.statistics.task == "classification":
            return np.asarray(rows["label"])
        mean, deviation = self.statistics.label.mean, self.statistics.label.deviation
        return np.asarray((rows["label"] - mean) / (deviation or 1.0))

    def _measured(
        self, found: NDArray[Any], rows: lightgbm.Dataset
    ) -> list[tuple[str, float, bool]]:
        """Loss and score of `found`, probabilities [N, K] or, of the second of two classes, [N];
        or values [N]. Training rows are weighed as in `loop.loss_of`."""
        label, weight = np.asarray(rows.get_label()), rows.get_weight()
        if self.statistics.task == "regression":
            errors = (found - label) ** 2
            spread = float(((label - label.mean()) ** 2).mean())
            score = 1 - float(errors.mean()) / spread if spread > 0 else 0.0
        else:
            chances = found if found.ndim == 2 else np.stack([1 - found, found], axis=1)
            index = label.astype(np.int64)
            errors = -np.log(np.maximum(chances[np.arange(len(index)), index], SMALLEST))
            score = float((chances.argmax(1) == index).mean())
        loss = errors.mean() if weight is None else (errors * weight).mean()
        return [("loss", float(loss), False), ("score", score, True)]


def _parameters(model: Model, train: Train, statistics: Statistics) -> Record:
    settings, classes = model.trees, statistics.outputs
    objective = {1: "regression", 2: "binary"}.get(classes, "multiclass")
    return {
        "objective": objective,
        "num_class": classes if objective == "multiclass" else 1,
        "metric": "None",
        "learning_rate": settings.learning_rate,
        "num_leaves": settings.leaves,
        "min_data_in_leaf": settings.min_rows,
        "feature_fraction": settings.columns,
        "lambda_l2": settings.l2,
        "seed": train.seed,
        "num_threads": torch.get_num_threads(),
        "deterministic": True,
        "force_row_wise": True,  # else it is measured which way is faster, and sums may differ
        "verbose": -1,
    }


def ranks_of(statistics: Statistics, rows: Matrices) -> NDArray[np.float32]:
    """`trees.ranked` of all training rows."""
    classes = statistics.outputs if statistics.task == "classification" else None
    return trees.ranked(rows["categories"], rows["label"], statistics.category_sizes, classes)


def work(config: dict[str, worker.Setup]) -> Record:
    """Grow trees in this worker until the epochs are over or the validation loss stops falling.

    Rank 0 leaves what the best epoch had grown. There is no checkpoint before: trees are quick,
    and an interrupted training begins anew. An error of our own is returned, as by `worker.work`.
    """
    try:
        return _grown(config["setup"])
    except PipelineError as error:
        return {"error": error}


def _grown(setup: worker.Setup) -> Record:
    from ray.train import get_context, report
    from ray.train.lightgbm import get_network_params

    if setup.begin or setup.teacher:
        raise JobError(
            "trees are neither pruned nor taught by another model",
            where="compress",
            expected="no `prune`, and a network as `distill.model`",
        )
    context, train = get_context(), setup.train
    rank, world = context.get_world_rank(), context.get_world_size()
    shared = {"tree_learner": "data", "pre_partition": True}
    machines = {**get_network_params(), **shared} if world > 1 else {}
    own, everything, validation = _rows(setup, rank, world)
    ranks = ranks_of(setup.statistics, everything)
    boosting = Boosting(
        setup.model,
        train,
        setup.statistics,
        training=own,
        validation=validation,
        ranks=ranks,
        machines=machines,
    )
    history: list[Record] = []
    log = loop.logger(setup.log_dir if rank == 0 else None, 0)
    while len(history) < train.epochs and not loop.stale(history, train.patience):
        begun = time.monotonic()
        measures = boosting.epoch()
        seconds = round(time.monotonic() - begun, 4)
        place = {"epoch": len(history) + 1, "epochs": train.epochs}
        history.append({**place, **measures, "seconds": seconds})
        if rank == 0:
            log(history[-1])
            setup.report(history[-1])
        report(measures)
    best = boosting.state(loop.best_epoch(history) + 1)
    if rank == 0:
        checkpoints.save(setup.work, {"history": history, "best": best})
    return {
        "strategy": "LightGBM",
        "workers": world,
        "device": "cpu",
        "parameters": best["value"].numel(),
        "trees": len(best["target"]),
    }


def _rows(setup: worker.Setup, rank: int, world: int) -> tuple[Matrices, Matrices, Matrices]:
    """A worker's training rows, what the ranks are made of, and all validation rows."""
    if setup.feed == "memory":
        data = worker.held(setup)
        own = {name: values[rank::world] for name, values in data["train"].items()}
        return own, data["train"], data["validation"]
    found, groups = dataset(setup.features / "train"), row_groups(setup.features / "train")
    if len(groups) < world:  # told on every worker: the others would wait for one without rows
        raise TrainingError(
            f"{len(groups)} row groups cannot be shared by {world} workers",
            where="train.workers",
            hint="lower it, or set `train.feed: memory`",
        )
    tables = [group.to_table() for group in groups[rank::world]]
    ranked = [name for name in ("categories", "label") if name in found.schema.names]
    everything = matrices(found.to_table(columns=ranked))
    held_out = matrices(dataset(setup.features / "validation").to_table())
    return matrices(pa.concat_tables(tables)), everything, held_out
