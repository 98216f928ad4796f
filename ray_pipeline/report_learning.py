"""The search and the training, as the report shows them, picked out of a run's record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray_pipeline import charts

Record = Mapping[str, Any]

_LOSS = "validation_loss"  # what trials and epochs are chosen by
_TRIALS_SHOWN = 8


def stage_record(record: Record, name: str) -> Record:
    """What the stage `name` returned; empty if it was not passed."""
    found = (stage for stage in record.get("stages") or () if stage["name"] == name)
    return (next(found, None) or {}).get("record") or {}


def history(record: Record) -> Sequence[Record]:
    """The epochs of the final training."""
    found = record.get("history") or stage_record(record, "train").get("history")
    return found if isinstance(found, Sequence) else ()


def trials(record: Record) -> Sequence[Record]:
    """The trials of the search, in the order in which they were started."""
    found = record.get("trials") or stage_record(record, "tune").get("trials")
    return found if isinstance(found, Sequence) else ()


def best_trial(tried: Sequence[Record]) -> int | None:
    """The index of the trial that the search chose; where none is marked, of the lowest loss."""
    marked = next((index for index, trial in enumerate(tried) if trial.get("chosen")), None)
    if marked is not None:
        return marked
    losses = {index: trial[_LOSS] for index, trial in enumerate(tried) if _loss(trial) is not None}
    return min(losses, key=losses.__getitem__, default=None)


def search(record: Record) -> dict[str, Any] | None:
    """The trials drawn, and the best of them; None where none has a loss."""
    tried = trials(record)
    best = best_trial(tried)
    if best is None:
        return None
    losses = {
        index: loss for index, trial in enumerate(tried) if (loss := _loss(trial)) is not None
    }
    ranked = sorted(losses, key=lambda index: (index != best, losses[index]))
    lines = [
        charts.Line(
            "best" if index == best else "", points(tried[index].get("history"), _LOSS), style
        )
        for index, style in [*((i, "faint") for i in reversed(ranked[1:])), (best, "first")]
        if len(points(tried[index].get("history"), _LOSS)) > 1
    ]
    names = list(dict.fromkeys(name for trial in tried for name in trial.get("settings") or ()))
    bred = any(trial.get("weights") for trial in tried)
    return {
        "trials": len(tried),
        "poor": "went on from the weights of good ones" if bred else "were stopped early",
        "failed": sum(trial.get("state") == "failed" for trial in tried),
        "scatter": charts.trials([_loss(trial) for trial in tried], best, "validation loss"),
        "curves": charts.curves(lines, "epoch", "validation loss") if lines else None,
        "names": names,
        "top": [{"number": i + 1, **tried[i]} for i in ranked[:_TRIALS_SHOWN]],
    }


def training(record: Record) -> dict[str, Any] | None:
    """The final training's curves and facts; None where it has no epochs."""
    trained, epochs = stage_record(record, "train"), history(record)
    losses = [
        charts.Line("training", points(epochs, "train_loss"), "second"),
        charts.Line("validation", points(epochs, _LOSS), "first"),
    ]
    if not losses[1].points:
        return None
    best = trained.get("best_epoch") or min(losses[1].points, key=lambda point: point[1])[0]
    mark = (float(best), f"best, epoch {best}")
    score = charts.Line("", points(epochs, "score"), "first")
    facts = {key: value for key, value in trained.items() if isinstance(value, int | float | str)}
    return {
        "loss": charts.curves([line for line in losses if line.points], "epoch", "loss", mark),
        "score": charts.curves([score], "epoch", "validation score", mark)
        if score.points
        else None,
        "facts": facts,
    }


def _loss(trial: Record) -> float | None:
    return None if trial.get("state") == "failed" else trial.get(_LOSS)


def points(epochs: Sequence[Record] | None, key: str) -> list[charts.Point]:
    """One of the epochs' figures by their numbers; epochs without it are left out."""
    return [(epoch["epoch"], epoch[key]) for epoch in epochs or () if epoch.get(key) is not None]
