"""A trained model, and the rows that it is judged on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn
from upath import UPath

from ray_pipeline.data import features as prepared
from ray_pipeline.data.statistics import Statistics
from ray_pipeline.errors import DataError
from ray_pipeline.job import Evaluate
from ray_pipeline.model import sample, train
from ray_pipeline.model.judgement import Focus
from ray_pipeline.model.multilabel import HALF, Thresholds, best_thresholds
from ray_pipeline.model.predictions import Answers, answering, model_outputs, row_count
from ray_pipeline.model.sample import Sample
from ray_pipeline.model.unknown import unknown
from ray_pipeline.schema import Schema


@dataclass(frozen=True)
class Case:
    """`side` of `split` is judged: test, or validation where there is no test.

    `positive` is the index of the class of interest, if there is one; `thresholds` are where each
    of several labels begins.
    """

    model: nn.Module
    answers: Answers
    statistics: Statistics
    schema: Schema
    settings: Evaluate
    split: UPath
    side: str
    positive: int | None
    thresholds: Thresholds | None = None

    @property
    def focus(self) -> Focus:
        """What the figures speak of, as `judgement` takes it."""
        return self.positive if self.thresholds is None else self.thresholds

    def sample(self, rows: int, seed: int = 0, side: str | None = None) -> Sample:
        """At most so many random rows of the judged side, or of another."""
        folder = self.split / (side or self.side)
        known = (self.statistics, self.answers, seed)
        return sample.drawn(folder, rows, *known, thresholds=self.thresholds)

    @property
    def score(self) -> str:
        """What the mean of `Sample.row_scores` is called."""
        return {"classification": "accuracy", "multilabel": "a row's F1"}.get(
            self.statistics.task, "R²"
        )


def opened(
    trained: UPath, features: UPath, split: UPath, schema: Schema, settings: Evaluate
) -> Case:
    """The model in `trained`, with what `settings` ask of it.

    Raises:
        JobError: the positive class does not exist.
        DataError: there are no rows to judge on.
    """
    statistics = prepared.load(features)
    positive = positive_class(statistics, settings.positive)
    sides = [side for side in ("test", "validation") if row_count(split / side)]
    if not sides:
        raise DataError(
            "no rows to evaluate on",
            where=str(split),
            hint="raise `data.split.test`, or give `data.test`",
        )
    model = train.load(trained)
    answers = answering(model, statistics)
    thresholds = None
    if statistics.task == "multilabel":
        thresholds = _thresholds(model, statistics, features / "validation", settings)
    case = (model, answers, statistics, schema, settings, split, sides[0], positive, thresholds)
    return Case(*case)


def focus_of(
    model: nn.Module, statistics: Statistics, validation: UPath, settings: Evaluate
) -> Focus:
    """What figures of the `model` speak of. Raises JobError: the positive class does not exist."""
    if statistics.task == "multilabel":
        return _thresholds(model, statistics, validation, settings)
    return positive_class(statistics, settings.positive)


def _thresholds(
    model: nn.Module, statistics: Statistics, validation: UPath, settings: Evaluate
) -> Thresholds:
    """Where each of several labels begins, as the prepared `validation` rows have it best."""
    if settings.thresholds == "half":
        return (HALF,) * statistics.outputs
    rows = prepared.read_matrix(validation)
    return best_thresholds(rows["label"], model_outputs(model, statistics.label, rows))


def positive_class(statistics: Statistics, named: str | None) -> int | None:
    """The index of the class of interest: of two, the named or else the rarer; of more, None.

    Raises:
        JobError: `named` is not a class of the label.
    """
    classes = statistics.label.classes
    if named is not None and named not in (classes or ()):
        raise unknown("class", named, classes or (), "evaluate.positive")
    if classes is None or len(classes) != 2 or statistics.task == "multilabel":
        return None
    return classes.index(named) if named is not None else int(np.argmin(statistics.label.counts))
