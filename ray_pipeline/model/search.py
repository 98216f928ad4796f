"""What Optuna is told about a search: its space, where to begin, and what is already known."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from ray.tune.search.optuna import OptunaSearch

from ray_pipeline.job import Range, Tune
from ray_pipeline.model.objectives import keys
from ray_pipeline.model.space import NAME, Space

Record = dict[str, Any]


class Proposals(OptunaSearch):
    """Proposes settings: the architecture first, then those of its settings that are searched.

    Ray's own class is told of trials that have ended only where all have the same settings.
    """

    def __init__(
        self, space: Space, sought: tuple[str, ...], sampler: BaseSampler, begun: bool
    ) -> None:
        self.space_searched, self.sought = space, sought
        starts = None if begun else list(space.starts) or None
        # Ray's class tells Optuna of a trial's epochs only where the metric is no list.
        one = len(sought) == 1
        metric, mode = (sought[0], "min") if one else ([*sought], ["min"] * len(sought))
        super().__init__(
            partial(_draw_all, space=space),
            metric=metric,
            mode=mode,
            points_to_evaluate=starts,
            sampler=sampler,
        )

    def add_ended(self, trial: Record) -> None:
        """Tell of a trial of an interrupted search."""
        study: Any = self._ot_study
        values = [trial[key] for key in self.sought]
        study.add_trial(recorded(self.space_searched, trial["settings"], values))


def search(tune: Tune, space: Space, ended: Sequence[Record]) -> Proposals:
    """Proposes settings for low `tune.objectives`: first those that the space begins with, then as
    `tune.algorithm` says. `ended` are the trials of an interrupted search.

    For two objectives TPE is that of Ozaki et al. (2020), https://doi.org/10.1145/3377930.3389817.
    """
    # Another seed after an interruption: the same one would propose what was already tried.
    seed = tune.seed + len(ended)
    sampler = RandomSampler(seed) if tune.algorithm == "random" else _estimator(seed, space)
    searcher = Proposals(space, keys(tune), sampler, begun=bool(ended))
    for trial in ended:
        if trial["state"] != "failed":
            searcher.add_ended(trial)
    return searcher


def _estimator(seed: int, space: Space) -> TPESampler:
    """TPE over all settings at once, so that it learns which go together; trials under way count as
    poor, so that it does not propose their like twice; and it begins after as many random trials as
    there are settings, four at least. Optuna's defaults are neither, and ten."""
    settings = max(len(space.of(name)) for name in space.names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # `group`
        return TPESampler(
            seed=seed,
            multivariate=True,
            group=space.chosen,  # architectures have settings of their own
            constant_liar=True,
            n_startup_trials=max(4, min(settings, 10)) * len(space.names),
        )


def recorded(space: Space, settings: Record, values: list[float]) -> optuna.trial.FrozenTrial:
    """A trial that has ended, as Optuna keeps it."""
    kinds = {key: distribution(space.dimension(key)) for key in settings}
    return optuna.trial.create_trial(values=values, params=settings, distributions=kinds)


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


def _draw_all(trial: optuna.Trial, space: Space) -> None:
    name = trial.suggest_categorical(NAME, space.names) if space.chosen else space.names[0]
    for key, range_ in space.of(name).items():
        _draw(trial, key, range_)


def _draw(trial: optuna.Trial, key: str, range_: Range) -> None:
    """Have a dimension's value drawn; the trial keeps it."""
    if range_.choice is not None:
        trial.suggest_categorical(key, range_.choice)
    elif range_.integer is not None:
        trial.suggest_int(key, *range_.integer)
    elif range_.log_uniform is not None:
        trial.suggest_float(key, *range_.log_uniform, log=True)
    else:
        assert range_.uniform is not None
        trial.suggest_float(key, *range_.uniform)
