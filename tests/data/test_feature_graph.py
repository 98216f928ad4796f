"""The ONNX graph and the Arrow transform agree on any row, to the last bit."""

from __future__ import annotations

import time
from functools import cache

import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_pipeline.data import feature_graph, features, quantiles
from ray_pipeline.data.statistics import (
    CategoryStatistics,
    LabelStatistics,
    NumberStatistics,
    Statistics,
)

LABEL = LabelStatistics(name="label", classes=("no", "yes"), counts=(2, 1))
TEXTS = ("Paris", "Genève", "東京", " spaced ", "7", "a:b", "0:Paris", "🙂")


def number_of(name: str, values: np.ndarray, missing: int, method: str) -> NumberStatistics:
    knots, targets = quantiles.fitted_knots(values) if method == "quantile" else ((), ())
    return NumberStatistics(
        name=name,
        missing=missing,
        mean=values.mean(),
        deviation=values.std(),
        median=float(np.median(values)),
        minimum=values.min(),
        maximum=values.max(),
        knots=tuple(map(float, knots)),
        targets=tuple(map(float, targets)),
    )


def category_of(name: str, values: tuple[str, ...]) -> CategoryStatistics:
    return CategoryStatistics(
        name=name, missing=1, unknown=0, values=values, counts=(1,) * len(values)
    )


def statistics_of(method: str, numbers: bool = True, categories: bool = True) -> Statistics:
    rng = np.random.default_rng(0)
    columns = {
        "numbers": rng.lognormal(3, 2, 5000),  # called as the output is
        "wide": rng.integers(-(2**62), 2**62, 900).astype(float),
        "ties": np.repeat([0.0, 1.0, 5.5], [90, 5, 5]),
        "flag": np.array([0.0, 1.0, 1.0]),
        "constant": np.full(4, 7.25),
    }
    return Statistics(
        method=method,
        rows=100,
        numbers=tuple(
            number_of(name, values, index % 2, method)
            for index, (name, values) in enumerate(columns.items())
        )
        if numbers
        else (),
        categories=(
            category_of("city", TEXTS),
            category_of("Constant 1", ("x",)),
            category_of("empty", ()),
        )
        if categories
        else (),
        label=LABEL,
        missing=("?", "n/a"),
    )


KINDS = {
    "numbers": pa.float64(),
    "wide": pa.int64(),
    "ties": pa.float64(),
    "flag": pa.bool_(),
    "constant": pa.float64(),
}
FLOATS = st.none() | st.floats() | st.sampled_from([0.0, -0.0, 1.0, 5.5, 7.25, 1e-320, 1.5e308])
VALUES = {
    "numbers": FLOATS | st.sampled_from(statistics_of("quantile").numbers[0].knots),
    "wide": st.none() | st.integers(-(2**63), 2**63 - 1) | st.sampled_from([2**53 + 1, 2**60 - 1]),
    "ties": FLOATS,
    "flag": st.none() | st.booleans(),
    "constant": FLOATS,
}
WORDS = (
    st.none()
    | st.sampled_from([*TEXTS, "", "?", "n/a", " Paris", "paris", "x", "7.0"])
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4)
)
ROW = st.fixed_dictionaries({**VALUES, "city": WORDS, "Constant 1": WORDS, "empty": WORDS})


@cache
def session(method: str, numbers: bool = True, categories: bool = True) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    model = feature_graph.onnx_graph(statistics_of(method, numbers, categories))
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def table_of(rows: list[dict], statistics: Statistics) -> pa.Table:
    kinds = {column.name: KINDS[column.name] for column in statistics.numbers}
    kinds |= {column.name: pa.string() for column in statistics.categories}
    return pa.table(
        {name: pa.array([row[name] for row in rows], kind) for name, kind in kinds.items()}
    )


def inputs_of(rows: list[dict], statistics: Statistics) -> dict[str, np.ndarray]:
    """The rows as the graph takes them: NaN and "" for what is missing."""
    numbers = {
        column.name: np.array(
            [np.nan if row[column.name] is None else float(row[column.name]) for row in rows]
        )
        for column in statistics.numbers
    }
    return numbers | {
        column.name: np.array([row[column.name] or "" for row in rows], object)
        for column in statistics.categories
    }


@settings(max_examples=300, deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=8))
@pytest.mark.parametrize("method", ["quantile", "standard"])
def test_graph_and_arrow_agree_to_the_last_bit(method, rows):
    statistics = statistics_of(method)
    ready = features.compiled_arrow(statistics)(table_of(rows, statistics))
    numbers, categories = session(method).run(None, inputs_of(rows, statistics))
    assert numbers.shape == (len(rows), statistics.number_width)
    assert numbers.dtype == np.float32
    assert not np.isnan(numbers).any()
    np.testing.assert_array_equal(numbers, features._matrix(ready, "numbers", np.float32))
    np.testing.assert_array_equal(categories, features._matrix(ready, "categories", np.int32))


@pytest.mark.parametrize("method", ["quantile", "standard"])
def test_what_missing_and_unknown_become(method):
    statistics = statistics_of(method)
    nothing = dict.fromkeys([*VALUES, "city", "Constant 1", "empty"])
    rows = [
        nothing,
        nothing | {"ties": float("inf"), "city": "?"},
        nothing | {"ties": 5.5, "city": "東京", "flag": True},
        nothing | {"city": "Tokyo"},
    ]
    numbers, categories = session(method).run(None, inputs_of(rows, statistics))
    assert categories[:, 0].tolist() == [0, 0, 2 + TEXTS.index("東京"), 1]
    flags = [1, 3]  # the columns missing in training: `wide` and `flag`
    assert [column.name for column in statistics.flagged] == [list(KINDS)[i] for i in flags]
    assert numbers[:, 5:].tolist() == [[1, 1], [1, 1], [1, 0], [1, 1]]
    ties = statistics.numbers[2]
    median = numbers[0, 2]
    if method == "standard":
        assert median == pytest.approx((ties.median - ties.mean) / ties.deviation)
    else:
        assert median == np.float32(ties.targets[0])
    assert numbers[1, 2] == median < numbers[2, 2]


def test_names_and_types_of_inputs_and_outputs():
    found = session("quantile")
    kinds = {value.name: value.type for value in found.get_inputs()}
    assert kinds == dict.fromkeys(VALUES, "tensor(double)") | dict.fromkeys(
        ["city", "Constant 1", "empty"], "tensor(string)"
    )
    assert all(value.shape == ["N"] for value in found.get_inputs())
    assert [(value.name, value.shape) for value in found.get_outputs()] == [
        ("numbers_", ["N", 7]),  # a column has the name itself
        ("categories", ["N", 3]),
    ]


def test_an_output_without_columns_is_left_out():
    only_numbers, only_categories = session("quantile", True, False), session("quantile", False)
    assert [value.name for value in only_numbers.get_outputs()] == ["numbers_"]
    assert [value.name for value in only_categories.get_outputs()] == ["categories"]


def test_one_row_is_fast():
    """As many columns as the census has; the bound is three times what it took when written."""
    rng = np.random.default_rng(0)
    statistics = Statistics(
        method="quantile",
        rows=1,
        numbers=tuple(number_of(f"n{i}", rng.normal(size=999), 0, "quantile") for i in range(6)),
        categories=tuple(category_of(f"c{i}", TEXTS) for i in range(8)),
        label=LABEL,
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    model = feature_graph.onnx_graph(statistics).SerializeToString()
    graph = ort.InferenceSession(model, options, ["CPUExecutionProvider"])
    row = {column.name: np.zeros(1) for column in statistics.numbers}
    row |= {column.name: np.array(["7"], object) for column in statistics.categories}
    seconds = []
    for _ in range(500):
        begun = time.perf_counter()
        graph.run(None, row)
        seconds.append(time.perf_counter() - begun)
    assert np.median(seconds) < 150e-6
