"""Each encoding against scikit-learn, pandas or a plain loop."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import KBinsDiscretizer, OneHotEncoder, StandardScaler, TargetEncoder
from sklearn.utils import murmurhash3_32

from ray_pipeline.data import murmur
from ray_pipeline.data.encoders import category, date, number, target, text
from ray_pipeline.data.encoders.target import FOLDS
from ray_pipeline.data.statistics import DateStatistics, LabelStatistics, NumberStatistics
from ray_pipeline.data.summary import Counts, Moments
from ray_pipeline.job.features import ColumnFeatures, Features
from ray_pipeline.schema import Column, Schema

RNG = np.random.default_rng(0)
CLASSES = LabelStatistics(name="y", classes=("no", "yes"), counts=(1, 1))


def column_of(values: list) -> pa.ChunkedArray:
    half = len(values) // 2
    return pa.chunked_array([values[:half], values[half:]], pa.string())


def number_of(values: np.ndarray, **chosen) -> NumberStatistics:
    settings, logs = ColumnFeatures(**chosen), Moments.of(number.logarithms(values))
    moments = Moments.of(values)
    return number.fitted("n", moments, logs, values, settings=settings, default="quantile")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.none()))
def test_murmur_hashes_as_scikit_learn(texts):
    expected = [murmurhash3_32(value or "", positive=True) for value in texts]
    assert murmur.hashes(pa.array(["x", *texts], pa.string())[1:]).tolist() == expected


@pytest.mark.parametrize("strategy", ["median", "mean", "most_frequent"])
def test_what_stands_for_an_absent_number(strategy):
    values = np.array([3.0, 1.0, 1.0, 7.0, 7.0, np.nan, 11.0])
    missing = "mode" if strategy == "most_frequent" else strategy
    expected = SimpleImputer(strategy=strategy).fit(values[:, None]).statistics_[0]
    assert number_of(values, missing=missing).filler == expected
    assert number_of(values, missing={"constant": -3}).filler == -3


def test_logarithms_are_standardised():
    values = RNG.lognormal(4, 3, 500) * RNG.choice([-1, 1], 500)
    found = number.scaling(number_of(values, scale="log"))(values)
    logs = np.sign(values) * np.log1p(np.abs(values))
    np.testing.assert_allclose(found, StandardScaler().fit_transform(logs[:, None])[:, 0])


def test_bins_hold_as_many_rows_each():
    values = RNG.permutation(1000).astype(float)
    column = number_of(values, scale="bins", bins=8)
    found = number.binned(values, column)
    bins = KBinsDiscretizer(8, encode="ordinal", quantile_method="averaged_inverted_cdf")
    expected = bins.fit_transform(values[:, None])[:, 0]
    assert (found - 2 == expected).mean() > 0.99  # an edge may be a neighbour's
    assert np.bincount(found).max() <= 127
    assert number.binned(np.array([np.nan, np.inf, -1e300, 1e300]), column).tolist() == [0, 0, 2, 9]


def test_one_hot_as_scikit_learn():
    values = RNG.choice(["a", "b", "c"], 60).tolist()
    features = Features(columns={"c": ColumnFeatures(encode="onehot")})
    column = category.fitted("c", Counts.of(column_of(values)), features)
    codes = category.coding(column, ())(column_of([*values, "new", None]))
    found = category.onehot(codes, column.size)
    encoder = OneHotEncoder(categories=[list(column.values)], sparse_output=False)
    np.testing.assert_array_equal(found[:-2, 2:], encoder.fit_transform(np.array([values]).T))
    assert found[-2:].tolist() == [[0, 1, 0, 0, 0], [1, 0, 0, 0, 0]]


def test_hashes_have_their_bucket():
    features = Features(columns={"c": ColumnFeatures(encode="hash", buckets=11)})
    column = category.fitted("c", Counts.of(column_of(["a", "a", "b", "b"])), features)
    codes = category.coding(column, ("?",))(column_of(["a", "never seen", "?", None, ""]))
    expected = [murmurhash3_32(value, positive=True) % 11 + 2 for value in ("a", "never seen")]
    assert codes.tolist() == [*expected, 0, 0, 0]


TEXTS = [
    "The food was good, GOOD food.",
    "not good: cold food; never again!",
    "Été à la mer, été à la plage",
    "東京 の 食べ物 は good",
    "",
    "a b c",
    "never again never again",
] * 3


@pytest.mark.parametrize("ngrams", [1, 2, 3])
def test_tfidf_as_scikit_learn(ngrams):
    settings = ColumnFeatures(ngrams=ngrams, terms=5000)
    found = text.documents(column_of(TEXTS[:9]), ngrams) + text.documents(
        column_of(TEXTS[9:]), ngrams
    )
    column = text.fitted("t", found, len(TEXTS), settings, min_count=1)
    reference = TfidfVectorizer(ngram_range=(1, ngrams), vocabulary=list(column.terms))
    expected = reference.fit_transform(TEXTS).toarray()
    assert set(TfidfVectorizer(ngram_range=(1, ngrams)).fit(TEXTS).vocabulary_) == set(column.terms)
    np.testing.assert_allclose(text.encoding(column)(column_of(TEXTS)), expected, atol=1e-6)


def test_the_most_frequent_terms_are_kept():
    found = text.documents(column_of(["aa bb cc", "bb cc cc", "cc dd"]), 1)
    kept = text.fitted("t", found, 3, ColumnFeatures(terms=2), min_count=1)
    assert (kept.terms, kept.documents) == (("cc", "bb"), (3, 2))
    often = text.fitted("t", found, 3, ColumnFeatures(), min_count=3)
    assert often.terms == ("cc",)
    assert text.fitted("t", found, 3, ColumnFeatures(), min_count=9).terms == ()


def test_parts_of_dates_as_pandas():
    seconds = RNG.uniform(-6e9, 2e10, 500)
    moments = pd.to_datetime(np.floor(seconds), unit="s")
    column = DateStatistics(
        name="d",
        seconds=number_of(seconds),
        parts=("month", "day", "day_of_year", "weekday", "hour"),
        cyclic=False,
        trend=True,
    )
    found = date.encoded(seconds, column)
    expected = [
        (moments.month - 1) / 11,
        (moments.day - 1) / 30,
        (moments.day_of_year - 1) / 365,
        moments.day_of_week / 6,
        moments.hour / 23,
    ]
    np.testing.assert_allclose(found, np.column_stack(expected) * 2 - 1, atol=1e-6)


def learned(values: list, labels: list, folds: np.ndarray, smoothing: float = 0.0, **kind):
    """What is learned from rows that come in three parts."""
    label = Column(name="y", kind=kind.get("kind", "category"))
    texts, given = column_of(values), pa.chunked_array([pa.array(labels)])
    features = Features(min_count=1, columns={"c": ColumnFeatures(encode="target")})
    column = category.fitted("c", Counts.of(texts), features)
    found = pa.concat_tables(
        target.counted(texts.slice(at, size), given.slice(at, size), folds[at : at + size], label)
        for at, size in ((0, 10), (10, 25), (35, len(values)))
    )
    return target.fitted(column, found, kind.get("label", CLASSES), smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 5.0])
@pytest.mark.parametrize("kind", ["binary", "continuous", "multiclass"])
def test_target_encodings_as_scikit_learn(kind, smoothing):
    values = RNG.choice(["a", "b", "c", "dd"], 200, p=[0.6, 0.25, 0.1, 0.05]).tolist()
    folds = RNG.integers(0, FOLDS, 200)
    options: dict = {}
    if kind == "binary":
        labels, numbers = (y := RNG.choice(["no", "yes"], 200)).tolist(), (y == "yes").astype(int)
    elif kind == "multiclass":
        numbers = labels = RNG.choice(["k", "l", "m"], 200).tolist()
        options = {"label": LabelStatistics(name="y", classes=("k", "l", "m"), counts=(1, 1, 1))}
    else:
        numbers = labels = RNG.normal(size=200).tolist()
        options = {"kind": "number", "label": LabelStatistics(name="y", classes=None)}
    found = learned(values, labels, folds, smoothing, **options)
    encoder = TargetEncoder(smooth=smoothing, target_type=kind)
    columns = np.array([values], object).T
    encoder.fit(columns, numbers)
    expected = encoder.transform(np.array([found.column.values], object).T)
    np.testing.assert_allclose(np.array(found.column.encodings)[2:], expected)
    unknown = np.array(found.column.encodings)[1]
    np.testing.assert_allclose(unknown, encoder.transform(np.array([["new"]], object))[0])
    for fold in range(FOLDS):  # what a fold's rows read is what the others teach
        kept = folds != fold
        encoder.fit(columns[kept], np.array(numbers)[kept])
        expected = encoder.transform(np.array([found.column.values], object).T)
        np.testing.assert_allclose(found.folds[fold, 2:], expected)


def test_a_training_row_does_not_read_its_own_label():
    """Labels by chance and almost as many values as rows: nothing can be learned from them.

    Encoded by all rows, the column tells the training labels, and a model that believes it fails
    on others; out of fold it is as worthless as it should be.
    """
    rows = 3000
    values = RNG.integers(0, rows // 2, rows).astype(str).tolist()
    labels = RNG.choice(["no", "yes"], rows)
    schema = Schema(columns=(Column(name="c", kind="category"),))
    table = pa.table({"c": column_of(values)})
    folds = target.folds_of(table, schema)
    found = learned(values, labels.tolist(), folds, smoothing=1.0)
    apart = target.encoding(found.column, found.folds, ())(table["c"], folds)
    whole = target.encoding(found.column, None, ())(table["c"], None)
    forest = RandomForestClassifier(20, min_samples_leaf=20, random_state=0)
    assert forest.fit(whole, labels).score(whole, labels) > 0.7  # it leaks
    assert abs(forest.fit(apart, labels).score(whole, labels) - 0.5) < 0.1
    assert abs(np.corrcoef(apart[:, 0], labels == "yes")[0, 1]) < 0.1 < 0.5
    assert np.corrcoef(whole[:, 0], labels == "yes")[0, 1] > 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": "log", "encode": "hash"}, "settings of a category and of a number"),
        ({"bins": 5}, "`bins` needs `scale: bins`"),
        ({"buckets": 5}, "`buckets` needs `encode: hash`"),
        ({"smoothing": 5}, "`smoothing` needs `encode: target`"),
        ({"parts": [], "trend": False}, "is nothing"),
        ({"missing": {"constant": float("nan")}}, "finite"),
    ],
)
def test_settings_that_do_not_suit_one_another_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ColumnFeatures(**settings)
