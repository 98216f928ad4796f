"""Files predicted by Ray Data: every row comes out, predicted or with the reason why not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from small_bundles import FEATURES, raw_rows
from upath import UPath

from ray_pipeline import jobfile
from ray_pipeline.bundle import Bundle
from ray_pipeline.deploy import batch, runtime, sinks
from ray_pipeline.errors import BundleError, DataError, UsageError
from ray_pipeline.job import Source

pytestmark = pytest.mark.usefixtures("ray_cluster")

NAMES = [column.name for column in FEATURES]


def table_of(count: int, seed: int = 3) -> pa.Table:
    """Raw rows with the label and a column that the model does not know."""
    rows = raw_rows(count, seed)
    ids = [f"id{index}" for index in range(count)]
    return pa.table({"id": ids, **rows, "income": [">50K"] * count})


def expected(bundle: Bundle, table: pa.Table) -> np.ndarray:
    columns = runtime.columns_from_table(table, bundle.manifest.schema)
    return runtime.Predictor(bundle).predict(columns)


def tolerance(bundle: Bundle) -> float:
    # Dynamic int8 scales inputs over a batch, and files are read in other batches.
    return 1e-6 if bundle.manifest.parity["form"] == "fp32" else 0.02


def probabilities(table: pa.Table, bundle: Bundle) -> np.ndarray:
    rows = table["probabilities"].to_pylist()
    return np.array([[row[name] for name in bundle.manifest.classes or ()] for row in rows])


def test_a_csv_with_rows_that_cannot_be_used(classifier, tmp_path):
    table = table_of(60)
    source, output = tmp_path / "rows.csv", tmp_path / "new" / "out.parquet"
    pacsv.write_csv(table, source, pacsv.WriteOptions(quoting_style="needed"))
    lines = source.read_text().splitlines()
    lines.insert(11, 'x,old,1,true,Paris,clerk,">50K"')  # text where a number belongs
    lines.insert(31, "x,1,1,true,Paris,clerk,>50K,more")
    lines.insert(41, "x,1,1")
    source.write_text("\n".join(lines) + "\n")

    record = batch.predicted(str(classifier.bundle.path), str(source), str(output))

    quarantine = pq.read_table(record["quarantine"])
    assert record == {
        "rows_in": 63,
        "rows_out": 60,
        "rows_quarantined": 3,
        "output": str(output),
        "quarantine": f"{output}.quarantine.parquet",
        "version": "v1",
    }
    assert quarantine.column_names == ["source", "row", "reason", "raw"]
    assert len(quarantine) == 3
    assert all(quarantine["reason"].to_pylist())
    assert any("age" in reason for reason in quarantine["reason"].to_pylist())
    found = pq.read_table(output)
    assert found.column_names == ["id", *NAMES, "income", *batch.ADDED]
    assert found["id"].to_pylist() == table["id"].to_pylist()
    assert found["age"].to_pylist() == table["age"].to_pylist()
    assert found["income"].to_pylist() == [">50K"] * 60
    outputs = expected(classifier.bundle, table)
    np.testing.assert_allclose(
        probabilities(found, classifier.bundle), outputs, atol=tolerance(classifier.bundle)
    )
    best = probabilities(found, classifier.bundle).argmax(1)
    assert found["prediction"].to_pylist() == [classifier.bundle.manifest.classes[k] for k in best]
    np.testing.assert_array_equal(
        found["probability"], probabilities(found, classifier.bundle).max(1)
    )


@pytest.mark.parametrize("labelled", [True, False])
def test_a_csv_without_a_header(classifier, tmp_path, labelled):
    table = table_of(20).select([*NAMES, "income"] if labelled else NAMES)
    plain = pacsv.WriteOptions(include_header=False, quoting_style="needed")
    pacsv.write_csv(table, tmp_path / "rows.csv", plain)
    batch.predicted(
        str(classifier.bundle.path), str(tmp_path / "rows.csv"), f"{tmp_path}/o.parquet"
    )
    found = pq.read_table(tmp_path / "o.parquet")
    assert found.column_names == [*table.column_names, *batch.ADDED]
    np.testing.assert_allclose(
        probabilities(found, classifier.bundle),
        expected(classifier.bundle, table),
        atol=tolerance(classifier.bundle),
    )


def test_a_first_line_that_is_a_remark(classifier, tmp_path):
    plain = pacsv.WriteOptions(include_header=False, quoting_style="needed")
    pacsv.write_csv(table_of(20).select([*NAMES, "income"]), tmp_path / "rows.csv", plain)
    rows = (tmp_path / "rows.csv").read_text()
    (tmp_path / "rows.csv").write_text(f"|1x3 Cross validator\n{rows}")
    record = batch.predicted(
        str(classifier.bundle.path), f"{tmp_path}/rows.csv", f"{tmp_path}/out.parquet"
    )
    assert (record["rows_out"], record["rows_quarantined"]) == (20, 1)
    assert pq.read_table(record["quarantine"])["raw"].to_pylist() == ["|1x3 Cross validator"]


def test_tabs_and_compression(classifier, tmp_path):
    tabs = pacsv.WriteOptions(delimiter="\t", quoting_style="needed")
    with pa.output_stream(tmp_path / "rows.tsv.gz", compression="gzip") as file:
        pacsv.write_csv(table_of(20), file, tabs)
    record = batch.predicted(
        str(classifier.bundle.path), f"{tmp_path}/rows.tsv.gz", f"{tmp_path}/out.parquet"
    )
    assert (record["rows_out"], record["rows_quarantined"]) == (20, 0)


def test_other_columns_of_parquet_keep_their_types(classifier, tmp_path):
    table = table_of(3)
    times = pa.array([0, None, 10**15], pa.timestamp("us"))
    extra = {"n": pa.array([1, None, 3], pa.int32()), "x": [0.1, None, 1e300], "t": times}
    for name, values in extra.items():
        table = table.append_column(name, pa.array(values))
    pq.write_table(table, tmp_path / "rows.parquet")
    batch.predicted(
        str(classifier.bundle.path), f"{tmp_path}/rows.parquet", f"{tmp_path}/out.parquet"
    )
    found = pq.read_table(tmp_path / "out.parquet")
    for name in ("id", "income", *extra):
        assert found[name].equals(table[name]), name


def test_many_files_into_one_csv_in_order(classifier, tmp_path):
    table = table_of(9000)
    (tmp_path / "in").mkdir()
    for part in range(3):
        pq.write_table(table.slice(part * 3000, 3000), tmp_path / f"in/{part}.parquet")
    record = batch.predicted(
        str(classifier.bundle.path), f"{tmp_path}/in/*.parquet", f"{tmp_path}/out.csv"
    )
    found = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    assert (record["rows_in"], record["rows_out"], record["quarantine"]) == (9000, 9000, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out.csv"]
    assert found["id"].tolist() == table["id"].to_pylist()
    classes = classifier.bundle.manifest.classes
    by_class = np.array([[json.loads(text)[c] for c in classes] for text in found["probabilities"]])
    np.testing.assert_allclose(
        by_class, expected(classifier.bundle, table), atol=tolerance(classifier.bundle)
    )


def test_json_lines_of_values(regressor, tmp_path):
    table = table_of(30)
    rows = [
        {name: None if value != value else value for name, value in row.items()}
        for row in table.set_column(2, "hours a week", [[1.5, None, float("nan")] * 10]).to_pylist()
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    batch.predicted(str(regressor.bundle.path), f"{tmp_path}/in.jsonl", f"{tmp_path}/out.jsonl")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in found] == table["id"].to_pylist()
    assert all(set(row) == {"id", *NAMES, "income", "prediction"} for row in found)
    outputs = expected(regressor.bundle, pa.Table.from_pylist(rows))
    deviation = regressor.statistics.label.deviation
    np.testing.assert_allclose(
        [row["prediction"] for row in found], outputs, atol=tolerance(regressor.bundle) * deviation
    )


def test_what_was_there_before_is_replaced(classifier, tmp_path):
    source, output = tmp_path / "rows.csv", tmp_path / "out.csv"
    source.write_text("age,hours a week,member,ville,job\n1,2,true,a,b\nx,2,true,a,b\n")
    record = batch.predicted(str(classifier.bundle.path), str(source), str(output))
    assert record["rows_quarantined"] == 1
    source.write_text("age,hours a week,member,ville,job\n1,2,true,a,b\n")
    record = batch.predicted(str(classifier.bundle.path), str(source), str(output))
    assert (record["rows_in"], record["rows_quarantined"]) == (1, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "rows.csv"]


def test_a_file_in_which_no_row_can_be_used(classifier, tmp_path):
    (tmp_path / "rows.csv").write_text("age,hours a week,member,ville,job\nx,2,true,a,b\n")
    record = batch.predicted(
        str(classifier.bundle.path), f"{tmp_path}/rows.csv", f"{tmp_path}/out.parquet"
    )
    assert (record["rows_out"], record["rows_quarantined"]) == (0, 1)
    found = pq.read_table(tmp_path / "out.parquet")
    assert (len(found), found.column_names) == (0, [*NAMES, *batch.ADDED])


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("age,hours a week,member,ville", "no column is called `job`"),
        ("age,hours a week,member,ville,job,prediction", "`prediction` already"),
    ],
)
def test_columns_that_do_not_fit(classifier, tmp_path, header, message):
    (tmp_path / "rows.csv").write_text(f"{header}\n{'1,' * header.count(',')}1\n")
    with pytest.raises(DataError, match=message):
        batch.predicted(
            str(classifier.bundle.path), f"{tmp_path}/rows.csv", f"{tmp_path}/out.parquet"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_files_that_are_not_there(classifier, tmp_path):
    with pytest.raises(DataError):
        batch.predicted(str(classifier.bundle.path), f"{tmp_path}/no.csv", f"{tmp_path}/o.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DataError, match="empty"):
        batch.predicted(str(classifier.bundle.path), f"{tmp_path}/empty.csv", f"{tmp_path}/o.csv")
    with pytest.raises(BundleError):
        batch.predicted(str(tmp_path), f"{tmp_path}/empty.csv", f"{tmp_path}/o.csv")


@pytest.mark.parametrize("name", ["out", "out.xlsx", "out.parquet.gz"])
def test_an_output_of_another_kind(classifier, tmp_path, name):
    with pytest.raises(UsageError) as caught:
        batch.predicted(str(classifier.bundle.path), "rows.csv", str(tmp_path / name))
    assert caught.value.expected == ".parquet, .csv, .jsonl"


@pytest.mark.parametrize("suffix", sinks.SINKS)
def test_an_interrupted_output_leaves_what_was_there(tmp_path: Path, suffix):
    target = UPath(tmp_path / f"out{suffix}")
    with sinks.whole(target) as write:
        assert write(pa.table({"a": [1, 2]})) == 2
    before = target.read_bytes()

    def interrupted() -> None:
        with sinks.whole(target) as write:
            write(pa.table({"a": [3]}))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_an_output_in_an_object_store():
    target = UPath("memory://outputs/out.parquet")
    with sinks.whole(target) as write:
        write(pa.table({"a": [1]}))
        write(pa.table({"a": [2]}))
    with target.open("rb") as file:
        assert pq.read_table(file)["a"].to_pylist() == [1, 2]
    assert not UPath("memory://outputs/out.parquet.part").exists()


def test_a_databases_table_and_a_query(classifier, tmp_path):
    table = table_of(40)
    url = f"sqlite:///{tmp_path}/rows.db"
    frame = table.to_pandas().assign(amount=range(40))
    engine = sa.create_engine(url)
    frame.to_sql("rows", engine, index=False)
    with engine.begin() as connection:  # SQLite takes any value in any column
        connection.execute(sa.text("UPDATE rows SET age = 'old' WHERE id = 'id7'"))
    output = str(tmp_path / "out.parquet")
    record = batch.predicted(str(classifier.bundle.path), Source(url=url, table="rows"), output)
    assert (record["rows_in"], record["rows_out"]) == (40, 39)
    found = pq.read_table(output)
    kept = table.filter(pc.not_equal(table["id"], "id7"))
    assert found["id"].to_pylist() == kept["id"].to_pylist()
    assert found.schema.field("amount").type == pa.int64()
    wanted = expected(classifier.bundle, kept)
    assert np.allclose(
        probabilities(found, classifier.bundle), wanted, atol=tolerance(classifier.bundle)
    )
    some = jobfile.source(url, query="SELECT * FROM rows WHERE amount >= 30")
    assert batch.predicted(str(classifier.bundle.path), some, output)["rows_out"] == 10


def test_an_input_that_no_job_could_name(tmp_path):
    with pytest.raises(UsageError, match="holds a password") as raised:
        jobfile.source("postgresql://u:hunter2@h/d", table="t")
    assert "hunter2" not in str(raised.value)
    with pytest.raises(UsageError, match="need the URL of a database"):
        jobfile.source("rows.csv", table="t")
