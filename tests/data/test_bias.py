"""The report on groups before training, against pandas on the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from upath import UPath

from ray_pipeline.data import bias, parts
from ray_pipeline.job import Balance
from ray_pipeline.schema import Column, Schema


def rows(label: str, count: int = 3000) -> pa.Table:
    rng = np.random.default_rng(4)
    sex = rng.choice(["f", "m"], count, p=[0.3, 0.7])
    town = rng.choice(["Ulm", "Bonn", "Aach", "Neu"], count, p=[0.5, 0.47, 0.0285, 0.0015])
    columns: dict[str, Any] = {
        "age": pa.array(rng.normal(size=count), mask=(sex == "f") & (rng.random(count) < 0.2)),
        "sex": pa.array(sex, mask=rng.random(count) < 0.02),
        "town": pa.array(town),
    }
    score = rng.random(count) - 0.2 * (sex == "m")
    columns["y"] = {
        "two": pa.array(np.where(score < 0.1, "yes", "no")),
        "three": pa.array(np.array(["a", "b", "c"])[np.digitize(score, [0.1, 0.5])]),
        "value": pa.array(score),
    }[label]
    return pa.table(columns)


def schema(label: str) -> Schema:
    return Schema(
        columns=(
            Column(name="age", kind="number"),
            Column(name="sex", kind="category", role="ignore"),
            Column(name="town", kind="category"),
            Column(name="y", kind="number" if label == "value" else "category", role="label"),
        )
    )


def told(folder: Path, label: str, balance: Balance | None = None) -> dict[str, Any]:
    split, out = UPath(folder) / "split", UPath(folder) / "out"
    whole = rows(label)
    parts.written(whole.slice(0, 1000), split / "train" / "0.parquet")
    parts.written(whole.slice(1000), split / "train" / "1.parquet")
    parts.written(whole.slice(0, 500), split / "test" / "0.parquet")  # is not looked at
    out.mkdir()
    return bias.write(split, ("sex", "town"), balance, None, schema(label), out=out)


def table_named(record: dict[str, Any], start: str) -> dict[str, Any]:
    [section] = record["findings"]
    return next(table for table in section["tables"] if table["caption"].startswith(start))


def test_groups_are_counted_and_compared(ray_cluster: None, tmp_path: Path) -> None:
    record = told(tmp_path, "two", Balance(by=("sex",)))
    frame = rows("two").to_pandas()
    assert record["rows_in"] == record["rows_out"] == 3000
    found = {line[0]: line for line in table_named(record, "sex: ")["rows"]}
    assert found.keys() == {"f", "m", "(missing)"}
    for name, own in frame.groupby("sex"):
        _, count, share, missing, rate, interval, note = found[str(name)]
        assert int(count) == len(own)
        assert share == f"{len(own) / 30:.1f} %"
        assert missing == f"{50 * own['age'].isna().mean():.1f} %"  # of two features
        hits = int((own["y"] == "yes").sum())
        assert rate == f"{100 * hits / len(own):.1f} %"
        low, high = stats.binomtest(hits, len(own)).proportion_ci(method="wilson")
        assert interval == f"{100 * low:.1f} % to {100 * high:.1f} %"
        assert note == ""
    counts = frame.fillna({"sex": "-"}).groupby(["sex", "y"]).size().unstack(fill_value=0)
    test = record["disparities"]["sex"]
    assert test["p"] == pytest.approx(stats.chi2_contingency(counts).pvalue)
    rates = frame.groupby("sex")["y"].apply(lambda y: (y == "yes").mean())
    assert test["difference"] == pytest.approx(np.ptp(rates))
    assert test["p"] < 0.001
    assert record["disparities"]["town"]["p"] > 0.01
    weights = table_named(record, "Weights (reweigh)")
    assert weights["columns"] == ["sex", "y", "rows", "weight"]
    first = weights["rows"][0]
    men = frame[(frame["sex"] == "m") & (frame["y"] == "no")]
    expected = (frame["sex"] == "m").mean() * (frame["y"] == "no").mean() / (len(men) / 3000)
    assert first == ["m", "no", len(men), f"{expected:.3f}"]
    assert len(weights["rows"]) == 6
    assert [row[0] for row in table_named(record, "Classes")["rows"]] == ["no", "yes"]


def test_small_groups_warn_and_tiny_ones_are_not_named(ray_cluster: None, tmp_path: Path) -> None:
    record = told(tmp_path, "two")
    assert any("town: Aach has" in warning for warning in record["warnings"])
    assert any("f and Aach" in warning for warning in record["warnings"])
    pairs = table_named(record, "sex and town")
    assert "Neu" not in str(pairs)
    assert pairs["rows"][-1][0].endswith("with fewer than 5 rows")
    few = [line for line in pairs["rows"] if line[-1] == "too few rows to judge"]
    assert few
    assert all(int(line[1]) < bias.FEWEST for line in few)


@pytest.mark.parametrize("label", ["three", "value"])
def test_other_labels_are_compared_too(label: str, ray_cluster: None, tmp_path: Path) -> None:
    record = told(tmp_path, label)
    frame = rows(label).to_pandas().fillna({"sex": "-"})
    columns = table_named(record, "sex: ")["columns"]
    if label == "three":
        assert columns[4:7] == ["rate of b", "rate of c", "rate of a"]
        expected = stats.chi2_contingency(frame.groupby(["sex", "y"]).size().unstack(fill_value=0))
    else:
        assert columns[4:6] == ["mean label", "95 % interval"]
        expected = stats.f_oneway(*(own["y"] for _, own in frame.groupby("sex")))
    assert record["disparities"]["sex"]["p"] == pytest.approx(expected.pvalue)
