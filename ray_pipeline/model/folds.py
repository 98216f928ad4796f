"""Cross-validation: the same settings trained on all folds but one, and judged on that one.

A row's fold follows from the hash of what decides its side, so that equal rows, and those of one
group, never part. Features are fitted anew on each fold's training rows: nothing of the fold that
is held out is known before it is judged. As the validation rows do for the model that is deployed,
the fold held out says which epoch is the best; so the figures are to be compared with those of the
validation rows, and not with those of the test rows, which no fold has.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from functools import partial
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from upath import UPath

from ray_pipeline.data import features as prepared
from ray_pipeline.data import parts
from ray_pipeline.data.hashing import row_hashes, shares
from ray_pipeline.data.split import deciding
from ray_pipeline.errors import DataError, JobError
from ray_pipeline.files import clear
from ray_pipeline.job import Data, Evaluate, Model, Train
from ray_pipeline.model import case, judgement, loop, train
from ray_pipeline.model.predictions import model_outputs
from ray_pipeline.model.train import Progress
from ray_pipeline.schema import Schema

Record = dict[str, Any]

_SEED = 7_919  # another hash than that of the sides, which would leave folds of other sizes
_SHOWN = ("accuracy", "f1", "f1_micro", "f1_macro", "roc_auc", "mean_average_precision", "r2")
_LOSS = "loss"


def write(  # noqa: PLR0917 - a stage's inputs come by position
    trained: UPath,
    features: UPath,
    sides: UPath,
    data: Data,
    schema: Schema,
    training: Train,
    settings: Evaluate,
    *,
    out: UPath,
    work: UPath,
    progress: Progress,
) -> Record:
    """Train the model of `trained` `settings.folds` times on the training and validation rows of
    `sides`, which are then all held out once.

    Writes `folds.json`: by metric the `mean`, the `deviation` (of a sample) and the `values` of the
    folds, and as `split` that of the model in `trained` on its validation rows. The record has it
    as `folds`. Folds that are done stay in `work`; one that was interrupted goes on.

    Raises:
        DataError: a fold has no rows, or a class that the others lack.
        TrainingError: as `train.write`.
    """
    model = Model.model_validate(json.loads((trained / "model.json").read_text())["model"])
    found = []
    for fold in range(settings.folds):
        done = work / f"fold-{fold}.json"
        if not done.exists():
            folder = work / f"fold-{fold}"
            told = partial(_told, progress, f"{fold + 1}/{settings.folds}")
            _divided(sides, data, schema, fold, settings.folds, folder / "rows")
            judged = _trained(folder, data, schema, (model, training), settings, told)
            done.write_text(json.dumps(judgement.defined(judged)))
            clear(folder)
        found.append(json.loads(done.read_text()))
    own = _judged(trained, features, settings)
    told_of = summary(found, judgement.defined(own))
    (out / "folds.json").write_text(json.dumps(told_of, indent=1))
    rows = sum(fold["rows"] for fold in found)
    return {
        "rows_in": rows,
        "rows_out": rows,
        "folds": told_of,
        "findings": findings(found, told_of, own["rows"]),
    }


def part(settings: Evaluate) -> Evaluate:
    """What of the settings the folds hang on: what else is judged of a model does not redo them."""
    return Evaluate(
        folds=settings.folds, positive=settings.positive, thresholds=settings.thresholds
    )


def fold_of(table: pa.Table, by: tuple[str, ...], folds: int, seed: int) -> NDArray[np.int64]:
    """The fold [N] of each row, by the hash of its values in the columns `by`."""
    place: NDArray[np.int64] = (shares(row_hashes(table, by, seed=seed + _SEED)) * folds).astype(
        np.int64
    )
    return place


def summary(found: list[Record], own: Mapping[str, Any]) -> Record:
    """By metric what all folds say; null where one of them cannot say it."""
    told = {}
    for name in found[0]:
        values = [fold[name] for fold in found]
        if name == "rows" or None in values:
            continue
        told[name] = {
            "mean": fmean(values),
            "deviation": stdev(values),
            "values": values,
            "split": own.get(name),
        }
    return told


def findings(found: list[Record], told: Mapping[str, Any], rows: int) -> list[Record]:
    """The report's section: a row for each fold, their mean, and the single split beside them."""
    names = [_LOSS, *(name for name in _SHOWN if name in told)]
    lines = [
        [f"fold {number}", fold["rows"], *(f"{fold[name]:.4f}" for name in names)]
        for number, fold in enumerate(found, 1)
    ]
    spread = [f"{told[name]['mean']:.4f} ± {told[name]['deviation']:.4f}" for name in names]
    lines.append(["mean ± deviation", None, *spread])
    own = [told[name]["split"] for name in names]
    shown = ["–" if value is None else f"{value:.4f}" for value in own]
    lines.append(["the deployed split", rows, *shown])
    note = (
        f"The same settings, trained {len(found)} times on all training and validation rows but "
        "those of a fold, and judged on these. How far the folds are apart is how far chance, in "
        "which rows were drawn, may move the score of the deployed split."
    )
    columns = ["held out", "rows", *(name.replace("_", " ") for name in names)]
    tables = [{"columns": columns, "rows": lines}]
    return [{"title": "Cross-validation", "note": note, "tables": tables}]


def _told(progress: Progress, number: str, event: Record) -> None:
    progress({**event, "fold": number})


def _divided(  # noqa: PLR0917 - rows, and how they are divided
    sides: UPath, data: Data, schema: Schema, fold: int, folds: int, out: UPath
) -> None:
    """Write `train/` and `validation/`, the rows of the fold. Raises DataError if one is empty."""
    files = [path for side in ("train", "validation") for path in parts.files(sides / side)]
    by = deciding(data, schema)
    work = partial(_parted, by=by, fold=fold, folds=folds, seed=data.split.seed, out=out)
    counts: Counter[str] = sum(parts.results(list(enumerate(files)), work), Counter())
    for side in ("train", "validation"):
        if not counts[side]:
            raise DataError(
                f"fold {fold + 1} of {folds} leaves no {side} rows",
                where="evaluate.folds",
                expected="rows in each fold",
                hint="ask for fewer folds, or group by a column with more different values under "
                "`data.split.by`",
            )


def _parted(
    item: tuple[int, UPath], *, by: tuple[str, ...], fold: int, folds: int, seed: int, out: UPath
) -> Counter[str]:
    number, path = item
    table = parts.read(path)
    held_out = fold_of(table, by, folds, seed) == fold
    counts: Counter[str] = Counter()
    for side, chosen in (("train", ~held_out), ("validation", held_out)):
        rows = table.filter(pa.array(chosen))
        counts[side] = len(rows)
        if len(rows):
            parts.written(rows, out / side / f"{number}.parquet")
    return counts


def _trained(  # noqa: PLR0917 - a fold's folder, and what is done there
    folder: UPath,
    data: Data,
    schema: Schema,
    learned: tuple[Model, Train],
    settings: Evaluate,
    progress: Progress,
) -> Record:
    """What the model is worth that is trained on the rows in `folder`."""
    ready, trained, work = (folder / name for name in ("features", "model", "work"))
    for path in (ready, trained, work):
        path.mkdir(parents=True, exist_ok=True)
    held = {side: folder / "rows" / side for side in ("train", "validation")}
    prepared.write_sides(held, data, schema, ready)
    train.write(ready, *learned, trained, work=work, progress=progress)
    return _judged(trained, ready, settings)


def _judged(trained: UPath, features: UPath, settings: Evaluate) -> Record:
    """The loss, the key metrics and how many `rows`, of the prepared validation rows."""
    statistics, model = prepared.load(features), train.load(trained)
    rows = prepared.read_matrix(features / "validation")
    outputs = model_outputs(model, statistics.label, rows)
    focus = case.focus_of(model, statistics, features / "validation", settings)
    history = json.loads((trained / "history.json").read_text())
    return {
        "rows": len(outputs),
        _LOSS: history[loop.best_epoch(history)]["validation_loss"],
        **judgement.key_metrics(rows["label"], outputs, focus),
    }


def check(settings: Evaluate, schema: Schema) -> None:
    """Refuse folds of what is not judged row by row. Raises JobError."""
    if settings.folds and schema.label.kind == "text":
        raise JobError(
            "a language model or an embedding is not cross-validated",
            where="evaluate.folds",
            expected="a label that is a class, labels or a number",
            hint="leave it out",
        )
