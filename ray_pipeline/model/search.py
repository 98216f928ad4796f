"""What Optuna is told about a search: its space, where to begin, and what is already known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import TPESampler
from ray.tune.search.optuna import OptunaSearch

from ray_pipeline.job import Model, Range, Train, Tune
from ray_pipeline.model.settings import value_at

Record = dict[str, Any]


def search(
    tune: Tune, model: Model, train: Train, ended: Sequence[Record], metric: str
) -> OptunaSearch:
    """Proposes settings of low `metric`: first the job's own, where the space covers them, then
    by TPE. `ended` are the trials of an interrupted search."""
    own = {key: value_at(key, model, train) for key in tune.space}
    covered = all(contains(tune.space[key], value) for key, value in own.items())
    searcher = OptunaSearch(
        {key: distribution(range_) for key, range_ in tune.space.items()},
        metric=metric,
        mode="min",
        points_to_evaluate=[own] if covered and not ended else None,
        # Another seed after an interruption: the same one would propose what was already tried.
        sampler=TPESampler(seed=tune.seed + len(ended)),
    )
    for trial in ended:
        if trial["state"] != "failed":
            searcher.add_evaluated_point(trial["settings"], trial[metric])
    return searcher


def contains(range_: Range, value: Any) -> bool:
    """Whether a dimension of the space holds `value`."""
    if range_.choice is not None:
        return value in range_.choice
    low, high = range_.integer or range_.log_uniform or range_.uniform or (0, 0)
    return bool(low <= value <= high)


def distribution(range_: Range) -> BaseDistribution:
    """A dimension of the space as Optuna's distribution."""
    if range_.choice is not None:
        return CategoricalDistribution(range_.choice)
    if range_.integer is not None:
        return IntDistribution(*range_.integer)
    if range_.log_uniform is not None:
        return FloatDistribution(*range_.log_uniform, log=True)
    assert range_.uniform is not None
    return FloatDistribution(*range_.uniform)
