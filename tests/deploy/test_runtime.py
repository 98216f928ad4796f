"""Predicting with a bundle, and the columns that go in."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import onnx
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from small_bundles import raw_rows
from upath import UPath

from ray_pipeline import bundle
from ray_pipeline.deploy import runtime
from ray_pipeline.errors import BundleError, DataError
from ray_pipeline.schema import Column, Schema

SCHEMA = Schema(
    columns=(
        Column(name="n", kind="number"),
        Column(name="i", kind="integer"),
        Column(name="b", kind="boolean"),
        Column(name="c", kind="category"),
        Column(name="dropped", kind="category", role="ignore"),
        Column(name="y", kind="number", role="label"),
    ),
    missing=("?", "n/a"),
)


def spoilt(folder, **changes):
    """The bundle in `folder` with another graph or manifest, its digests right."""
    opened = bundle.opened(folder)
    files = {name: (folder / name).read_bytes() for name in opened.manifest.files}
    graph = changes.pop("graph", files["model.onnx"])
    bundle.write(UPath(folder), replace(opened.manifest, **changes), files | {"model.onnx": graph})
    return bundle.opened(folder)


def test_predictions_are_those_of_the_reference_interpreter(classifier):
    table = pa.table(raw_rows(64), schema=pa.schema(list(classifier.schema.arrow())[:-1]))
    columns = runtime.columns_from_table(table, classifier.schema)
    graph = onnx.load(classifier.bundle.model)
    expected = ReferenceEvaluator(graph).run(None, columns)[0]
    found = runtime.Predictor(classifier.bundle, threads=2).predict(columns)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=0.02)  # 8-bit sums round in their own ways
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)


def test_rows_do_not_depend_on_their_neighbours(classifier):
    table = pa.table(raw_rows(64), schema=pa.schema(list(classifier.schema.arrow())[:-1]))
    columns = runtime.columns_from_table(table, classifier.schema)
    predictor = runtime.Predictor(classifier.bundle)
    alone = [predictor.predict({k: v[i : i + 1] for k, v in columns.items()})[0] for i in range(64)]
    # Dynamic int8 scales inputs over the batch, so a row may move by a rounding step.
    tolerance = 1e-6 if classifier.bundle.manifest.parity["form"] == "fp32" else 0.02
    np.testing.assert_allclose(predictor.predict(columns), alone, atol=tolerance)


def test_a_value_per_row(regressor):
    table = pa.table(raw_rows(5), schema=pa.schema(list(regressor.schema.arrow())[:-1]))
    columns = runtime.columns_from_table(table, regressor.schema)
    assert runtime.Predictor(regressor.bundle).predict(columns).shape == (5,)


@pytest.mark.parametrize("graph", [b"", b"not a graph", b"\x08\x0a" * 9])
def test_a_graph_that_does_not_load(bundle_copy, graph):
    opened = spoilt(bundle_copy, graph=graph)
    with pytest.raises(BundleError, match="cannot be loaded") as caught:
        runtime.Predictor(opened)
    assert caught.value.where == str(bundle_copy / "model.onnx")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (lambda columns: columns[1:], "'age' is tensor.double. in the graph"),
        (lambda columns: (*columns, Column(name="new", kind="number")), "'new' is not read"),
        (
            lambda columns: (columns[0].model_copy(update={"kind": "category"}), *columns[1:]),
            "'age' is tensor.double. in the graph",
        ),
    ],
)
def test_a_schema_that_is_not_the_graphs(bundle_copy, columns, message):
    schema = bundle.opened(bundle_copy).manifest.schema
    changed = Schema(columns=columns(schema.columns))
    with pytest.raises(BundleError, match=message):
        runtime.Predictor(spoilt(bundle_copy, schema=changed))


def test_an_idle_session_leaves_the_processor_alone(classifier):
    table = pa.table(raw_rows(2000), schema=pa.schema(list(classifier.schema.arrow())[:-1]))
    columns = runtime.columns_from_table(table, classifier.schema)
    predictor = runtime.Predictor(classifier.bundle, threads=2)
    idle = []
    for _ in range(3):
        predictor.predict(columns)
        begun = time.process_time()
        time.sleep(0.2)
        idle.append(time.process_time() - begun)
    assert min(idle) < 0.1  # a spinning thread would take all 0.2 s


def test_columns_as_the_graph_reads_them():
    table = pa.table(
        {
            "c": ["a", None, " ? ", "", "n/a", "  a b "],
            "b": [True, None, False, None, True, False],
            "i": [1, None, -(2**40), 0, 5, 6],
            "n": [1.5, None, float("nan"), float("inf"), 0.0, -1.0],
            "y": [1.0] * 6,
            "extra": [{}] * 6,
        }
    )
    columns = runtime.columns_from_table(table, SCHEMA)
    assert list(columns) == ["n", "i", "b", "c"]
    assert columns["c"].tolist() == ["a", "", "", "", "", "a b"]
    nan = float("nan")
    expected = {
        "n": [1.5, nan, nan, float("inf"), 0.0, -1.0],
        "i": [1.0, nan, -(2.0**40), 0.0, 5.0, 6.0],
        "b": [1.0, nan, 0.0, nan, 1.0, 0.0],
    }
    for name, values in expected.items():
        assert columns[name].dtype == np.float64
        np.testing.assert_array_equal(columns[name], values)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, None], pa.int8()),
        pa.array([1, None], pa.uint64()),
        pa.array([1.0, None], pa.float32()),
        pa.array([True, None]),
        pa.array(["1", None]),
        pa.chunked_array([[1], [None]], pa.int32()),
    ],
)
def test_numbers_of_any_type(column):
    table = pa.table({"n": column, "i": column, "b": column, "c": ["a", "b"]})
    for name, values in runtime.columns_from_table(table, SCHEMA).items():
        if name != "c":
            np.testing.assert_array_equal(values, [1.0, np.nan])


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", None]),
        pa.array(["a", None], pa.large_string()),
        pa.array(["a", None]).dictionary_encode(),
        pa.chunked_array([["a"], [None]]),
    ],
)
def test_texts_of_any_type(column):
    table = pa.table({"n": [1, 2], "i": [1, 2], "b": [True, True], "c": column})
    assert runtime.columns_from_table(table, SCHEMA)["c"].tolist() == ["a", ""]


def test_columns_of_nulls_and_of_no_rows():
    nulls = pa.table({name: pa.nulls(2) for name in "nibc"})
    columns = runtime.columns_from_table(nulls, SCHEMA)
    assert np.isnan(columns["n"]).all()
    assert columns["c"].tolist() == ["", ""]
    assert all(len(v) == 0 for v in runtime.columns_from_table(nulls.slice(2), SCHEMA).values())


def test_an_absent_column():
    with pytest.raises(DataError, match="absent") as caught:
        runtime.columns_from_table(pa.table({"n": [1.0]}), SCHEMA)
    assert caught.value.where == "i"


@pytest.mark.parametrize(("name", "values"), [("n", ["old"]), ("i", [[1]]), ("c", [[1]])])
def test_a_column_of_another_kind(name, values):
    table = pa.table({"n": [1.0], "i": [1], "b": [True], "c": ["a"]} | {name: values})
    with pytest.raises(DataError, match="cannot be read") as caught:
        runtime.columns_from_table(table, SCHEMA)
    assert caught.value.where == name


@given(st.lists(st.one_of(st.none(), st.text(max_size=8)), max_size=20))
def test_any_text(texts):
    table = pa.table({"c": pa.array(texts, pa.string())})
    schema = Schema(columns=(Column(name="c", kind="category"),), missing=("?",))
    found = runtime.columns_from_table(table, schema)["c"].tolist()
    assert all(isinstance(text, str) for text in found)
    trimmed = ["" if text is None else text.strip() for text in texts]
    plain = [(f, t) for f, t in zip(found, trimmed, strict=True) if t.isascii() and t.isprintable()]
    assert all(f == ("" if t == "?" else t) for f, t in plain)
