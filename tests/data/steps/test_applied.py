"""Steps over real blocks, by the clean stage: nothing lost, all counted, whatever the blocks."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from job_files import data_of, folder, table_in

from ray_pipeline.data import clean, collect
from ray_pipeline.data.steps import serving
from ray_pipeline.errors import DataError
from ray_pipeline.job import Clean

pytestmark = pytest.mark.usefixtures("ray_cluster")

STEPS = [
    {"text": {"columns": ["review"], "html": "strip"}},
    {"spelling": {"column": "state", "like": ["Rome", "Oslo"], "values": {"R": "Rome"}}},
    {"dates": {"column": "when", "formats": ["%d.%m.%Y"]}},
    {"units": {"column": "weight", "to": "kg"}},
    {"range": {"column": "age", "min": 0, "max": 120}},
    {"outliers": {"columns": ["a"]}},
    {"missing": {"columns": ["a", "b"], "with": "model"}},
    {"missing": {"columns": ["state"], "with": "drop"}},
    {"near_duplicates": {"column": "review", "threshold": 0.7}},
    {"language": {"column": "review", "keep": ["en"], "among": ["en", "de"]}},
]
COLUMNS = {
    **{"id": "integer", "review": "text", "state": "category", "when": "date"},
    **{"weight": "number", "age": "integer", "a": "number", "b": "number", "label": "category"},
}


SENTENCE = "cold tea with milk and bitter honey from a small shop"


def untidy(rows=200):
    rng = np.random.default_rng(0)
    words = np.array(f"{SENTENCE} near you".split())
    a = rng.normal(0, 1, rows)
    frame = pd.DataFrame(
        {
            "id": range(rows),
            "review": [f"<p>I had {' '.join(rng.permutation(words))}.</p>" for _ in range(rows)],
            "state": rng.choice(["R", "rome", "Oslo", "oslo"], rows),
            "when": rng.choice(["05.01.2013", "2013-02-01"], rows),
            "weight": rng.choice(["500 g", "2 lb", "1.5"], rows),
            "age": rng.integers(20, 90, rows),
            "a": a,
            "b": a * 2 + rng.normal(0, 0.1, rows),
            "label": rng.choice(["x", "y"], rows),
        }
    )
    frame.loc[3, "age"] = 130
    frame.loc[4, "a"] = 1e6
    frame.loc[[5, 6, 7], "b"] = np.nan
    frame.loc[8, "state"] = None
    frame.loc[10, "review"] = frame.loc[9, "review"].replace("small", "smalL ")
    frame.loc[11, "review"] = "Ich habe dort einen sehr guten Tee mit Milch getrunken."
    frame.loc[12, "weight"] = "5 nonsense"
    return frame


@pytest.fixture(scope="module")
def cleaned(tmp_path_factory, ray_cluster):
    root = tmp_path_factory.mktemp("steps")
    (root / "in").mkdir()
    frame = untidy()
    for part in range(3):
        frame.iloc[part::3].to_csv(root / f"in/{part}.csv", index=False)
    data = data_of(root / "in", columns=COLUMNS, clean={"steps": STEPS})
    schema = collect.schema(data)
    out = folder(root, "out")
    return data, schema, clean.write(data, schema, out), out


def test_nothing_is_lost_and_each_row_has_its_reason(cleaned):
    _, _, record, out = cleaned
    aside = table_in(out / "quarantine").to_pylist()
    assert record["rows_in"] == 200 == len(table_in(out / "rows")) + len(aside)
    assert record["quarantine"] == {
        "weight: expected number": 1,
        "age: outside 0 to 120": 1,
        "state: missing": 1,
        "near duplicate": 1,
        "review: another language": 1,
    }
    reasons = sorted(row["reason"] for row in aside)
    assert "review: another language, found de" in reasons
    assert any(reason.startswith("near duplicate, the same as row ") for reason in reasons)
    assert "weight: expected number, found '5 nonsense'" in reasons


def test_values_are_tidy(cleaned):
    rows = table_in(cleaned[3] / "rows").to_pandas().sort_values("id")
    assert set(rows["state"]) == {"Rome", "Oslo"}
    assert not rows["review"].str.contains("<").any()
    assert sorted(rows["weight"].unique()) == pytest.approx([0.5, 2 * 0.45359237, 1.5])
    assert set(rows["when"].dt.date.astype(str)) == {"2013-01-05", "2013-02-01"}
    assert rows["b"].notna().all()
    guessed = rows[rows["id"].isin([5, 6, 7])]
    assert (guessed["b"] - 2 * guessed["a"]).abs().max() < 1


def test_outliers_are_bounded_as_pandas_would(cleaned):
    _, _, record, out = cleaned
    left = untidy().drop(index=[3, 12])["a"]
    low, high = left.quantile([0.25, 0.75])
    high += 1.5 * (high - low)
    (step,) = [
        s["range"] for s in record["fitted"]["steps"] if s.get("range", {}).get("column") == "a"
    ]
    assert step["max"] == pytest.approx(high)
    assert table_in(out / "rows").to_pandas()["a"].max() == pytest.approx(high)


def test_counts_are_in_the_record_and_the_report(cleaned):
    record = cleaned[2]
    found = {(step["step"], step["column"]): step for step in record["steps"]}
    assert found["text", "review"]["kinds"]["html"] == 198
    assert found["units", "weight"]["changed"] > 100
    assert found["missing", "b"]["kinds"] == {"filled": 3}
    assert found["missing", "b"]["before"]["missing"] == 3
    assert found["missing", "b"]["after"]["missing"] == 0
    assert found["near_duplicates", "review"]["quarantined"] == 1
    (finding,) = record["findings"]
    assert len(finding["tables"][0]["rows"]) == len(record["steps"]) == 11
    assert "Tee mit Milch" not in json.dumps(record["steps"])


def test_what_a_bundle_keeps(cleaned):
    data, schema, record, _ = cleaned
    served = serving.served(data.clean, record["fitted"], schema)
    names = [next(iter(step)) for step in served["steps"]]
    assert names == ["text", "spelling", "dates", "units", "range", "missing"]
    assert served["steps"][4]["range"]["column"] == "a"
    assert serving.served(Clean(), None, schema) == {}


def test_a_label_that_a_step_empties_is_missing(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("a,label\n1,x\n2,Y\n3,z\n4,x\n")
    step = {"spelling": {"column": "label", "like": ["x", "y"], "other": "missing"}}
    data = data_of(path, clean={"steps": [step], "max_quarantined": 0.5})
    out = folder(tmp_path, "out")
    record = clean.write(data, collect.schema(data), out)
    assert table_in(out / "rows")["label"].to_pylist() == ["x", "y", "x"]
    assert record["quarantine"] == {"label: missing label": 1}


def test_training_rows_near_a_test_row_go_and_the_test_file_teaches_nothing(tmp_path):
    text = "I had cold tea with milk and bitter honey from a small shop near you"
    (tmp_path / "a.csv").write_text(
        f"t,n,label\n{text},1,x\nquite another thing to say,2,y\nand one more of these,3,x\n"
    )
    (tmp_path / "t.csv").write_text(f"t,n,label\n{text} too,9000,y\n")
    steps = [
        {"near_duplicates": {"column": "t"}},
        {"outliers": {"columns": ["n"], "method": "zscore", "bound": 1}},
    ]
    data = data_of(
        tmp_path / "a.csv",
        test=str(tmp_path / "t.csv"),
        columns={"t": "text", "n": "number"},
        clean={"steps": steps},
    )
    out = folder(tmp_path, "out")
    record = clean.write(data, collect.schema(data), out)
    assert record["quarantine"] == {"near duplicate of a test row": 1}
    assert table_in(out / "test")["n"].to_pylist() == [3.0]  # 2.5 + 0.5, of the rows that stayed


def test_rows_set_aside_by_steps_count_as_unusable(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("a,label\n" + "".join(f"{n},{'xy'[n % 2]}\n" for n in range(10)))
    data = data_of(path, clean={"steps": [{"range": {"column": "a", "max": 4}}]})
    with pytest.raises(DataError, match="5 of 10 rows cannot be used: a: above 4"):
        clean.write(data, collect.schema(data), folder(tmp_path, "out"))
