"""Where a search looks: which architectures suit the data, and which settings are whose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray_pipeline.errors import JobError
from ray_pipeline.job import Model, Range, Train, Tune
from ray_pipeline.model.inputs import Inputs
from ray_pipeline.model.settings import value_at

Record = dict[str, Any]
NAME = "model.name"
AUTO = "auto"
FEW_ROWS = 100_000
"""Up to so many rows a transformer over columns is tried too: it takes ten times an MLP's time."""

TABLES = {
    "model.trees.learning_rate": Range(log_uniform=(0.02, 0.2)),
    "model.trees.leaves": Range(integer=(7, 63)),
    "model.trees.min_rows": Range(integer=(5, 100)),
    "model.trees.columns": Range(uniform=(0.3, 1.0)),
    "model.trees.l2": Range(log_uniform=(1e-3, 10.0)),
    "model.width": Range(choice=(64, 128)),
    "model.depth": Range(integer=(1, 3)),
    "model.dropout": Range(uniform=(0.0, 0.4)),
    "model.frequency_scale": Range(log_uniform=(2.0, 10.0)),
    "train.learning_rate": Range(log_uniform=(3e-4, 1e-2)),
}
IMAGES = {
    "model.dropout": Range(uniform=(0.0, 0.4)),
    "train.learning_rate": Range(log_uniform=(3e-4, 1e-2)),
}
TEXTS = {"train.learning_rate": Range(log_uniform=(1e-5, 2e-4))}
"""What is searched where `model.name` is `auto`; the job's own dimensions come on top."""


@dataclass(frozen=True)
class Space:
    """Architectures `names`, and dimensions, of which each architecture has its own part.

    `chosen` says whether the architecture is one of the dimensions; `starts` are settings to begin
    with, whole or in part.
    """

    names: tuple[str, ...]
    chosen: bool
    dimensions: dict[str, Range]
    starts: tuple[Record, ...]

    def of(self, name: str) -> dict[str, Range]:
        """The dimensions that the architecture `name` has."""
        return {key: range_ for key, range_ in self.dimensions.items() if concerns(key, name)}

    def dimension(self, key: str) -> Range:
        return Range(choice=self.names) if key == NAME else self.dimensions[key]


def space(  # noqa: PLR0917 - what is searched, and on what
    tune: Tune, model: Model, train: Train, inputs: Inputs, rows: int, several: bool = False
) -> Space:
    """The space of `tune`, completed where `model.name` is `auto`; `rows` are those of training,
    of which each may have `several` labels.

    Raises:
        JobError: nothing says what to search.
    """
    given = {key: range_ for key, range_ in tune.space.items() if key != NAME}
    auto, named = model.name == AUTO, tune.space.get(NAME)
    if not auto and not tune.space:
        raise JobError(
            "nothing says what to search", where="tune.space", expected="settings and their ranges"
        )
    names = named.choice if named and named.choice else None
    names = names or (candidates(inputs, rows) if auto else (model.name,))
    # Trees have no weights to hand on, give one label, and learn from whole rows.
    if auto and (tune.scheduler == "pbt" or several or _mixes(tune, train)):
        names = tuple(name for name in names if name != "trees")
    chosen = auto or named is not None
    dimensions = {**_usual(inputs), **given} if auto else given
    found = Space(names, chosen, dimensions, ())
    starts = [_start(found, name, model, train) for name in (names if auto else (model.name,))]
    whole = [start for start in starts if auto or len(start) == len(tune.space)]
    return Space(names, chosen, dimensions, tuple(whole))


def _mixes(tune: Tune, train: Train) -> bool:
    return bool(
        train.mixup or train.smoothing or {"train.mixup", "train.smoothing"} & {*tune.space}
    )


def candidates(inputs: Inputs, rows: int) -> tuple[str, ...]:
    """The architectures that suit rows of `inputs`, of which there are `rows`; cheap ones first."""
    if inputs.tokens is not None:
        return ("encoder",)
    if inputs.image is not None:
        return ("cnn", "convnet")
    tabular = ("trees", "mlp", "resnet")
    return (*tabular, "ft_transformer") if rows <= FEW_ROWS else tabular


def _usual(inputs: Inputs) -> dict[str, Range]:
    if inputs.tokens is not None:
        return TEXTS
    return TABLES if inputs.image is None else IMAGES


def concerns(key: str, name: str) -> bool:
    """Whether the setting `key` does anything to the architecture `name`."""
    if key == "model.heads":
        return name == "ft_transformer"
    return key.startswith("model.trees.") == (name == "trees")


def _start(space: Space, name: str, model: Model, train: Train) -> Record:
    """The job's own settings of an architecture, as far as the space covers them."""
    own = {key: value_at(key, model, train) for key in space.of(name)}
    held = {key: value for key, value in own.items() if contains(space.dimensions[key], value)}
    named = space.chosen and name in space.names
    return {NAME: name, **held} if named else held


def contains(range_: Range, value: Any) -> bool:
    """Whether a dimension of the space holds `value`."""
    if range_.choice is not None:
        return value in range_.choice
    low, high = range_.integer or range_.log_uniform or range_.uniform or (0, 0)
    return bool(low <= value <= high)
