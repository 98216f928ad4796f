"""Labels that look wrong, by confident learning on probabilities that never saw the label.

Northcutt, Jiang & Chuang (2021), "Confident learning: estimating uncertainty in dataset labels",
JAIR 70, section 3. Shapes: N rows, K classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from upath import UPath

from ray_pipeline.data import features, parts
from ray_pipeline.data.compiled import compiled_arrow
from ray_pipeline.data.hashing import row_hashes, shares
from ray_pipeline.data.labels import identity
from ray_pipeline.data.labels.settled import Settled
from ray_pipeline.data.matrices import matrices
from ray_pipeline.job import Data, Label
from ray_pipeline.schema import Schema

FOLDS = 5
MOST_ROWS = 200_000
SHOWN = 10
REASON = "the label looks wrong"


def doubtful(labels: NDArray[np.int64], chances: NDArray[np.float64]) -> NDArray[np.int64]:
    """The indices of labels [N] that look wrong, given out-of-sample `chances` [N, K]; worst first.

    A class's threshold is the mean probability of it among the rows labelled so. A row belongs
    confidently to the likeliest class whose threshold its probability reaches; off the diagonal of
    the confident joint, these are the suspects, if that class is likelier than the label besides
    (the paper's "C_confusion" agreeing with it). They are ordered by normalised margin.
    """
    classes = chances.shape[1]
    rows = np.arange(len(labels))
    seen = np.bincount(labels, minlength=classes)
    own = np.bincount(labels, chances[rows, labels], classes)
    thresholds = np.where(seen > 0, own / np.maximum(seen, 1), np.inf)
    confident = np.where(chances >= thresholds, chances, -1.0)
    likeliest = confident.argmax(1)
    margin = chances[rows, labels] - chances[rows, likeliest]
    wrong = (confident.max(1) >= 0) & (likeliest != labels) & (margin < 0)
    found = np.flatnonzero(wrong)
    ordered: NDArray[np.int64] = found[np.argsort(margin[found], kind="stable")]
    return ordered


def out_of_sample(matrix: Any, labels: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Probabilities [N, K] of each row by a model of the other folds: logistic regression."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = StratifiedKFold(
        min(FOLDS, int(np.bincount(labels).min())), shuffle=True, random_state=seed
    )
    model = LogisticRegression(max_iter=300)
    chances: NDArray[np.float64] = cross_val_predict(
        model, matrix, labels, cv=folds, method="predict_proba"
    )
    return chances


def write(out: UPath, settings: Label, data: Data, schema: Schema, annotated: Settled) -> pa.Table:
    """The suspects among the labelled training rows in `out/rows`; also in `out/suspects.parquet`.

    Columns `file`, `row` (its place there), `item` (its id for annotators), `label`, `suggested`,
    `given` and `other` (the probabilities of the two). What annotators settled on is no suspect: it
    has been asked. Rows are prepared as for training and judged by models that did not
    see them; of very many rows, as many as MOST_ROWS, chosen by their hash. If the settings say
    so, their rows are taken out of `out/rows` into `out/quarantine` or `out/unlabelled`.
    """
    paths = parts.existing_files(out / "rows")
    statistics = features.fit(out / "rows", data, schema)
    whole = pa.concat_tables([_located(path, number) for number, path in enumerate(paths)])
    whole = _sampled(whole, schema)
    prepared = compiled_arrow(statistics)(whole)
    classes, labels = statistics.label.classes or (), prepared["label"].to_numpy()
    kept = np.bincount(labels, minlength=len(classes))[labels] >= FOLDS
    names, labels = np.unique(labels[kept], return_inverse=True)
    found, chances = np.empty(0, np.int64), np.empty((0, len(names)))
    if len(names) > 1:
        chances = out_of_sample(_matrix(prepared.filter(pa.array(kept))), labels, settings.seed)
        found = doubtful(labels, chances)
    asked = pc.is_valid(annotated.labels(whole.filter(pa.array(kept)))[0])
    found = found[~asked.to_numpy(zero_copy_only=False)[found]]
    suggested = np.where(np.arange(len(names)) == labels[found, None], -1, chances[found]).argmax(1)
    texts = np.array(classes, dtype=object)[names] if len(names) else np.empty(0, object)
    places = whole.filter(pa.array(kept)).take(pa.array(found))
    table = pa.table(
        {
            "file": pa.array([paths[n].name for n in places["_file"].to_pylist()], pa.string()),
            "row": places["_place"],
            "item": pa.array(identity.ids(places, identity.columns(schema)), pa.string()),
            "label": pa.array(texts[labels[found]], pa.string()),
            "suggested": pa.array(texts[suggested], pa.string()),
            "given": chances[found, labels[found]],
            "other": chances[found, suggested],
        }
    )
    parts.written(table, out / "suspects.parquet")
    if settings.errors in {"drop", "ask"}:
        _set_aside(table, out, "quarantine" if settings.errors == "drop" else "unlabelled")
    return table


def finding(suspects: pa.Table, treatment: str) -> dict[str, Any]:
    """The report's table: how many suspects of which kind, never the rows themselves."""
    pairs = suspects.group_by(["label", "suggested"]).aggregate(
        [([], "count_all"), ("other", "mean")]
    )
    ranked = pairs.sort_by([("count_all", "descending")]).to_pylist()[:SHOWN]
    what = {
        "report": "they stay in training",
        "drop": "they are quarantined",
        "ask": "they wait among the unlabelled rows for annotators",
    }
    return {
        "caption": f"{len(suspects):,} labels look wrong; {what[treatment]} (suspects.parquet)",
        "columns": ["label", "more likely", "rows", "mean probability of that"],
        "rows": [
            [pair["label"], pair["suggested"], pair["count_all"], f"{pair['other_mean']:.2f}"]
            for pair in ranked
        ],
    }


def _located(path: UPath, number: int) -> pa.Table:
    table = parts.read(path)
    return table.append_column("_file", pa.repeat(number, len(table))).append_column(
        "_place", pa.array(np.arange(len(table)))
    )


def _sampled(whole: pa.Table, schema: Schema) -> pa.Table:
    if len(whole) <= MOST_ROWS:
        return whole
    chance = shares(row_hashes(whole, schema.names))
    return whole.filter(pa.array(chance < MOST_ROWS / len(whole)))


def _matrix(prepared: pa.Table) -> Any:
    """Numbers and one-hot categories side by side, sparse: [N, F + Σ sizes]."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.preprocessing import OneHotEncoder

    ready = matrices(prepared)
    numbers, categories = ready["numbers"], ready["categories"]
    blocks = [csr_matrix(numbers)] if numbers.shape[1] else []
    blocks += [OneHotEncoder().fit_transform(categories)] if categories.shape[1] else []
    return hstack(blocks).tocsr()


def _set_aside(suspects: pa.Table, out: UPath, where: str) -> None:
    """Take the suspects' rows out of the training files."""
    for name in suspects["file"].unique().to_pylist():
        path = out / "rows" / name
        rows = parts.read(path)
        wrong = np.zeros(len(rows), bool)
        wrong[suspects.filter(pc.equal(suspects["file"], name))["row"].to_numpy()] = True
        aside, kept = rows.filter(pa.array(wrong)), rows.filter(pa.array(~wrong))
        if where == "quarantine":
            aside = aside.append_column("reason", pa.repeat(REASON, len(aside)))
        parts.written(aside, out / where / f"suspects-{name}")
        if len(kept):
            parts.written(kept, path)
        else:
            path.unlink()
