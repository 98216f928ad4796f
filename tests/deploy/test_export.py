"""The bundle predicts from raw rows what torch predicts from prepared ones."""

from __future__ import annotations

import json
import math
import pickle
import re
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import onnx
import pandas as pd
import pyarrow as pa
import pytest
import torch
from small_bundles import Exported, out, raw_rows, stages, write_network
from torch import nn
from upath import UPath

from ray_pipeline import bundle, report
from ray_pipeline.data import feature_graph
from ray_pipeline.data.compiled import compiled_arrow
from ray_pipeline.data.statistics import LabelStatistics, NumberStatistics, Statistics
from ray_pipeline.deploy import card, export, graph, publish, runtime
from ray_pipeline.deploy.protocol import Protocol
from ray_pipeline.errors import BundleError, GateRefused, JobError
from ray_pipeline.job import Compress, Model
from ray_pipeline.model import train
from ray_pipeline.model.feed import matrices


def by_torch(made: Exported, rows: pa.Table) -> np.ndarray:
    """The trained network's own answer, by its formula."""
    label = made.statistics.label
    texts = label.classes[0] if label.classes else 0.0
    rows = rows.append_column(label.name, pa.array([texts] * len(rows)))
    ready = matrices(compiled_arrow(made.statistics)(rows))
    network = train.load(made.root / "trained")
    with torch.inference_mode():
        logits = network(
            torch.tensor(ready["numbers"]), torch.tensor(ready["categories"], dtype=torch.int64)
        ).numpy()
    if label.classes is None:
        return logits[:, 0] * label.deviation + label.mean
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def unseen_rows(made: Exported, count: int = 200) -> pa.Table:
    names = [column.name for column in made.schema.features]
    schema = pa.schema([made.schema.arrow().field(name) for name in names])
    return pa.table(raw_rows(count, seed=7), schema=schema)


def tolerance(made: Exported) -> float:
    """Of the deployed form: rounding alone, or what 8-bit weights add."""
    return (1e-6 if made.bundle.manifest.parity["form"] == "fp32" else 0.05) * max(
        made.statistics.label.deviation, 1.0
    )


@pytest.mark.parametrize("fixture", ["classifier", "regressor"])
def test_the_graph_equals_torch_on_rows_it_has_not_seen(fixture, request):
    made = request.getfixturevalue(fixture)
    rows = unseen_rows(made)
    found = runtime.Predictor(made.bundle).predict(runtime.columns_from_table(rows, made.schema))
    np.testing.assert_allclose(found, by_torch(made, rows), atol=tolerance(made))
    assert np.ptp(found) > tolerance(made)


def test_the_manifest_says_what_was_compared(classifier):
    manifest = classifier.bundle.manifest
    assert manifest.parity["rows"] == 500
    assert manifest.parity["forms"]["fp32"]["max_difference"] < 1e-6
    assert manifest.parity["forms"]["fp32"]["label_agreement"] == 1.0
    taken = next(row["name"] for row in manifest.compression if row["chosen"])
    assert manifest.parity["form"] == taken
    assert manifest.parity["max_difference"] == manifest.parity["forms"][taken]["max_difference"]
    assert [row["name"] for row in manifest.compression] == ["fp32", "int8"]
    assert manifest.version == "v1"
    assert manifest.lineage == {"train": "ab"}
    assert manifest.metrics["accuracy"] == 0.87
    assert manifest.classes == ("<=50K", ">50K")
    assert classifier.record["compression"] == manifest.compression


def test_differences_of_values_are_in_deviations(regressor):
    parity = regressor.bundle.manifest.parity["forms"]["fp32"]
    assert 0 < parity["max_difference"] < 1e-5
    assert parity["label_agreement"] is None


def test_accuracy_is_that_of_the_labels(classifier):
    rows = pa.concat_tables(
        pa.parquet.read_table(path)
        for path in sorted((classifier.root / "split/validation").iterdir())
    )
    best = by_torch(classifier, rows.drop_columns("income")).argmax(1)
    labels = np.array(rows["income"].to_pylist())
    accuracy = (np.array(classifier.statistics.label.classes)[best] == labels).mean()
    assert classifier.bundle.manifest.compression[0]["score"] == pytest.approx(accuracy)


def test_int8_never_measures_nothing_else(classifier, tmp_path):
    record = export.write(
        *stages(classifier.root),
        classifier.schema,
        "x",
        Compress(int8="never"),
        {},
        **out(UPath(tmp_path)),
    )
    assert [row["name"] for row in record["compression"]] == ["fp32"]
    assert record["parity"]["form"] == "fp32"


@pytest.mark.parametrize("fixture", ["classifier", "regressor"])
def test_every_form_of_the_whole_graph_is_measured(fixture, request, tmp_path):
    made = request.getfixturevalue(fixture)
    every = Compress(int8_static="auto", int4="auto", fp16="auto", max_drop=1.0, objective="size")
    record = export.write(*stages(made.root), made.schema, "x", every, {}, **out(UPath(tmp_path)))
    most = {"fp32": 1e-5, "int8": 0.1, "int8_static": 0.1, "int4": 0.5, "fp16": 0.02}
    assert [row["name"] for row in record["compression"]] == list(most)
    for name, parity in record["parity"]["forms"].items():
        assert 0 < parity["max_difference"] < most[name], name
    sizes = [row["packed"] for row in record["compression"]]
    assert all(size < sizes[0] for size in sizes[1:])
    best = min(record["compression"], key=lambda row: row["packed"])
    assert best["chosen"]
    written = bundle.opened(tmp_path / "export-v1/bundle")
    told = 100  # bytes that say that the numbers are put out, too
    assert best["bytes"] <= len(written.model.read_bytes()) <= best["bytes"] + told
    page = report.page({"stages": [{**STAGE, "record": record}]})
    assert f"{best['bytes']:,}" in page
    assert "Its forms" in page


STAGE = {
    **{"name": "export", "seconds": 0.1, "cached": False, "digest": "ab"},
    **dict.fromkeys(("rows_in", "rows_out", "rows_quarantined"), 500),
}


def test_a_form_may_not_lose_what_training_it_smaller_lost_already(classifier, tmp_path):
    """The table of networks begins with the trained one: losses count from there."""
    score = classifier.record["compression"][0]["score"]
    record = export.write(
        *stages(classifier.root),
        classifier.schema,
        "x",
        Compress(max_drop=0.3, objective="size"),
        {},
        {},
        {},
        [{"name": "trained", "score": score + 0.4}, {"name": "student", "score": score}],
        **out(UPath(tmp_path)),
    )
    assert record["parity"]["form"] == "fp32"
    assert "less than" in record["compression"][1]["why"]
    networks = bundle.opened(tmp_path / "export-v1/bundle").manifest.networks
    assert [row["name"] for row in networks] == ["trained", "student"]


class Noisy(nn.Module):
    def forward(self, numbers, categories):
        return numbers[:, :2] + torch.rand_like(numbers[:, :2])


class OfTwoRows(nn.Module):
    def forward(self, numbers, categories):
        return torch.zeros(len(numbers.tolist()), 2)


class OverTheBatch(nn.Module):
    def forward(self, numbers, categories):
        if numbers.sum() > 0:
            return numbers[:, :2]
        return numbers[:, 1:3]


def test_a_graph_that_differs_is_refused(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "load", lambda _: Noisy())
    with pytest.raises(GateRefused, match=r"differs from the trained network by up to 0\.\d+"):
        export.write(
            *stages(classifier.root), classifier.schema, "x", Compress(), {}, **out(UPath(tmp_path))
        )
    with pytest.raises(BundleError, match="not a bundle"):
        bundle.opened(tmp_path / "export-v1/bundle")


def test_a_graph_of_a_fixed_number_of_rows_is_refused(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "load", lambda _: OfTwoRows())
    with pytest.raises((GateRefused, JobError), match="ONNX"):
        export.write(
            *stages(classifier.root), classifier.schema, "x", Compress(), {}, **out(UPath(tmp_path))
        )


def test_a_network_that_has_no_graph(classifier):
    with pytest.raises(JobError, match="cannot be written as ONNX"):
        graph.network_graph(OverTheBatch(), classifier.statistics, 20)


def test_the_graph_holds_nothing_of_this_machine(classifier):
    content = classifier.bundle.model.read_bytes()
    assert str(Path(graph.__file__).parents[2]).encode() not in content
    assert b"site-packages" not in content
    assert b".py" not in content


def test_a_column_may_have_any_name(tmp_path):
    """Those of outputs, inputs and inner values of the graph included."""
    names = ("probabilities", "probabilities_", "output", "model/numbers", "value")
    statistics = Statistics(
        rows=9,
        numbers=tuple(
            NumberStatistics(
                name=name, missing=0, mean=0, deviation=1, median=0, minimum=0, maximum=1
            )
            for name in names
        ),
        categories=(),
        label=LabelStatistics(name="y", classes=("a", "b"), counts=(1, 1)),
    )
    network = nn.Linear(len(names), 2)
    called = type(
        "Called", (nn.Module,), {"forward": lambda self, numbers, categories: self.inner(numbers)}
    )()
    called.inner = network
    reading = feature_graph.onnx_graph(statistics)
    whole = graph.joined(
        reading, graph.network_graph(called, statistics, graph.opset_of(reading)), "probabilities"
    )
    rows = np.random.default_rng(0).normal(size=(5, len(names)))
    found = runtime.predicting(whole.SerializeToString())(dict(zip(names, rows.T, strict=True)))
    logits = network(torch.tensor(rows, dtype=torch.float32)).softmax(1).detach().numpy()
    np.testing.assert_allclose(found, logits, atol=1e-6)


@pytest.mark.parametrize("empty", ["numbers", "categories"])
def test_columns_of_one_kind_only(classifier, empty, tmp_path):
    statistics = classifier.statistics.model_copy(update={empty: ()})
    write_network(UPath(tmp_path), Model(width=4, depth=1), statistics)
    network = train.load(UPath(tmp_path))
    reading = feature_graph.onnx_graph(statistics)
    plain = graph.network_graph(network, statistics, graph.opset_of(reading))
    whole = graph.joined(reading, plain, "probabilities")
    names = [value.name for value in whole.graph.input]
    kept = classifier.schema.model_copy(
        update={"columns": tuple(c for c in classifier.schema if c.name in names)}
    )
    rows = unseen_rows(classifier, 20)
    found = runtime.predicting(whole.SerializeToString())(runtime.columns_from_table(rows, kept))
    made = Exported(UPath(tmp_path), kept, statistics, {}, classifier.bundle)
    (tmp_path / "trained").symlink_to(tmp_path)
    np.testing.assert_allclose(found, by_torch(made, rows), atol=1e-6)


def test_published_is_left_alone_while_it_is_whole(classifier, tmp_path):
    target = UPath(tmp_path / "v1")
    publish.published(classifier.root / "export-v1", target)
    before = (tmp_path / "v1/model.onnx").stat().st_mtime_ns
    assert publish.published(classifier.root / "export-v1", target) == target
    assert (tmp_path / "v1/model.onnx").stat().st_mtime_ns == before


def test_published_again_where_it_is_broken(classifier, tmp_path):
    target = UPath(tmp_path / "v1")
    publish.published(classifier.root / "export-v1", target)
    (tmp_path / "v1/model.onnx").write_bytes(b"broken")
    publish.published(classifier.root / "export-v1", target)
    assert bundle.opened(target).manifest == classifier.bundle.manifest


def test_published_to_an_object_store(classifier, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    target = publish.published(classifier.root / "export-v1", UPath("memory://published/v1"))
    assert bundle.opened(target).manifest == classifier.bundle.manifest


def test_the_card_says_the_metrics_and_the_form(classifier):
    card = (classifier.bundle.path / "README.md").read_text()
    manifest = classifier.bundle.manifest
    assert "| accuracy | 0.8700 |" in card
    assert f"Form: {manifest.parity['form']}" in card
    assert "`ville` (category)" in card


def test_nothing_in_a_bundle_can_be_unpickled(classifier):
    assert sorted(classifier.bundle.manifest.files) == [
        *("MLmodel", "README.md", "distance.json", "model.onnx", "probe.json"),
        *("python_env.yaml", "reference.json", "requirements.txt", "statistics.json"),
    ]
    for path in classifier.bundle.path.iterdir():
        with pytest.raises((pickle.UnpicklingError, ValueError, EOFError, KeyError, IndexError)):
            pickle.loads(path.read_bytes())
    onnx.checker.check_model(onnx.load(classifier.bundle.model), full_check=True)


@pytest.fixture
def nothing_unpickles(monkeypatch):
    def unpickled(*_: object, **__: object) -> None:
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, unpickled)


def test_mlflow_predicts_what_the_graph_predicts(classifier, nothing_unpickles):
    rows = unseen_rows(classifier)
    expected = runtime.Predictor(classifier.bundle).predict(
        runtime.columns_from_table(rows, classifier.schema)
    )
    frame = rows.to_pandas().set_index(pd.RangeIndex(1000, 1200))
    found = mlflow.pyfunc.load_model(str(classifier.bundle.path)).predict(frame)
    assert found.index.equals(frame.index)
    classes = classifier.statistics.label.classes
    assert found["label"].tolist() == [classes[k] for k in expected.argmax(1)]
    np.testing.assert_allclose(found["probability"], expected.max(1))
    each = [[by_class[name] for name in classes] for by_class in found["probabilities"]]
    np.testing.assert_allclose(each, expected)


def test_mlflow_predicts_values(regressor, nothing_unpickles):
    rows = unseen_rows(regressor)
    expected = by_torch(regressor, rows)
    found = mlflow.pyfunc.load_model(str(regressor.bundle.path)).predict(rows.to_pandas())
    np.testing.assert_allclose(found["value"], expected, atol=tolerance(regressor))


def test_mlflow_takes_columns_as_pandas_reads_them(classifier):
    """Whole numbers as int64 or, with gaps, float64; flags as bool or object; extra columns."""
    model = mlflow.pyfunc.load_model(str(classifier.bundle.path))
    full = pd.DataFrame(
        {
            "extra": ["x", "y"],
            "job": ["clerk", "nurse"],
            "ville": ["Paris", None],
            "member": [True, False],
            "hours a week": [40, 20],
            "age": [30, 50],
        }
    )
    gaps = full.assign(age=[30, None], member=[True, None], job=[None, None])
    assert (
        model.predict(full)["probability"][0]
        == model.predict(gaps.assign(job="clerk"))["probability"][0]
    )
    assert len(model.predict(gaps)) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="age"), "missing inputs.*age"),
        (lambda frame: frame.assign(age="old"), "age: cannot be read"),
        (lambda frame: frame.assign(ville=7), "ville"),
        (lambda frame: frame.assign(age=["old", 7]), "age: values of different types"),
    ],
)
def test_mlflow_refuses_rows_that_do_not_fit(classifier, change, message):
    model = mlflow.pyfunc.load_model(str(classifier.bundle.path))
    frame = unseen_rows(classifier, 8).slice(6).to_pandas()
    with pytest.raises(Exception, match=re.compile(message)):
        model.predict(change(frame))


def test_mlflow_refuses_a_broken_bundle(bundle_copy):
    (bundle_copy / "model.onnx").write_bytes(b"broken")
    with pytest.raises(BundleError, match="truncated or altered"):
        mlflow.pyfunc.load_model(str(bundle_copy))


def test_the_card_says_what_the_form_costs(classifier):
    plain, smaller = classifier.bundle.manifest.compression
    table = [plain | {"chosen": False}, smaller | {"chosen": True, "score": 0.8444}]
    text = card.readme(replace(classifier.bundle.manifest, compression=table), 9, "income")
    assert "the trained network's" in text
    assert "this form of it 0.8444" in text
    table = [plain | {"chosen": True}, smaller | {"chosen": False}]
    text = card.readme(replace(classifier.bundle.manifest, compression=table), 9, "income")
    assert "the trained network's" not in text


def is_odd(value: object) -> bool:
    """Whether JSON has no word for it."""
    return isinstance(value, float) and not math.isfinite(value)


def test_the_endpoint_reads_rows_as_mlflow_does(classifier):
    rows = unseen_rows(classifier).to_pylist()
    rows += [row | {"ville": " ? ", "job": " clerk "} for row in rows[:9]]
    finite = [{k: None if is_odd(v) else v for k, v in row.items()} for row in rows]
    protocol = Protocol(classifier.schema, max_rows=1000)
    columns = protocol.columns(protocol.rows(json.dumps({"rows": finite}).encode()))
    expected = runtime.Predictor(classifier.bundle).predict(columns)
    found = mlflow.pyfunc.load_model(str(classifier.bundle.path)).predict(pd.DataFrame(rows))
    np.testing.assert_allclose(found["probability"], expected.max(1))
