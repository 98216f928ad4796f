"""Slices against pandas' conditions and scikit-learn's metrics; the linear baseline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from judged_rows import CLASSES, SCHEMA, rule, sample, statistics
from sklearn import metrics as reference
from upath import UPath

from ray_pipeline.errors import JobError
from ray_pipeline.job import Evaluate
from ray_pipeline.model import baseline, gates, judgement, slices
from ray_pipeline.schema import Column, Schema

SETTINGS = Evaluate.model_validate(
    {
        "slices": {
            "old": {"column": "age", "above": 10},
            "young in Ulm": [{"column": "age", "below": 0}, {"column": "town", "in": ["Ulm"]}],
            "nobody": {"column": "age", "above": 1000},
        }
    }
)


@pytest.fixture
def folder(tmp_path: Path) -> UPath:
    """The split of rows whose labels follow the rule, in two files."""
    tried = sample(600)
    labelled = tried.rows.append_column("label", pa.array(np.array(CLASSES)[tried.labels]))
    for side in ("train", "test"):
        (tmp_path / side).mkdir()
        for part in (0, 1):
            path = tmp_path / side / f"{part}.parquet"
            pq.write_table(labelled.slice(part * 300, 300), path)
    return UPath(tmp_path)


def test_each_slice_is_judged_on_its_own_rows(folder: UPath) -> None:
    tried = sample(600)
    outputs = rule(tried.rows)
    masks = slices.masks(folder / "test", SETTINGS.slices)
    found = slices.judged(masks, tried.labels, outputs, 1, 100)
    frame = tried.rows.to_pandas()
    old = (frame["age"] > 10).to_numpy()
    young = ((frame["age"] < 0) & (frame["town"] == "Ulm")).to_numpy()
    for name, mask in (("old", old), ("young in Ulm", young)):
        predicted = outputs[mask].argmax(1)
        assert found[name]["rows"] == mask.sum()
        accuracy = reference.accuracy_score(tried.labels[mask], predicted)
        assert found[name]["accuracy"] == pytest.approx(accuracy)
        low, high = found[name]["intervals"]["accuracy"]
        assert low <= accuracy <= high
    assert found["nobody"] == {"rows": 0}
    whole = {**judgement.key_metrics(tried.labels, outputs, 1), "about": {"rows": 600}}
    (section,) = slices.findings(found, whole)
    assert [row[0] for row in section["tables"][0]["rows"]] == ["all rows", *SETTINGS.slices]


def test_slices_and_gates_on_them_are_checked() -> None:
    columns = (*SCHEMA.features[:1], Column(name="y", kind="category", role="label"))
    with pytest.raises(JobError, match="no column is called `town`"):
        slices.check(SETTINGS.slices, Schema(columns=columns))
    for name, refused in (
        ("slices.old.accuracy", False),
        ("slices.elderly.accuracy", True),
        ("behaviour.invariance sex.share", True),
        ("champion.accuracy", True),
    ):
        asked = SETTINGS.model_copy(update={"gates": {name: None}})
        if refused:
            with pytest.raises(JobError, match="will not be measured"):
                gates.check(asked, SCHEMA)
        else:
            gates.check(asked, SCHEMA)


def test_a_linear_baseline_is_scikit_learns_on_what_a_network_reads(folder: UPath) -> None:
    tried = sample(600)
    described, outputs = baseline.outputs("linear", statistics(), folder, "test")
    assert described == {"is": "a logistic regression"}
    area = reference.roc_auc_score(tried.labels, outputs[:, 1])
    assert area > 0.85  # age counts through a line and Ulm through its index: it sees the rule
    prior, shares = baseline.outputs("prior", statistics(), folder, "test")
    assert prior == {"predicts": "no"}
    assert shares.shape == outputs.shape
    assert shares[0].tolist() == [250 / 400, 150 / 400]
