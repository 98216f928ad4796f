"""Settings by key: `model.width`, `model.trees.leaves`, `train.learning_rate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_pipeline.job import Model, Train


def apply(found: Mapping[str, Any], model: Model, train: Train) -> tuple[Model, Train]:
    """`model` and `train` with the settings `found`, keyed `model.…` and `train.…`."""
    sections: dict[str, Any] = {"model": model.model_dump(), "train": train.model_dump()}
    for key, value in found.items():
        *path, name = key.split(".")
        section = sections
        for step in path:
            section = section[step]
        section[name] = value
    return Model.model_validate(sections["model"]), Train.model_validate(sections["train"])


def value_at(key: str, model: Model, train: Train) -> Any:
    """What `model.…` or `train.…` is set to."""
    section, *path = key.split(".")
    found: Any = {"model": model, "train": train}[section]
    for step in path:
        found = getattr(found, step)
    return found
