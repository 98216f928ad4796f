"""The ONNX graph and the Arrow transform agree on any row, to the last bit."""

from __future__ import annotations

import time
from calendar import isleap
from collections import Counter
from datetime import datetime, timedelta
from functools import cache

import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_pipeline.data import feature_graph
from ray_pipeline.data.compiled import compiled_arrow
from ray_pipeline.data.encoders import category, number, target, text
from ray_pipeline.data.matrices import matrices
from ray_pipeline.data.statistics import (
    PERIODS,
    CategoryStatistics,
    DateStatistics,
    LabelStatistics,
    NumberStatistics,
    Statistics,
    TextStatistics,
)
from ray_pipeline.data.summary import Counts, Moments
from ray_pipeline.job.features import ColumnFeatures, Features
from ray_pipeline.schema import Column

LABEL = LabelStatistics(name="label", classes=("no", "yes"), counts=(2, 1))
TEXTS = ("Paris", "Genève", "東京", " spaced ", "7", "a:b", "0:Paris", "🙂")


def number_of(name: str, values: np.ndarray, absent: int = 0, **chosen) -> NumberStatistics:
    moments = Moments.of(values) + Moments(missing=absent)
    logs = Moments.of(number.logarithms(values))
    return number.fitted(
        name, moments, logs, values, settings=ColumnFeatures(**chosen), default="quantile"
    )


def category_of(name: str, values: tuple[str, ...], **chosen) -> CategoryStatistics:
    features = Features(min_count=1, columns={name: ColumnFeatures(**chosen)})
    counts = Counts(Counter({value: 99 - at for at, value in enumerate(values)}), missing=1)
    return category.fitted(name, counts, features)


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
        rows=100,
        numbers=tuple(
            number_of(name, values, index % 2, scale=method)
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


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=8))
@pytest.mark.parametrize("method", ["quantile", "standard"])
def test_graph_and_arrow_agree_to_the_last_bit(method, rows):
    statistics = statistics_of(method)
    ready = compiled_arrow(statistics)(table_of(rows, statistics))
    numbers, categories = session(method).run(None, inputs_of(rows, statistics))
    assert numbers.shape == (len(rows), statistics.number_width)
    assert numbers.dtype == np.float32
    assert not np.isnan(numbers).any()
    np.testing.assert_array_equal(numbers, matrices(ready)["numbers"])
    np.testing.assert_array_equal(categories, matrices(ready)["categories"])


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


def encoded_statistics() -> Statistics:
    """Every encoding there is, some of them twice."""
    rng = np.random.default_rng(1)
    towns = category_of("town", TEXTS, encode="target", smoothing=2)
    labels = pa.chunked_array([pa.array(rng.choice(["no", "yes"], 200))])
    values = pa.chunked_array([pa.array(rng.choice([*TEXTS, None], 200).tolist(), pa.string())])
    found = target.counted(
        values, labels, rng.integers(0, 5, 200), Column(name="label", kind="category")
    )
    return Statistics(
        rows=100,
        numbers=(
            number_of("q", rng.lognormal(3, 2, 500), scale="quantile", missing="mode"),
            number_of("l", rng.lognormal(3, 4, 500), 2, scale="log", missing={"constant": -2.5}),
            number_of("b", rng.normal(size=500), 1, scale="bins", bins=7),
            number_of("s", rng.normal(size=500), 1, scale="standard", missing="mean"),
            number_of("b1", np.full(3, 2.0), scale="bins"),
            number_of("l0", np.zeros(3), scale="log"),
        ),
        categories=(
            category_of("one", TEXTS[:3], encode="onehot"),
            category_of("hash", TEXTS, encode="hash", buckets=13),
            category_of("index", TEXTS),
            category_of("none", (), encode="onehot"),
            target.fitted(towns, found, LABEL, 2).column,
        ),
        dates=(
            date_of("d1", tuple(PERIODS), cyclic=True, missing=1),
            date_of("d2", ("day_of_year", "hour"), cyclic=False),
            date_of("d3", (), cyclic=True),
            date_of("d4", ("hour", "weekday"), cyclic=True, trend=False),
        ),
        texts=(
            text_of("t1", ["good good food", "Bad food: été", "été 東京 _x_ good food"], ngrams=3),
            text_of("t2", ["one two", "two"], ngrams=1),
            text_of("t3", ["", "! ?"], ngrams=2),
        ),
        label=LABEL,
        missing=("?", "n/a"),
    )


def date_of(
    name: str, parts: tuple[str, ...], cyclic: bool, missing: int = 0, trend: bool = True
) -> DateStatistics:
    seconds = number_of(name, np.random.default_rng(2).uniform(0, 1.7e9, 400), missing)
    return DateStatistics(name=name, seconds=seconds, parts=parts, cyclic=cyclic, trend=trend)


def text_of(name: str, texts: list[str], ngrams: int) -> TextStatistics:
    found = text.documents(pa.chunked_array([pa.array(texts)]), ngrams)
    return text.fitted(
        name, found, len(texts), ColumnFeatures(ngrams=ngrams, terms=5000), min_count=1
    )


DAYS = st.integers(-719_162, 2_932_896) | st.sampled_from([0, -1, 59, 11_016, 19_781, -25_509])
SECONDS = (
    st.none()
    | st.floats()
    | st.tuples(DAYS, st.floats(0, 86_399.999)).map(lambda pair: pair[0] * 86_400.0 + pair[1])
    | st.integers(-(10**14), 10**14).map(float)
)
ASSIGNED = st.characters(exclude_categories=["Cs", "Cn", "Co"], exclude_characters="\0")
PROSE = (
    st.none()
    | st.text(ASSIGNED, max_size=30)
    | st.lists(
        st.sampled_from(["good", "food", "GOOD", "Été", "été", "東京", "_X_", "two", "İ", "ß", "a"])
        | st.sampled_from([" ", ", ", "-", "\n", "e\u0301", "!", "?", "٣٤", "x_y"]),
        max_size=12,
    ).map(" ".join)
)
ENCODED = st.fixed_dictionaries(
    dict.fromkeys(["q", "l", "b", "s", "b1", "l0"], FLOATS)
    | dict.fromkeys(["one", "hash", "index", "none", "town"], WORDS)
    | dict.fromkeys(["d1", "d2", "d3", "d4"], SECONDS)
    | dict.fromkeys(["t1", "t2", "t3"], PROSE)
)


@cache
def encoded_session() -> tuple[Statistics, ort.InferenceSession]:
    statistics = encoded_statistics()
    model = feature_graph.onnx_graph(statistics)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    content = model.SerializeToString()
    return statistics, ort.InferenceSession(content, options, ["CPUExecutionProvider"])


def is_text(name: str) -> bool:
    return name in {"one", "hash", "index", "none", "town", "t1", "t2", "t3"}


def both(rows: list[dict]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What Arrow makes of the rows, and what the graph does. Dates are seconds in both."""
    statistics, graph = encoded_session()
    table = pa.table(
        {
            name: pa.array(
                [row[name] for row in rows], pa.string() if is_text(name) else pa.float64()
            )
            for name in ENCODED_NAMES
        }
    )
    ready = compiled_arrow(statistics)(table)
    inputs = {
        name: np.array([row[name] or "" for row in rows], object)
        if is_text(name)
        else np.array([np.nan if row[name] is None else row[name] for row in rows])
        for name in ENCODED_NAMES
    }
    numbers, categories = graph.run(None, inputs)
    arrow = {name: matrices(ready)[name] for name in ("numbers", "categories")}
    return arrow, {"numbers": numbers, "categories": categories}


STATISTICS = encoded_statistics()
ENCODED_NAMES = [
    column.name
    for column in (
        *STATISTICS.numbers,
        *STATISTICS.categories,
        *STATISTICS.dates,
        *STATISTICS.texts,
    )
]


@settings(max_examples=120, deadline=None)
@given(rows=st.lists(ENCODED, min_size=1, max_size=6))
def test_graph_and_arrow_agree_on_every_encoding(rows):
    arrow, graph = both(rows)
    np.testing.assert_array_equal(graph["categories"], arrow["categories"])
    assert graph["numbers"].shape == (len(rows), STATISTICS.number_width)
    assert not np.isnan(graph["numbers"]).any()
    # A logarithm and a norm may be rounded differently; all else is equal to the last bit.
    np.testing.assert_allclose(graph["numbers"], arrow["numbers"], rtol=5e-7, atol=1e-12)
    rounded = np.isin(np.arange(STATISTICS.number_width), [1, 4])
    rounded[-sum(column.number_width for column in STATISTICS.texts) :] = True
    np.testing.assert_array_equal(graph["numbers"][:, ~rounded], arrow["numbers"][:, ~rounded])


def row_of(**values) -> dict:
    return dict.fromkeys(ENCODED_NAMES) | values


def test_no_rows_at_all():
    statistics, graph = encoded_session()
    empty = {name: np.array([], object if is_text(name) else float) for name in ENCODED_NAMES}
    numbers, categories = graph.run(None, empty)
    assert numbers.shape == (0, statistics.number_width)
    assert categories.shape == (0, len(statistics.category_sizes))


def test_the_calendar_is_pythons():
    """Every day of four centuries around 1970 and the ends of the years that there are."""
    column = STATISTICS.dates[0]
    first, last = datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59)
    moments = [datetime(1800, 1, 1, 23, 59) + timedelta(days=day) for day in range(146_097)]
    moments += [first, last, datetime(2000, 2, 29), datetime(1900, 3, 1, 0, 0, 59)]
    seconds = np.array([(moment - datetime(1970, 1, 1)).total_seconds() for moment in moments])
    _, graph = encoded_session()
    rows = {name: np.full(len(moments), np.nan) for name in ENCODED_NAMES if not is_text(name)}
    rows |= {name: np.full(len(moments), "", object) for name in ENCODED_NAMES if is_text(name)}
    numbers, _ = graph.run(None, rows | {"d1": seconds})
    found = numbers[:, STATISTICS.embedded_width :][:, : 2 * len(PERIODS)]
    values = {
        "minute": [moment.minute for moment in moments],
        "hour": [moment.hour for moment in moments],
        "weekday": [moment.weekday() for moment in moments],
        "day": [moment.day - 1 for moment in moments],
        "month": [moment.month - 1 for moment in moments],
        "day_of_year": [moment.timetuple().tm_yday - 1 for moment in moments],
    }
    assert isleap(2000)
    for index, part in enumerate(column.parts):
        angles = 2 * np.pi * np.array(values[part]) / PERIODS[part]
        expected = np.column_stack([np.sin(angles), np.cos(angles)])
        np.testing.assert_allclose(found[:, 2 * index : 2 * index + 2], expected, atol=1e-6)


def test_lower_case_is_the_same_for_every_letter():
    """The letters that Python knows; newer ones may differ between the two libraries."""
    upper = [chr(code) for code in range(1, 0x2FFFF) if chr(code).isalpha()]
    upper = [letter for letter in upper if letter.lower() != letter]
    column = text_of("t", [letter.lower() * 2 for letter in upper], ngrams=1)
    assert len(upper) > 1300
    statistics = Statistics(rows=1, numbers=(), categories=(), texts=(column,), label=LABEL)
    graph = ort.InferenceSession(feature_graph.onnx_graph(statistics).SerializeToString())
    texts = [letter * 2 for letter in upper]
    (numbers,) = graph.run(None, {"t": np.array(texts, object)})
    ready = compiled_arrow(statistics)(pa.table({"t": texts}))
    np.testing.assert_array_equal(numbers, matrices(ready)["numbers"])
    assert (numbers.sum(axis=1) > 0).mean() > 0.99


def test_one_row_is_fast():
    """As many columns as the census has; the bound is three times what it took when written."""
    rng = np.random.default_rng(0)
    statistics = Statistics(
        rows=1,
        numbers=tuple(number_of(f"n{i}", rng.normal(size=999)) for i in range(6)),
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
        begun = time.thread_time()  # another process's share does not count
        graph.run(None, row)
        seconds.append(time.thread_time() - begun)
    assert np.median(seconds) < 150e-6
