"""Cross-validation: whose fold a row is, and what is said of all folds together."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from ray_pipeline.data import features
from ray_pipeline.errors import DataError, JobError, TrainingError
from ray_pipeline.job import Data, Evaluate, Model, Train
from ray_pipeline.model import folds, train
from ray_pipeline.schema import Column, Schema

SCHEMA = Schema(
    columns=(
        Column(name="who", kind="category", role="ignore"),
        Column(name="a", kind="number"),
        Column(name="town", kind="category"),
        Column(name="y", kind="category", role="label"),
    )
)


def table(count: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=count)
    yes = a + rng.normal(size=count) / 2 > 0
    return pa.table(
        {
            "who": [f"p{i}" for i in rng.integers(0, 60, count)],
            "a": a,
            "town": rng.choice(["Ulm", "Bonn"], count).tolist(),
            "y": np.where(yes, "yes", "no").tolist(),
        }
    )


def test_equal_rows_share_a_fold_and_folds_are_of_a_size():
    rows = table(4000, 0)
    found = folds.fold_of(rows, ("who",), 4, seed=0)
    people = rows["who"].to_pylist()
    assert len({(who, fold) for who, fold in zip(people, found, strict=True)}) == len(set(people))
    sizes = np.bincount(folds.fold_of(rows, ("a", "town"), 4, seed=0), minlength=4)
    assert sizes.min() > 850
    other = folds.fold_of(rows, ("a", "town"), 4, seed=1)
    assert (folds.fold_of(rows, ("a", "town"), 4, seed=0) == other).mean() < 0.5


def test_a_summary_is_the_mean_and_the_deviation_of_a_sample():
    found = folds.summary(
        [{"rows": 9, "loss": 0.4, "r2": None}, {"rows": 8, "loss": 0.6, "r2": 0.1}], {"loss": 0.45}
    )
    assert set(found) == {"loss"}
    assert found["loss"]["mean"] == pytest.approx(0.5)
    assert found["loss"]["deviation"] == pytest.approx(np.std([0.4, 0.6], ddof=1))
    assert found["loss"]["split"] == 0.45


@pytest.fixture(scope="module")
def project(tmp_path_factory, ray_cluster):
    """A split, its features and a trained model; and what of folds is written beside."""
    root = UPath(tmp_path_factory.mktemp("folds"))
    for seed, (side, count) in enumerate([("train", 300), ("validation", 100), ("test", 100)]):
        (root / "sides" / side).mkdir(parents=True)
        rows = table(count, seed).cast(SCHEMA.arrow())
        pq.write_table(rows, str(root / "sides" / side / "0.parquet"))
    for name in ("features", "trained", "work", "out", "training"):
        (root / name).mkdir()
    features.write(root / "sides", DATA, SCHEMA, out=root / "features")
    train.write(
        root / "features",
        MODEL,
        TRAIN,
        root / "trained",
        work=root / "training",
        progress=lambda event: None,
    )
    return root


DATA = Data(source="unused", label="y", split={"by": ["who"]})
MODEL = Model(width=8, depth=1, embedding=2, dropout=0)
TRAIN = Train(workers=0, epochs=3, batch_size=64, learning_rate=0.05)


def written(project, settings: Evaluate, told=lambda event: None, data=DATA):
    inputs = (project / "trained", project / "features", project / "sides")
    return folds.write(
        *inputs,
        data,
        SCHEMA,
        TRAIN,
        settings,
        out=project / "out",
        work=project / "work",
        progress=told,
    )


def test_each_row_but_the_tests_is_held_out_once_and_a_stopped_run_goes_on(project):
    class Stopped(Exception):
        pass

    def stopping(event):
        if event["fold"] == "2/3":
            raise Stopped

    with pytest.raises(TrainingError, match="Stopped"):
        written(project, Evaluate(folds=3), stopping)
    begun: list[str] = []
    record = written(project, Evaluate(folds=3), lambda event: begun.append(event["fold"]))
    assert set(begun) == {"2/3", "3/3"}
    assert record["rows_out"] == 400
    accuracy = record["folds"]["accuracy"]
    assert len(accuracy["values"]) == 3
    assert accuracy["mean"] > 0.75
    history = json.loads((project / "trained" / "history.json").read_text())
    best = min(epoch["validation_loss"] for epoch in history)
    assert record["folds"]["loss"]["split"] == pytest.approx(best)
    lines = record["findings"][0]["tables"][0]["rows"]
    assert [line[0] for line in lines[-2:]] == ["mean ± deviation", "the deployed split"]
    assert sum(line[1] for line in lines[:3]) == 400
    assert not any((project / "work" / f"fold-{fold}").exists() for fold in range(3))


def test_features_know_nothing_of_the_fold_held_out(project, monkeypatch):
    """Each fold's statistics are those of its own training rows."""
    whole = {}
    wrote = features.write_sides

    def watched(sides, data, schema, out):
        record = wrote(sides, data, schema, out)
        held = pq.read_table(str(sides["train"]))["a"].to_numpy()
        out_of = pq.read_table(str(sides["validation"]))["who"].to_pylist()
        kept = pq.read_table(str(sides["train"]))["who"].to_pylist()
        assert not {*out_of} & {*kept}
        whole[len(whole)] = (features.load(out).numbers[0].mean, held.mean())
        return record

    monkeypatch.setattr(folds.prepared, "write_sides", watched)
    for done in (project / "work").glob("fold-*.json"):
        done.unlink()
    written(project, Evaluate(folds=2))
    assert len(whole) == 2
    for mean, wanted in whole.values():
        assert mean == pytest.approx(wanted)
    assert whole[0] != whole[1]


def test_more_folds_than_people_are_refused(project):
    few = DATA.model_copy(update={"split": DATA.split.model_copy(update={"by": ("town",)})})
    for done in (project / "work").glob("fold-*.json"):
        done.unlink()
    with pytest.raises(DataError, match="leaves no"):
        written(project, Evaluate(folds=9), data=few)


def test_an_answer_in_words_is_not_cross_validated():
    schema = Schema(columns=(Column(name="y", kind="text", role="label"),))
    with pytest.raises(JobError):
        folds.check(Evaluate(folds=3), schema)
    with pytest.raises(ValueError, match="one fold"):
        Evaluate(folds=1)
