"""Evaluation against scikit-learn on the rows that it wrote, and the gates on its numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from sklearn import metrics as reference
from upath import UPath

from ray_pipeline.data import features
from ray_pipeline.data.statistics import LabelStatistics, Statistics
from ray_pipeline.errors import DataError, GateRefused, JobError
from ray_pipeline.job import Bound, Data, Evaluate, Model
from ray_pipeline.model import case, evaluate, gates, predictions, zoo
from ray_pipeline.schema import Column, Schema

KINDS = {"age": "integer", "height": "number", "sex": "category", "town": "category"}
CLASSES = ("no", "perhaps", "yes")


def table(rows: int, label: str, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 90, rows)
    town = rng.choice(["Ulm", "Bonn", "Köln"], rows)
    score = (age - 50) / 15 + (town == "Ulm") + rng.normal(size=rows)
    columns: dict[str, Any] = {
        "age": pa.array(age, mask=rng.random(rows) < 0.05),
        "height": pa.array(rng.normal(170, 10, rows)),
        "sex": pa.array(rng.choice(["f", "m"], rows), mask=rng.random(rows) < 0.1),
        "town": pa.array(town),
    }
    if label == "two":
        columns["label"] = pa.array(np.where(score > 1, "yes", "no"))
    elif label == "three":
        columns["label"] = pa.array(np.array(CLASSES)[np.digitize(score, [-0.5, 1])])
    else:
        columns["label"] = pa.array(100 + 40 * score)
    return pa.table(columns)


class Project:
    """A split, its features, and an untrained network: what evaluation reads."""

    def __init__(self, folder: Path, label: str) -> None:
        self.split, self.features = UPath(folder / "split"), UPath(folder / "features")
        self.trained = UPath(folder / "trained")
        kind = "number" if label == "value" else "category"
        columns = [Column(name=name, kind=kind) for name, kind in KINDS.items()]
        label_column = Column(name="label", kind=kind, role="label")
        self.schema = Schema(columns=(*columns, label_column))
        for seed, (side, rows) in enumerate([("train", 900), ("validation", 300), ("test", 700)]):
            self.write_side(side, table(rows, label, seed))
        data = Data(source="unused", label="label")
        self.features.mkdir()
        features.write(self.split, data, self.schema, out=self.features)
        self.save_network()

    def write_side(self, side: str, rows: pa.Table) -> None:
        folder = self.split / side
        folder.mkdir(parents=True, exist_ok=True)
        half = rows.num_rows // 2  # two files, as a distributed split leaves
        for part, piece in enumerate([rows.slice(0, half), rows.slice(half)]):
            pq.write_table(piece.cast(self.schema.arrow()), str(folder / f"{part}.parquet"))

    def save_network(self) -> None:
        statistics = features.load(self.features)
        model = Model(width=16, depth=1, embedding=4)
        inputs = zoo.Inputs(
            numbers=statistics.number_width,
            categories=statistics.category_sizes,
            outputs=statistics.outputs,
        )
        torch.manual_seed(0)
        self.trained.mkdir()
        weights = zoo.build(model, inputs).state_dict()
        save_file(weights, str(self.trained / "model.safetensors"))
        settings = {
            "model": model.model_dump(mode="json"),
            "inputs": inputs.model_dump(mode="json"),
        }
        (self.trained / "model.json").write_text(json.dumps(settings))

    def judged(self, out: Path, **settings: Any) -> tuple[dict[str, Any], pd.DataFrame]:
        out.mkdir()
        record = evaluate.write(
            self.trained,
            self.features,
            self.split,
            self.schema,
            Evaluate(**({"bootstrap": 50} | settings)),
            out=UPath(out),
        )
        assert json.loads((out / "metrics.json").read_text()) == json.loads(
            json.dumps(record["metrics"], allow_nan=False)
        )
        return record, pd.read_parquet(out / "predictions.parquet")


@pytest.fixture(scope="module", params=["two", "three", "value"])
def label(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, label: str, ray_cluster: None) -> Project:
    return Project(tmp_path_factory.mktemp(label), label)


def test_metrics_are_those_of_the_rows_written(
    project: Project, label: str, tmp_path: Path
) -> None:
    record, rows = project.judged(tmp_path / "out", groups=("sex",))
    found = record["metrics"]
    assert record["rows_in"] == record["rows_out"] == len(rows) == found["about"]["rows"] == 700
    raw = pq.read_table(str(project.split / "test")).to_pandas()
    assert rows["label"].tolist() == pytest.approx(raw["label"].tolist())
    assert rows["group_sex"].tolist() == raw["sex"].fillna("(missing)").tolist()
    if label == "value":
        rmse = reference.root_mean_squared_error(rows["label"], rows["predicted"])
        assert found["rmse"] == pytest.approx(rmse)
        assert found["r2"] == pytest.approx(reference.r2_score(rows["label"], rows["predicted"]))
        return
    classes = CLASSES if label == "three" else ("no", "yes")
    probabilities = rows[[f"probability_{name}" for name in classes]].to_numpy()
    assert probabilities.sum(1) == pytest.approx(np.ones(700))
    assert rows["predicted"].tolist() == [classes[k] for k in probabilities.argmax(1)]
    assert found["accuracy"] == pytest.approx((rows["label"] == rows["predicted"]).mean())
    loss = reference.log_loss(rows["label"], probabilities, labels=list(classes))
    assert found["log_loss"] == pytest.approx(loss)
    expected = reference.confusion_matrix(rows["label"], rows["predicted"], labels=list(classes))
    assert found["confusion"] == {"classes": list(classes), "counts": expected.tolist()}


def test_raw_rows_and_prepared_rows_are_judged_alike(project: Project, tmp_path: Path) -> None:
    """Test rows go through the Arrow transform here, validation rows were prepared earlier."""
    tests = project.split / "test"
    hidden = project.split / "hidden"
    tests.rename(hidden)
    try:
        record, _ = project.judged(tmp_path / "out")
    finally:
        hidden.rename(tests)
    found = record["metrics"]
    assert found["about"]["split"] == "validation"
    for name, value in found["validation"].items():
        assert found[name] == pytest.approx(value, rel=1e-6), name


def test_groups_are_judged_on_their_own_rows(project: Project, label: str, tmp_path: Path) -> None:
    record, rows = project.judged(tmp_path / "out", groups=("sex", "town"))
    assert record["metrics"]["groups"].keys() == {"sex", "town"}
    values = record["metrics"]["groups"]["sex"]["values"]
    assert values.keys() == {"f", "m", "(missing)"}
    for name, own in rows.groupby("group_sex"):
        assert values[str(name)]["rows"] == len(own)
        if label == "value":
            mae = (own["label"] - own["predicted"]).abs().mean()
            assert values[str(name)]["mae"] == pytest.approx(mae)
        else:
            accuracy = (own["label"] == own["predicted"]).mean()
            assert values[str(name)]["accuracy"] == pytest.approx(accuracy)


def test_the_baseline_knows_the_training_labels_alone(
    project: Project, label: str, tmp_path: Path
) -> None:
    record, rows = project.judged(tmp_path / "out")
    baseline = record["metrics"]["baseline"]
    training = pq.read_table(str(project.split / "train"))["label"].to_pandas()
    if label == "value":
        expected = (rows["label"] - training.mean()).abs().mean()
        assert baseline["mae"] == pytest.approx(expected)
    else:
        most = training.mode()[0]
        assert baseline["predicts"] == most
        assert baseline["accuracy"] == pytest.approx((rows["label"] == most).mean())
        assert baseline["roc_auc"] == pytest.approx(0.5)


def test_values_are_in_the_unit_of_the_label() -> None:
    class Zero(torch.nn.Module):
        def forward(self, numbers: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
            return numbers[:, :1] * 0 + torch.tensor([0.0, 1.0, -2.0])[:, None]

    label = LabelStatistics(name="price", classes=None, mean=100.0, deviation=20.0)
    rows = {"numbers": np.zeros((3, 1)), "categories": np.zeros((3, 0), dtype=np.int32)}
    assert predictions.model_outputs(Zero(), label, rows).tolist() == [100.0, 120.0, 60.0]


def test_no_resamples_means_no_intervals(project: Project, tmp_path: Path) -> None:
    assert project.judged(tmp_path / "some")[0]["metrics"]["intervals"]
    assert project.judged(tmp_path / "none", bootstrap=0)[0]["metrics"]["intervals"] == {}


def test_no_rows_at_all_is_a_data_error(project: Project, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no rows to evaluate on"):
        evaluate.write(
            project.trained,
            project.features,
            UPath(tmp_path / "nothing"),
            project.schema,
            Evaluate(),
            out=UPath(tmp_path),
        )


def statistics_of(*classes: str, counts: tuple[int, ...]) -> Statistics:
    label = LabelStatistics(name="label", classes=classes, counts=counts)
    return Statistics(rows=10, numbers=(), categories=(), label=label)


def test_the_positive_class_is_the_named_or_the_rarer_of_two() -> None:
    two = statistics_of("no", "yes", counts=(2, 8))
    assert case.positive_class(two, None) == 0
    assert case.positive_class(two, "yes") == 1
    assert case.positive_class(statistics_of(*CLASSES, counts=(1, 2, 3)), None) is None
    with pytest.raises(JobError, match=r"did you mean `yes`\?"):
        case.positive_class(two, "yess")


FOUND = {
    "accuracy": 0.84,
    "roc_auc": None,
    "classes": {">50K": {"recall": 0.6}},
    "groups": {"sex": {"equalized_odds_difference": 0.2}},
}


def test_gates_pass_within_their_bounds() -> None:
    bounds = {
        "accuracy": Bound(min=0.84, max=0.9),
        "classes.>50K.recall": Bound(min=0.5),
        "groups.sex.equalized_odds_difference": Bound(max=0.2),
    }
    gates.passed(FOUND, bounds)
    outside = (Bound(max=0.839), Bound(min=0.601), Bound(max=0.199))
    for name, bound in zip(bounds, outside, strict=True):
        with pytest.raises(GateRefused) as caught:
            gates.passed(FOUND, bounds | {name: bound})
        assert caught.value.what.startswith(f"{name} is ")
        assert ";" not in caught.value.what  # the others still pass


def test_all_failing_gates_are_listed_with_number_and_bound() -> None:
    bounds = {
        "accuracy": Bound(min=0.85),
        "classes.>50K.recall": Bound(min=0.5),
        "groups.sex.equalized_odds_difference": Bound(max=0.1),
        "roc_auc": Bound(min=0.9),
    }
    with pytest.raises(GateRefused) as caught:
        gates.passed(FOUND, bounds)
    text = str(caught.value)
    assert caught.value.exit_code == 3
    assert "accuracy is 0.8400" in text
    assert "accuracy at least 0.85" in text
    assert "groups.sex.equalized_odds_difference is 0.2000" in text
    assert "roc_auc is undefined" in text
    assert "recall" not in text
    assert "do: " in text


def test_a_gate_on_no_metric_names_the_nearest() -> None:
    with pytest.raises(JobError, match=r"did you mean `accuracy`\?"):
        gates.passed(FOUND, {"acuracy": Bound(min=0.5)})


@pytest.mark.parametrize(
    ("settings", "nearest"),
    [
        ({"groups": ("sexx",)}, "sex"),
        ({"gates": {"acuracy": Bound(min=0.5)}}, "accuracy"),
        ({"gates": {"rmse": Bound(max=0.5)}}, ""),
        ({"gates": {"groups.sex.accuracy_difference": Bound(max=0.5)}, "groups": ("sex",)}, None),
        ({"gates": {"groups.sex.values.f.accuracy": Bound(min=0.5)}, "groups": ("sex",)}, None),
        (
            {"gates": {"groups.sex.equalised_odds_difference": Bound(max=0.1)}, "groups": ("sex",)},
            "groups.sex.equalized_odds_difference",
        ),
        ({"gates": {"groups.sex.equalized_odds_difference": Bound(max=0.1)}}, ""),
    ],
)
def test_settings_are_checked_before_anything_is_trained(
    settings: dict[str, Any], nearest: str | None
) -> None:
    columns = (Column(name="sex", kind="category"), Column(name="y", kind="category", role="label"))
    schema = Schema(columns=columns)
    if nearest is None:
        evaluate.check(Evaluate(**settings), schema)
        return
    with pytest.raises(JobError) as caught:
        evaluate.check(Evaluate(**settings), schema)
    assert nearest in caught.value.hint


def test_rare_groups_share_one_name() -> None:
    names = [f"town {n:03}" for n in range(200) for _ in range(200 - n)]
    codes, kept = predictions.coded(pa.chunked_array([pa.array(names)]))
    assert len(kept) == predictions.MAX_GROUP_VALUES
    assert kept[0] == "town 000"
    assert kept[-1] == "(other)"
    sizes = np.bincount(codes)
    assert sizes[:49].tolist() == list(range(200, 151, -1))
    assert sizes[49] == sum(range(1, 152))
