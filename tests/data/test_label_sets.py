"""Labels of which a row has several: read from texts and lists, told apart, as 0 and 1."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ray_pipeline.data import label_sets, parsing
from ray_pipeline.data.compiled import compiled_arrow
from ray_pipeline.data.matrices import matrices, packed
from ray_pipeline.data.statistics import LabelStatistics, NumberStatistics, Statistics
from ray_pipeline.data.summary import Counts, summarised
from ray_pipeline.errors import DataError
from ray_pipeline.job import Data
from ray_pipeline.schema import Column, kind_of

CLASSES = ("a", "b", "c")
COLUMN = Column(name="y", kind="labels", role="label")


def label(**settings: object) -> LabelStatistics:
    return LabelStatistics(name="y", classes=CLASSES, separator="|", **settings)


@pytest.mark.parametrize(
    ("text", "separator", "wanted"),
    [
        ("b|a", "|", "a|b"),
        (" b ; a;b;", ";", "a;b"),
        ("", "|", ""),
        (None, "|", None),
        ('["b", "a"]', "|", "a|b"),
        ("[]", "|", ""),
        ("[2, 10]", "|", "10|2"),
        ("[sic]|a", "|", "[sic]|a"),  # no JSON: names may begin so
        ("one", "||", "one"),
    ],
)
def test_names_are_sorted_and_each_once(text, separator, wanted):
    values, misfits = parsing.parsed(pa.chunked_array([[text, "x"]]), "labels", separator)
    assert misfits is None
    assert values.to_pylist() == [wanted, "x"]


@pytest.mark.parametrize("text", ['["a|b"]', "[null]", "[[]]", "[true]", '[{"a": 1}]'])
def test_a_list_of_something_else_does_not_fit(text):
    values, misfits = parsing.parsed(pa.chunked_array([["a", text, None]]), "labels", "|")
    assert misfits.to_pylist() == [False, True, False]
    assert values.to_pylist() == ["a", None, None]


def test_columns_of_lists_are_labels():
    lists = pa.chunked_array([[["b", "a"], None], [[]]], pa.list_(pa.string()))
    assert kind_of(lists.type) == "labels"
    assert parsing.parsed(lists, "labels")[0].to_pylist() == ["a|b", None, ""]


@given(st.lists(st.frozensets(st.sampled_from(CLASSES)), min_size=1, max_size=9), st.data())
def test_what_is_written_is_read_and_counted(rows, data):
    texts = ["|".join(data.draw(st.permutations(sorted(row)))) for row in rows]
    values, _ = parsing.parsed(pa.chunked_array([texts]), "labels")
    wanted = np.array([[name in row for name in CLASSES] for row in rows])
    np.testing.assert_array_equal(label_sets.hot(values, label()), wanted)
    assert label_sets.named(wanted, CLASSES) == [sorted(row) for row in rows]
    counts = dict(label_sets.counted(values, "|"))
    assert counts == {n: int(w) for n, w in zip(CLASSES, wanted.sum(0), strict=True) if w}


def test_a_name_that_training_lacks_is_refused_or_left_out():
    texts = pa.chunked_array([["a|z", "b"]])
    with pytest.raises(DataError, match="`z` does not occur"):
        label_sets.hot(texts, label())
    assert label_sets.hot(texts, label(min_rows=2)).tolist() == [[1, 0, 0], [0, 1, 0]]


def test_prepared_labels_go_through_a_file_as_0_and_1(tmp_path):
    number = {"missing": 0, "mean": 0, "deviation": 1, "median": 0, "minimum": -4, "maximum": 4}
    statistics = Statistics(
        rows=3, numbers=(NumberStatistics(name="n", **number),), categories=(), label=label()
    )
    rows = pa.table({"n": [0.0, 1.0, 2.0], "y": ["a|c", "", "b"]})
    ready = compiled_arrow(statistics)(rows)
    wanted = [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert matrices(ready)["label"].tolist() == wanted
    pq.write_table(packed(ready), tmp_path / "a.parquet")
    stored = pq.read_table(tmp_path / "a.parquet")
    assert matrices(stored)["label"].dtype == np.uint8
    assert matrices(stored.slice(1))["label"].tolist() == wanted[1:]
    assert (statistics.task, statistics.outputs) == ("multilabel", 3)


def test_a_summary_counts_each_name():
    texts = pa.chunked_array([["a|c", "", None, "a"]])
    assert summarised(texts, COLUMN) == Counts({"a": 2, "c": 1}, missing=1)


@pytest.mark.parametrize(
    "columns",
    [
        {"x": "labels"},
        {"y": {"kind": "category", "separator": ";"}},
        {"y": {"kind": "labels", "separator": ""}},
    ],
)
def test_what_cannot_be_is_refused(columns):
    with pytest.raises(ValidationError):
        Data(source="rows.csv", label="y", columns=columns)
    Data(source="rows.csv", label="y", columns={"x": {"kind": "labels", "role": "ignore"}})
