"""A trained model, and the rows that it is judged on."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import nn
from upath import UPath

from ray_pipeline.data import features as prepared
from ray_pipeline.data.statistics import Statistics
from ray_pipeline.errors import DataError, JobError
from ray_pipeline.job import Evaluate
from ray_pipeline.model import sample, train
from ray_pipeline.model.predictions import Answers, answering, row_count
from ray_pipeline.model.sample import Sample
from ray_pipeline.schema import Schema


@dataclass(frozen=True)
class Case:
    """`side` of `split` is judged: test, or validation where there is no test.

    `positive` is the index of the class of interest, if there is one.
    """

    model: nn.Module
    answers: Answers
    statistics: Statistics
    schema: Schema
    settings: Evaluate
    split: UPath
    side: str
    positive: int | None

    def sample(self, rows: int, seed: int = 0, side: str | None = None) -> Sample:
        """At most so many random rows of the judged side, or of another."""
        folder = self.split / (side or self.side)
        return sample.drawn(folder, rows, self.statistics, self.answers, seed)

    @property
    def score(self) -> str:
        """What the mean of `Sample.row_scores` is called."""
        return "accuracy" if self.statistics.task == "classification" else "R²"


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
    return Case(model, answers, statistics, schema, settings, split, sides[0], positive)


def positive_class(statistics: Statistics, named: str | None) -> int | None:
    """The index of the class of interest: of two, the named or else the rarer; of more, None.

    Raises:
        JobError: `named` is not a class of the label.
    """
    classes = statistics.label.classes
    if named is not None and named not in (classes or ()):
        raise unknown("class", named, classes or (), "evaluate.positive")
    if classes is None or len(classes) != 2:
        return None
    return classes.index(named) if named is not None else int(np.argmin(statistics.label.counts))


def unknown(
    what: Literal["metric", "column", "class"], name: str, known: Sequence[str], where: str
) -> JobError:
    """An error that says what there is, and which of it is near."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return JobError(
        f"no {what} is called `{name}`",
        where=where,
        expected="one of " + ", ".join(list(known)[:12]) if known else "nothing: this job has none",
        hint=f"did you mean `{near[0]}`?" if near else "",
    )
