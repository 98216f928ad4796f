"""Weights against the formula of Kamiran & Calders on pandas' counts, and scikit-learn's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sklearn.utils.class_weight import compute_sample_weight
from upath import UPath

from ray_pipeline.data import balance, cells, features, parts
from ray_pipeline.errors import JobError
from ray_pipeline.job import Balance, Data
from ray_pipeline.schema import Column, Schema

SCHEMA = Schema(
    columns=(
        Column(name="age", kind="integer"),
        Column(name="sex", kind="category", role="ignore"),
        Column(name="town", kind="category"),
        Column(name="y", kind="category", role="label"),
    )
)


def people(rows: int = 4000, seed: int = 0) -> pa.Table:
    """People of whom the women are poorer; some have no sex given."""
    rng = np.random.default_rng(seed)
    sex = rng.choice(["f", "m"], rows, p=[0.3, 0.7])
    rich = rng.random(rows) < np.where(sex == "m", 0.3, 0.1)
    return pa.table(
        {
            "age": pa.array(rng.integers(0, 10**6, rows), mask=rng.random(rows) < 0.1),
            "sex": pa.array(sex, mask=rng.random(rows) < 0.05),
            "town": pa.array(rng.choice(["Ulm", "Bonn"], rows)),
            "y": pa.array(np.where(rich, "yes", "no")),
        }
    )


def weights_of(table: pa.Table, **settings: object) -> balance.Weights:
    wanted = Balance.model_validate(settings)
    return balance.weighed(cells.cells_of(table, wanted.by, SCHEMA), wanted, SCHEMA)


@pytest.mark.parametrize("by", [("sex",), ("sex", "town")])
def test_a_row_weighs_what_kamiran_and_calders_say(by: tuple[str, ...]) -> None:
    table = people()
    frame = table.to_pandas().fillna({"sex": "(missing)"})
    share = frame.groupby([*by, "y"])["y"].transform("size") / len(frame)
    of_group = frame.groupby([*by])["y"].transform("size") / len(frame)
    of_class = frame.groupby("y")["y"].transform("size") / len(frame)
    found = weights_of(table, by=by).of(table)
    np.testing.assert_allclose(found, of_group * of_class / share, rtol=1e-6)
    weighted = frame.assign(w=found, yes=found * (frame["y"] == "yes")).groupby([*by])
    rates = weighted["yes"].sum() / weighted["w"].sum()
    np.testing.assert_allclose(rates, (frame["y"] == "yes").mean(), rtol=1e-5)
    assert found.mean() == pytest.approx(1)


def test_balanced_classes_are_scikit_learns() -> None:
    table = people()
    expected = compute_sample_weight("balanced", table["y"].to_pylist())
    np.testing.assert_allclose(weights_of(table, classes="balanced").of(table), expected, rtol=1e-6)


def test_groups_and_classes_balanced_together_are_equal_shares() -> None:
    table = people()
    found = weights_of(table, by=["sex"], classes="balanced").of(table)
    frame = table.to_pandas().fillna({"sex": "(missing)"}).assign(w=found)
    totals = frame.pivot_table("w", "sex", "y", "sum")
    np.testing.assert_allclose(totals["no"], totals["yes"], rtol=1e-5)
    sizes = frame.groupby("sex").size()
    np.testing.assert_allclose(totals.sum(axis=1), sizes, rtol=1e-5)


def test_resampling_makes_the_counts_that_reweighing_weighs() -> None:
    table = people(20_000)
    prepared = pa.table({"place": np.arange(len(table))})
    resampled = weights_of(table, by=["sex"], method="resample").applied(prepared, table)
    again = weights_of(table, by=["sex"], method="resample").applied(prepared, table)
    assert resampled.equals(again)
    places = resampled["place"].to_numpy()
    weight = weights_of(table, by=["sex"]).of(table)
    expected = pd.Series(weight).groupby([table["sex"].to_pandas(), table["y"].to_pandas()]).sum()
    drawn = table.take(pa.array(places)).to_pandas().groupby(["sex", "y"]).size()
    assert (abs(drawn - expected) < 4 * np.sqrt(expected)).all()  # roundings are by chance
    copies = np.bincount(places, minlength=len(table))
    assert ((copies == np.floor(weight)) | (copies == np.ceil(weight))).all()


def test_resampling_does_not_hang_on_the_order_of_the_rows() -> None:
    table = people(500)
    order = np.random.default_rng(1).permutation(len(table))
    weights = weights_of(table, by=["sex"], method="resample")
    ages = pa.table({"age": table["age"], "town": table["town"]})
    one = weights.applied(ages, table).sort_by("age")
    other = weights.applied(ages.take(order), table.take(order)).sort_by("age")
    assert one["age"].equals(other["age"])


def test_a_class_that_a_group_lacks_is_not_invented() -> None:
    table = people()
    poor = pc.and_(pc.equal(table["sex"], "f"), pc.equal(table["y"], "yes"))
    rest = table.filter(pc.invert(pc.fill_null(poor, False)))
    found = weights_of(rest, by=["sex"])
    assert found.of(rest).mean() < 1
    assert balance.described(found)["effective_rows"] < len(rest)


def test_weights_are_in_the_prepared_training_rows_alone(ray_cluster: None, tmp_path: Path) -> None:
    split, out = UPath(tmp_path) / "split", UPath(tmp_path) / "out"
    whole = people(900)
    for index in range(3):
        parts.written(whole.slice(300 * index, 300), split / "train" / f"{index}.parquet")
    parts.written(people(200, seed=1), split / "validation" / "0.parquet")
    data = Data.model_validate({"source": "x", "label": "y", "balance": {"by": ["sex"]}})
    out.mkdir()
    record = features.write(split, data, SCHEMA, out)
    assert record["rows_in"] == record["rows_out"] == 1100
    assert record["balance"]["rows"] == 900
    expected = weights_of(whole, by=["sex"]).of(whole)
    np.testing.assert_array_equal(features.read_matrix(out / "train")["weight"], expected)
    assert "weight" not in features.read_matrix(out / "validation")
    assert [column.name for column in features.load(out).categories] == ["town"]


@pytest.mark.parametrize(
    ("settings", "schema", "said"),
    [
        ({"by": ("sexx",)}, SCHEMA, "no column is called `sexx`"),
        ({"by": ("y",)}, SCHEMA, "is the label"),
        (
            {"classes": "balanced"},
            Schema(columns=(Column(name="y", kind="number", role="label"),)),
            "no classes to balance",
        ),
    ],
)
def test_settings_that_the_columns_do_not_allow(
    settings: dict[str, object], schema: Schema, said: str
) -> None:
    with pytest.raises(JobError, match=said):
        balance.check(Balance.model_validate(settings), schema)
