"""Statistics and prepared rows, against pandas and scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from job_files import data_of, folder, table_in
from sklearn.preprocessing import OrdinalEncoder, QuantileTransformer, StandardScaler
from upath import UPath

from ray_pipeline.data import features, fitting, parts
from ray_pipeline.data.compiled import compiled_arrow
from ray_pipeline.data.matrices import matrices
from ray_pipeline.data.statistics import Statistics
from ray_pipeline.errors import DataError, JobError
from ray_pipeline.schema import Column, Schema

pytestmark = pytest.mark.usefixtures("ray_cluster")

SCHEMA = Schema(
    columns=(
        Column(name="id", kind="integer", role="ignore"),
        Column(name="age", kind="integer"),
        Column(name="pay", kind="number"),
        Column(name="member", kind="boolean"),
        Column(name="city", kind="category"),
        Column(name="job", kind="category"),
        Column(name="label", kind="category", role="label"),
    ),
    missing=("?",),
)


def frame_of(rows: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    pay = rng.lognormal(3, 1, rows)
    pay[rng.random(rows) < 0.1] = np.nan
    city = rng.choice(["Paris", "Rome", "Genève", "東京"], rows, p=[0.5, 0.3, 0.15, 0.05])
    return pd.DataFrame(
        {
            "id": range(rows),
            "age": rng.integers(17, 90, rows),
            "pay": pay,
            "member": rng.random(rows) < 0.3,
            "city": pd.Series(city).where(rng.random(rows) > 0.1),
            "job": [f"job {i}" for i in rng.geometric(0.05, rows)],
            "label": rng.choice(["no", "yes", "maybe"], rows),
        }
    )


def table_of(frame: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(frame, schema=SCHEMA.arrow(), preserve_index=False)


def stored(tmp_path, frame: pd.DataFrame, validation: pd.DataFrame | None = None) -> UPath:
    """The frame as what `split.write` leaves, its training rows in three files."""
    split = folder(tmp_path, "split")
    third = len(frame) // 3 + 1
    for index in range(3):
        rows = frame.iloc[index * third : (index + 1) * third]
        parts.written(table_of(rows), split / "train" / f"{index}.parquet")
    held_out = frame_of(50, seed=1) if validation is None else validation
    parts.written(table_of(held_out), split / "validation" / "0.parquet")
    return split


def prepared(tmp_path, frame, **settings) -> tuple[Statistics, UPath, dict]:
    split, out = stored(tmp_path, frame), folder(tmp_path, "features")
    record = features.write(split, data_of("unused", features=settings), SCHEMA, out)
    return features.load(out), out, record


def test_statistics_are_those_of_pandas(tmp_path):
    frame = frame_of(900)
    statistics, _, record = prepared(tmp_path, frame, min_count=5, max_categories=12)
    assert statistics.rows == 900
    assert statistics.missing == ("?",)
    for column in statistics.numbers:
        values = frame[column.name].astype(float)
        assert column.missing == values.isna().sum()
        assert column.mean == pytest.approx(values.mean())
        assert column.deviation == pytest.approx(values.std(ddof=0))
        assert column.median == values.median()
        assert (column.minimum, column.maximum) == (values.min(), values.max())
    assert [column.name for column in statistics.flagged] == ["pay"]
    for column in statistics.categories:
        counts = frame[column.name].value_counts()
        kept = counts[counts >= 5].iloc[:12]
        assert sorted(column.counts) == sorted(kept)
        assert list(column.counts) == counts[list(column.values)].tolist()
        assert list(column.counts) == sorted(column.counts, reverse=True)
        assert column.unknown == counts.sum() - kept.sum()
        assert column.missing == frame[column.name].isna().sum()
    assert statistics.label.classes == ("maybe", "no", "yes")
    assert statistics.label.counts == tuple(frame["label"].value_counts().sort_index())
    assert record["rows_in"] == record["rows_out"] == 950
    assert record["numbers"] == 4
    assert record["categories"] == {"city": 6, "job": 14}


def test_the_order_of_work_changes_nothing(tmp_path):
    frame = frame_of(300)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, _, _ = prepared(tmp_path / "a", frame)
    two, _, _ = prepared(tmp_path / "b", frame.sample(frac=1, random_state=0))
    for left, right in zip(one.numbers, two.numbers, strict=True):
        assert left.knots == right.knots
        assert left.mean == pytest.approx(right.mean)
    assert one.categories == two.categories


def test_standardised_as_scikit_learn(tmp_path):
    frame = frame_of(500)
    _, out, _ = prepared(tmp_path, frame, numbers="standard")
    values = frame[["age", "pay", "member"]].astype(float)
    filled = values.fillna(values.median())
    # The scaler is fitted to the values that are there, as the statistics are.
    expected = StandardScaler().fit(values).transform(filled)
    found = features.read_matrix(out / "train")["numbers"]
    np.testing.assert_allclose(found[:, :3], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[:, 3], frame["pay"].isna())
    assert found.dtype == np.float32


def test_quantiles_as_scikit_learn(tmp_path):
    frame = frame_of(200)  # few enough for every value to be a knot
    _, out, _ = prepared(tmp_path, frame)
    found = features.read_matrix(out / "train")["numbers"]
    pay = frame[["pay"]].dropna().to_numpy()
    transformer = QuantileTransformer(n_quantiles=len(pay), output_distribution="normal")
    expected = transformer.fit_transform(pay)
    np.testing.assert_allclose(found[frame["pay"].notna(), 1], expected[:, 0], atol=1e-5)


def test_categories_as_scikit_learn(tmp_path):
    frame = frame_of(400)
    statistics, out, _ = prepared(tmp_path, frame, min_count=1)
    values = [list(column.values) for column in statistics.categories]
    encoder = OrdinalEncoder(
        categories=values, handle_unknown="use_encoded_value", unknown_value=-1
    )
    for side, rows in (("train", frame), ("validation", frame_of(50, seed=1))):
        texts = rows[["city", "job"]]
        expected = encoder.fit(texts.fillna("Paris")).transform(texts.fillna("Paris")) + 2
        expected = np.where(texts.isna(), 0, expected)
        found = features.read_matrix(out / side)["categories"]
        np.testing.assert_array_equal(found, expected)


ENCODED = Schema(
    columns=(
        Column(name="id", kind="integer", role="ignore"),
        Column(name="age", kind="integer"),
        Column(name="pay", kind="number"),
        Column(name="member", kind="boolean"),
        Column(name="city", kind="category"),
        Column(name="job", kind="category"),
        Column(name="when", kind="date"),
        Column(name="said", kind="text"),
        Column(name="label", kind="category", role="label"),
    )
)


def encoded_frame(rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    hours = pd.to_timedelta(rng.integers(0, 9999, rows), unit="h")
    words = rng.choice(["good", "bad", "food", "again"], (rows, 4))
    return frame_of(rows, seed).assign(
        when=(pd.Timestamp("2020-02-27", tz="UTC") + hours).where(rng.random(rows) > 0.1),
        said=[" ".join(row) for row in words],
    )


def test_every_encoding_in_files(tmp_path, monkeypatch):
    """Training rows read out-of-fold encodings, in slices as much as whole; others do not."""
    train, held_out = encoded_frame(200, 0), encoded_frame(60, 1)
    split = folder(tmp_path, "split")
    for side, frame in (("train", train), ("validation", held_out)):
        table = pa.Table.from_pandas(frame, schema=ENCODED.arrow(), preserve_index=False)
        parts.written(table, split / side / "0.parquet")
    columns = {
        "age": {"scale": "bins", "bins": 4},
        "pay": {"scale": "log", "missing": "mean"},
        "city": {"encode": "onehot"},
        "job": {"encode": "target"},
        "said": {"ngrams": 2},
    }
    data = data_of("unused", features={"columns": columns})
    features.check(data.features, ENCODED)
    out, sliced = folder(tmp_path, "whole"), folder(tmp_path, "sliced")
    record = features.write(split, data, ENCODED, out)
    monkeypatch.setattr(features, "SLICE", 200)
    features._prepared(
        (0, ("train", split / "train" / "0.parquet")),
        fitted=fitting.fitted(parts.files(split / "train"), data, ENCODED),
        schema=ENCODED,
        weights=None,
        vectors=None,
        out=sliced,
    )
    statistics = features.load(out)
    assert record["numbers"] == statistics.number_width == 5 + 8 + 6 + 3 + 20
    assert record["categories"] == {"age": 6}
    found = {side: features.read_matrix(out / side) for side in ("train", "validation")}
    again = features.read_matrix(sliced / "train")
    for name in ("numbers", "categories", "label"):
        np.testing.assert_array_equal(again[name], found["train"][name])
    transform = compiled_arrow(statistics)
    for side, same in (("train", False), ("validation", True)):
        plain = matrices(transform(table_in(split / side)))["numbers"]
        equal = (plain == found[side]["numbers"]).all(axis=0)
        places = np.flatnonzero(~equal).tolist()
        assert places == ([] if same else [5 + 8 + 6, 5 + 8 + 6 + 1, 5 + 8 + 6 + 2])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"nobody": {"scale": "log"}}, "no feature has this name"),
        ({"id": {"scale": "log"}}, "no feature has this name"),
        ({"city": {"scale": "log"}}, "`scale` does not suit the kind category"),
        ({"member": {"encode": "hash"}}, "`encode` does not suit the kind boolean"),
        ({"when": {"terms": 5}}, "`terms` does not suit the kind date"),
    ],
)
def test_settings_of_another_kind_are_refused(columns, message):
    with pytest.raises(JobError, match=message) as caught:
        features.check(data_of("unused", features={"columns": columns}).features, ENCODED)
    assert str(caught.value).startswith(f"data.features.columns.{next(iter(columns))}: ")


def test_labels_are_class_indices_or_values(tmp_path):
    frame = frame_of(100)
    statistics, out, _ = prepared(tmp_path, frame)
    names = np.array(statistics.label.classes)
    label = features.read_matrix(out / "train")["label"]
    assert label.dtype == np.int64
    assert names[label].tolist() == frame["label"].tolist()

    columns = [c.model_copy(update={"role": "feature"}) for c in SCHEMA.columns[:-1]]
    columns[1] = columns[1].model_copy(update={"role": "label"})
    schema = Schema(columns=tuple(columns))
    regression = folder(tmp_path, "regression")
    features.write(UPath(tmp_path) / "split", data_of("unused", label="age"), schema, regression)
    found = features.load(regression)
    assert found.label.classes is None
    assert found.label.mean == pytest.approx(frame["age"].mean())
    label = features.read_matrix(regression / "train")["label"]
    assert label.dtype == np.float32
    np.testing.assert_array_equal(label, frame["age"])


@pytest.mark.parametrize(
    ("kept", "widths"), [({"category"}, (0, 2)), ({"integer", "number", "boolean"}, (4, 0))]
)
def test_no_numbers_or_no_categories(tmp_path, kept, widths):
    columns = tuple(
        column
        if column.role != "feature" or column.kind in kept
        else column.model_copy(update={"role": "ignore"})
        for column in SCHEMA
    )
    out = folder(tmp_path, "features")
    split = stored(tmp_path, frame_of(60))
    features.write(split, data_of("unused"), Schema(columns=columns), out)
    found = features.read_matrix(out / "train")
    assert (found["numbers"].shape, found["categories"].shape) == ((60, widths[0]), (60, widths[1]))
    ready = compiled_arrow(features.load(out))(table_in(split / "train"))
    assert [ready[name].type.list_size for name in ("numbers", "categories")] == list(widths)
    assert len(ready) == 60


def test_quantiles_of_a_sample_where_rows_are_many(tmp_path, monkeypatch):
    frame = frame_of(6000)
    files = parts.files(stored(tmp_path, frame) / "train")
    monkeypatch.setattr(fitting, "SAMPLE", 2000)
    sampled = fitting.fitted(files, data_of("unused"), SCHEMA).statistics
    again = fitting.fitted(files[::-1], data_of("unused"), SCHEMA).statistics
    assert sampled == again.model_copy(update={"numbers": sampled.numbers})
    pay = sampled.numbers[1]
    assert pay.mean == pytest.approx(frame["pay"].mean())  # exact at any size
    assert pay.maximum == frame["pay"].max()
    assert pay.median != frame["pay"].median()
    assert pay.median == pytest.approx(frame["pay"].median(), rel=0.1)


def test_a_class_that_training_lacks_is_refused(tmp_path):
    validation = frame_of(10, seed=1).assign(label="never")
    split = stored(tmp_path, frame_of(60), validation)
    with pytest.raises(DataError, match="`never` does not occur among the training rows"):
        features.write(split, data_of("unused"), SCHEMA, folder(tmp_path, "out"))


def test_one_class_and_no_feature_are_refused(tmp_path):
    split = stored(tmp_path, frame_of(60).assign(label="yes"))
    with pytest.raises(DataError, match="every training row has the label `yes`"):
        features.fit(split / "train", data_of("unused"), SCHEMA)
    ignored = tuple(
        column if column.role == "label" else column.model_copy(update={"role": "ignore"})
        for column in SCHEMA
    )
    with pytest.raises(DataError, match="no column is a feature"):
        features.fit(split / "train", data_of("unused"), Schema(columns=ignored))


def test_no_rows_are_refused(tmp_path):
    with pytest.raises(DataError, match="no rows"):
        features.fit(UPath(tmp_path) / "nothing", data_of("unused"), SCHEMA)


def test_a_column_without_any_value(tmp_path):
    frame = frame_of(60).assign(pay=np.nan, city=None)
    statistics, out, _ = prepared(tmp_path, frame)
    found = features.read_matrix(out / "train")
    assert (found["numbers"][:, 1] == 0).all()
    assert (found["numbers"][:, 3] == 1).all()
    assert (found["categories"][:, 0] == 0).all()
    assert statistics.categories[0].values == ()
    json.loads((out / "statistics.json").read_text())
