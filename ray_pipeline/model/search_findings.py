"""What a search found, for the report: architectures and their price, what mattered, budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import optuna

from ray_pipeline.job import CHANGEABLE, Tune
from ray_pipeline.model.objectives import LATENCY, LOSS, front
from ray_pipeline.model.search import recorded
from ray_pipeline.model.space import NAME, Space

Record = dict[str, Any]
ENOUGH = 6
"""Trials of an architecture from which the importance of its settings is told."""


def findings(
    space: Space,
    trials: Sequence[Record],
    settings: Tune,
    *,
    chosen: Record,
    price_per_hour: float | None,
    exchanges: Sequence[Record] = (),
) -> list[Record]:
    """Sections of the report; `price_per_hour` is what a trial's worker costs, `exchanges` are
    those of a population."""
    usable = [trial for trial in trials if trial["state"] != "failed"]
    found = [_architectures(space, trials, price_per_hour)] if space.chosen else []
    found += [_front(trials, chosen, settings.max_latency)] if settings.timed else []
    found += _exchanges(chosen, exchanges) if settings.scheduler == "pbt" else []
    return [*found, *_parallel(space, usable, chosen), *_importance(space, usable), _rungs(usable)]


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


def _front(trials: Sequence[Record], chosen: Record, bound: float | None) -> Record:
    """Loss against latency: the trials that no other beats in both, and which one was taken."""
    numbered = [(n, trial) for n, trial in enumerate(trials, 1) if trial["state"] != "failed"]
    points = [(trial[LATENCY], trial[LOSS]) for _, trial in numbered]
    best, taken = front(points), next(i for i, (_, t) in enumerate(numbered) if t is chosen)
    rows = []
    for place in best if taken in best else [*best, taken]:
        number, trial = numbered[place]
        figures = [round(trial["score"], 4), round(trial[LOSS], 4), round(trial[LATENCY], 3)]
        rows.append([number, *figures, "chosen" if place == taken else ""])
    rule = (
        "the one below which less loss costs the most latency (furthest below the line between the "
        "front's ends)"
        if bound is None
        else f"the lowest loss of those that take at most {bound:g} ms"
    )
    return {
        "title": "Quality against time",
        "note": f"No other trial is both better and faster than these. Chosen is {rule}. A row's "
        "milliseconds are the network's alone in PyTorch, the median of 30 passes, on the machine "
        "and with the threads of the trial; the endpoint's are measured later.",
        "plots": [
            {"kind": "front", "points": points, "best": best, "chosen": taken, "bound": bound}
        ],
        "tables": [
            {"columns": ["trial", "score", "loss", "ms a row", ""], "rows": rows},
        ],
    }


def _exchanges(chosen: Record, exchanges: Sequence[Record]) -> list[Record]:
    """Who went on from whose weights, and how the best member's settings changed on the way."""
    keys = [key for key in CHANGEABLE if key in chosen["history"][0]["settings"]]
    rows = [
        [each["epoch"], each["member"] + 1, each["from"] + 1]
        + [float(f"{each['settings'][key]:.4g}") for key in keys]
        for each in exchanges
    ]
    plots = [
        {
            "kind": "curves",
            "x": "epoch",
            "y": key,
            "lines": {"": [[e["epoch"], e["settings"][key]] for e in chosen["history"]]},
        }
        for key in keys
    ]
    columns = ["after epoch", "trial", "went on from", *keys]
    return [
        {
            "title": "What the population passed on",
            "note": "A trial in the lowest quarter went on from the weights of one in the highest, "
            "with its settings changed a little (Jaderberg et al. 2017). The curves are the best "
            "trial's way, whosever epochs they were.",
            "plots": plots,
            "tables": [{"columns": columns, "rows": rows}],
        }
    ]


def _parallel(space: Space, usable: Sequence[Record], chosen: Record) -> list[Record]:
    """Each trial as a line through its settings; architectures with the same settings together."""
    together: dict[tuple[str, ...], list[Record]] = {}
    for trial in usable:
        together.setdefault(tuple(trial["settings"]), []).append(trial)
    plots = []
    for keys, own in together.items():
        if len(own) < 2:
            continue
        taken = next((i for i, trial in enumerate(own) if trial is chosen), None)
        rows = [[*(trial["settings"][key] for key in keys), trial[LOSS]] for trial in own]
        log = [key for key in keys if space.dimension(key).log_uniform is not None]
        short = [_short(key) for key in (*keys, "validation loss")]
        plots.append(
            {
                "kind": "parallel",
                "axes": short,
                "rows": rows,
                "chosen": taken,
                "log": [_short(key) for key in log],
            }
        )
    note = (
        "A line is a trial, through its settings down to its validation loss; the lowest quarter "
        "stands out, and the chosen one more."
    )
    return [{"title": "The trials side by side", "note": note, "plots": plots}] if plots else []


def _short(key: str) -> str:
    """A setting without its section: axes have little room."""
    return key.rpartition(".")[2].replace("_", " ")


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
            study.add_trial(recorded(space, settings, [trial[LOSS]]))
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
