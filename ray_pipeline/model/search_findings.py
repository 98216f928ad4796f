"""What a search found, for the report: architectures and their price, what mattered, budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import optuna

from ray_pipeline.model.search import recorded
from ray_pipeline.model.space import NAME, Space

Record = dict[str, Any]
LOSS = "validation_loss"
ENOUGH = 6
"""Trials of an architecture from which the importance of its settings is told."""


def findings(space: Space, trials: Sequence[Record], price_per_hour: float | None) -> list[Record]:
    """Sections of the report; `price_per_hour` is what a trial's worker costs."""
    usable = [trial for trial in trials if trial["state"] != "failed"]
    found = [_architectures(space, trials, price_per_hour)] if space.chosen else []
    return [*found, *_importance(space, usable), _rungs(usable)]


def _name(space: Space, trial: Record) -> str:
    return str(trial["settings"].get(NAME, space.names[0]))


def _architectures(space: Space, trials: Sequence[Record], price: float | None) -> Record:
    rows = []
    for name in space.names:
        own = [trial for trial in trials if _name(space, trial) == name]
        usable = [trial for trial in own if trial["state"] != "failed"]
        best = min(usable, key=lambda trial: float(trial[LOSS]), default=None)
        seconds = sum(trial["seconds"] for trial in own)
        row = [name, len(own), sum(trial["epochs"] for trial in own)]
        row += [None, None] if best is None else [round(best["score"], 4), round(best[LOSS], 4)]
        rows.append([*row, round(seconds, 1)])
        if price is not None:
            rows[-1].append(round(seconds / 3600 * price, 4))
    columns = ["architecture", "trials", "epochs", "best score", "its loss", "seconds"]
    columns += [] if price is None else ["price"]
    rows.sort(key=lambda row: (row[4] is None, row[4]))
    return {
        "title": "Architectures tried",
        "note": "Scores and losses are those of the validation rows; seconds are a worker's.",
        "tables": [{"columns": columns, "rows": rows}],
    }


def _importance(space: Space, usable: Sequence[Record]) -> list[Record]:
    """How much of the loss's variation among an architecture's trials each setting explains."""
    tables = []
    for name in space.names:
        own = [trial for trial in usable if _name(space, trial) == name]
        keys = list(space.of(name))
        if len(own) < ENOUGH or len(keys) < 2 or len({trial[LOSS] for trial in own}) < 2:
            continue
        study = optuna.create_study()
        for trial in own:
            settings = {key: trial["settings"][key] for key in keys}
            study.add_trial(recorded(space, settings, trial[LOSS]))
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        weights = optuna.importance.get_param_importances(study, evaluator=evaluator, params=keys)
        rows = [[key, f"{weight:.0%}"] for key, weight in weights.items()]
        tables.append({"caption": name, "columns": ["setting", "importance"], "rows": rows})
    if not tables:
        return []
    note = (
        "The share of the validation loss's variation that a setting explains alone (functional "
        "ANOVA, Hutter et al. 2014). Trials that were stopped early count with the loss they had."
    )
    return [{"title": "What mattered", "note": note, "tables": tables}]


def _rungs(usable: Sequence[Record]) -> Record:
    """How many trials were let run how far, and what that took."""
    reached = Counter(trial["epochs"] for trial in usable)
    rows = []
    for epochs, count in sorted(reached.items()):
        own = [trial for trial in usable if trial["epochs"] == epochs]
        rows.append([epochs, count, count * epochs, round(sum(t["seconds"] for t in own), 1)])
    columns = ["stopped after epoch", "trials", "epochs in all", "seconds"]
    tables = [{"columns": columns, "rows": rows}]
    return {"title": "Where the search's budget went", "tables": tables}
