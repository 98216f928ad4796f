"""Flipped labels of a real set are found; the formula on a case worked out by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from sklearn.datasets import load_breast_cancer, load_digits
from upath import UPath

from ray_pipeline.data import parts
from ray_pipeline.data.labels import identity, suspects
from ray_pipeline.data.labels.settled import Settled
from ray_pipeline.job import Data, Label
from ray_pipeline.schema import Column, Schema


def test_the_formula_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1])
    positive = np.array([0.1, 0.2, 0.9, 0.8, 0.6, 0.25])
    # thresholds: class 0 (0.9 + 0.8 + 0.1) / 3 = 0.6, class 1 (0.8 + 0.6 + 0.25) / 3 = 0.55
    chances = np.stack([1 - positive, positive], 1)
    assert suspects.doubtful(labels, chances).tolist() == [2, 5]
    # neither probability reaches its threshold: no verdict
    assert suspects.doubtful(labels, np.full((6, 2), 0.5) + chances * 0).tolist() == []


def flipped(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    wrong = np.zeros(len(labels), bool)
    wrong[rng.choice(len(labels), round(share * len(labels)), replace=False)] = True
    shift = rng.integers(1, labels.max() + 1, len(labels))
    return np.where(wrong, (labels + shift) % (labels.max() + 1), labels), wrong


def test_flipped_digits_are_found() -> None:
    matrix, truth = load_digits(return_X_y=True)
    labels, wrong = flipped(truth, 0.05, seed=0)
    scaled = (matrix - matrix.mean(0)) / (matrix.std(0) + 1e-9)
    chances = suspects.out_of_sample(scaled, labels, seed=0)
    found = suspects.doubtful(labels, chances)
    assert wrong[found].mean() > 0.75  # precision
    assert wrong[found].sum() / wrong.sum() > 0.65  # recall
    unlike = chances.argmax(1) != labels  # every label that the model would not give
    assert wrong[found].mean() > wrong[unlike].mean() + 0.25


@pytest.mark.parametrize("errors", ["report", "drop", "ask"])
def test_suspects_leave_training_as_asked(errors: str, ray_cluster: None, tmp_path) -> None:
    matrix, truth = load_breast_cancer(return_X_y=True)
    labels, wrong = flipped(truth, 0.05, seed=1)
    names = [f"c{index}" for index in range(10)]
    table = pa.table(
        {name: matrix[:, index] for index, name in enumerate(names)}
        | {"y": pa.array(np.array(["no", "yes"])[labels]), "id": np.arange(len(labels))}
    )
    columns = [Column(name=name, kind="number") for name in names]
    columns += [Column(name="y", kind="category", role="label")]
    columns += [Column(name="id", kind="integer", role="ignore")]
    schema = Schema(columns=tuple(columns))
    out = UPath(tmp_path)
    parts.written(table.slice(0, 200), out / "rows" / "a.parquet")
    parts.written(table.slice(200), out / "rows" / "b.parquet")
    data = Data.model_validate({"source": "x", "label": "y"})
    first = table.slice(0, 100)
    of = identity.columns(schema)
    annotated = Settled({tuple(of): dict.fromkeys(identity.ids(first, of), "yes")})
    found = suspects.write(out, Label.model_validate({"errors": errors}), data, schema, annotated)
    ids = [row["row"] + 200 * (row["file"] == "b.parquet") for row in found.to_pylist()]
    assert wrong[ids].mean() > 0.7
    assert wrong[ids].sum() / wrong[100:].sum() > 0.5
    assert min(ids) >= 100  # annotators have settled the first hundred
    assert found["item"].to_pylist() == identity.ids(table.take(ids), of).tolist()
    assert (pa.compute.greater(found["other"], found["given"])).to_pylist() == [True] * len(ids)
    kept = pa.concat_tables([parts.read(path) for path in parts.files(out / "rows")])
    folder = {"drop": "quarantine", "ask": "unlabelled"}.get(errors)
    if folder is None:
        assert len(kept) == len(table)
        return
    aside = pa.concat_tables([parts.read(path) for path in parts.files(out / folder)])
    assert sorted(aside["id"].to_pylist()) == sorted(ids)
    assert sorted(kept["id"].to_pylist() + aside["id"].to_pylist()) == list(range(len(table)))
    assert ("reason" in aside.column_names) == (errors == "drop")
