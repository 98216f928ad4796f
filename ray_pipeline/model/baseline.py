"""What a model has to beat: an answer that looks at no row, or a straight line through them."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
import pyarrow.dataset as pads
from numpy.typing import NDArray
from upath import UPath

from ray_pipeline.data.compiled import compiled_arrow
from ray_pipeline.data.matrices import matrices
from ray_pipeline.data.statistics import Statistics
from ray_pipeline.errors import JobError
from ray_pipeline.model.metrics import Floats

ROWS = 50_000
"""Training rows that a linear baseline sees: more of them hardly move so few weights."""
Baseline = tuple[dict[str, str], Floats]
"""What it always `predicts`, or what it `is`, in words; and its outputs [N, K] or [N]."""


def outputs(
    kind: Literal["prior", "linear"], statistics: Statistics, split: UPath, side: str
) -> Baseline:
    """The baseline's answers for the rows of `side`, having seen the training rows alone.

    `prior` answers the shares of the classes, or the mean. `linear` is scikit-learn's logistic
    regression with its defaults (of values: ridge; of several labels: one for each) on the numbers
    and one-hot categories that a network reads, of at most ROWS rows.

    Raises:
        JobError: a linear baseline, where the features are neither numbers nor categories.
    """
    rows = pads.dataset((split / side).path, filesystem=(split / side).fs, format="parquet")
    if kind == "prior":
        return prior(statistics, rows.count_rows())
    return _linear(statistics, split, rows)


def prior(statistics: Statistics, rows: int) -> Baseline:
    """The shares of the classes in training, or the mean, for each of so many rows."""
    label = statistics.label
    if label.classes is None:
        said = f"the training mean, {label.mean:.6g}"
        return {"predicts": said}, np.full(rows, label.mean)
    counts = np.asarray(label.counts, dtype=float)
    if statistics.task == "multilabel":
        shares = np.broadcast_to(counts / statistics.rows, (rows, len(counts)))
        return {"is": "each label's share of the training rows"}, shares
    said = label.classes[int(counts.argmax())]
    return {"predicts": said}, np.broadcast_to(counts / counts.sum(), (rows, len(counts)))


def _linear(statistics: Statistics, split: UPath, rows: pads.Dataset) -> Baseline:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge

    folder = split / "train"
    training = pads.dataset(folder.path, filesystem=folder.fs, format="parquet")
    chosen = np.random.default_rng(0).permutation(training.count_rows())[:ROWS]
    seen, labels = _matrix(statistics, training.take(np.sort(chosen)))
    asked, _ = _matrix(statistics, rows.to_table())
    if statistics.label.classes is None:
        return {"is": "a ridge regression"}, Ridge().fit(seen, labels).predict(asked)
    with warnings.catch_warnings():  # a baseline need not be fitted to the last digit
        warnings.simplefilter("ignore", ConvergenceWarning)
        if labels.ndim == 2:
            return {"is": "a logistic regression for each label"}, _each(seen, labels, asked)
        fitted = LogisticRegression(max_iter=300).fit(seen, labels)
    found = np.zeros((asked.shape[0], len(statistics.label.classes)))
    found[:, fitted.classes_] = fitted.predict_proba(asked)
    return {"is": "a logistic regression"}, found


def _each(seen: Any, labels: NDArray[Any], asked: Any) -> Floats:
    """Probabilities [N, K] of one logistic regression for each label, against all without it; a
    label that all or none of the rows have is as probable for each."""
    from sklearn.linear_model import LogisticRegression

    found = np.empty((asked.shape[0], labels.shape[1]))
    for k, has in enumerate(labels.T):
        if has.min() == has.max():
            found[:, k] = has[0]
        else:
            found[:, k] = LogisticRegression(max_iter=300).fit(seen, has).predict_proba(asked)[:, 1]
    return found


def _matrix(statistics: Statistics, rows: Any) -> tuple[Any, Any]:
    """A sparse matrix [N, numbers + one-hot indices] and the labels [N]. Raises JobError."""
    from scipy import sparse

    ready = matrices(compiled_arrow(statistics)(rows))
    if not statistics.number_width and not statistics.category_sizes:
        raise JobError(
            "a linear baseline reads numbers and categories",
            where="evaluate.baseline",
            expected="`prior`, for texts and images alone",
        )
    blocks = [sparse.csr_matrix(ready["numbers"])]
    for codes, size in zip(ready["categories"].T, statistics.category_sizes, strict=True):
        ones = (np.ones(len(codes)), (np.arange(len(codes)), codes))
        blocks.append(sparse.csr_matrix(ones, shape=(len(codes), size)))
    return sparse.hstack(blocks).tocsr(), ready["label"]
