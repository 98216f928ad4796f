"""The stage as a whole: every row is somewhere, and labels at hand are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from upath import UPath

from ray_pipeline.data import parts
from ray_pipeline.data.labels import stage
from ray_pipeline.job import Data, Label
from ray_pipeline.schema import Column, Schema

TEXTS = ["best tea", "bad tea", "plain", "best, not bad", "best", "bad", "best ever", "meh"]
FUNCTIONS = {
    "best": {"when": {"column": "text", "contains": "best"}, "vote": "good"},
    "bad": {"when": {"column": "text", "contains": "bad"}, "vote": "poor"},
    "cheap": {"when": {"column": "price", "below": 2.5}, "vote": "good"},
}
DATA = Data.model_validate({"source": "x", "label": "y"})
BARE = Schema(columns=(Column(name="text", kind="category"), Column(name="price", kind="number")))


def written(folder: Path, labels: list[str | None] | None, **settings: Any) -> tuple[dict, UPath]:
    cleaned, out = UPath(folder) / "cleaned", UPath(folder) / "out"
    table = pa.table({"text": TEXTS, "price": [1.0, 3, 3, 2, 3, 3, 3, 9]})
    schema = BARE
    if labels is not None:
        table = table.append_column("y", pa.array(labels, pa.string()))
        schema = schema.model_copy(
            update={"columns": (*BARE, Column(name="y", kind="category", role="label"))}
        )
        assert stage.unlabelled(schema, "y")["y"].role == "ignore"
    parts.written(table.slice(0, 5), cleaned / "rows" / "1.parquet")
    parts.written(table.slice(5, 2), cleaned / "rows" / "2.parquet")
    parts.written(table.slice(7), cleaned / "test" / "3.parquet")
    out.mkdir()
    wanted = Label.model_validate({"functions": FUNCTIONS, "combine": "majority"} | settings)
    return stage.write(cleaned, wanted, DATA, stage.labelled(schema, "y"), out=out), out


def rows(folder: UPath) -> list[dict[str, Any]]:
    return [row for path in parts.files(folder) for row in parts.read(path).to_pylist()]


@pytest.mark.parametrize("unvoted", ["quarantine", "unlabelled"])
def test_rows_get_the_label_that_most_functions_vote_for(
    unvoted: str, ray_cluster: None, tmp_path: Path
) -> None:
    record, out = written(tmp_path, None, unvoted=unvoted)
    found = {row["text"]: row["y"] for row in rows(out / "rows")}
    assert found == {
        "best tea": "good",
        "bad tea": "poor",
        "best, not bad": "good",
        "best": "good",
        "bad": "poor",
        "best ever": "good",
    }
    assert {row["text"] for row in rows(out / unvoted)} == {"plain", "meh"}
    assert record["rows_in"] == 8
    assert record["rows_in"] == record["rows_out"] + record["rows_quarantined"]
    assert record["rows_quarantined"] == (2 if unvoted == "quarantine" else 0)
    assert record["rows_unlabelled"] == (0 if unvoted == "quarantine" else 2)
    if unvoted == "quarantine":
        assert rows(out / "quarantine")[0]["reason"] == stage.UNVOTED
    assert list(rows(out / "rows")[0]) == ["text", "price", "y"]


def test_labels_at_hand_are_kept_and_judge_the_functions(ray_cluster: None, tmp_path: Path) -> None:
    record, out = written(tmp_path, ["poor", None, "poor", None, "good", None, None, "good"])
    found = {row["text"]: row["y"] for row in rows(out / "rows")}
    assert found["best tea"] == "poor"  # though two functions say otherwise
    assert found["plain"] == "poor"
    assert found["bad"] == "poor"
    assert rows(out / "test") == [{"text": "meh", "price": 9.0, "y": "good"}]
    [section] = record["findings"]
    lines = {line[0]: line for line in section["tables"][0]["rows"]}
    assert lines["best"][1:4] == ["57.1 %", "28.6 %", "14.3 %"]  # of the seven training rows
    assert lines["best"][5] == "50.0 % of 2"
    assert "4 rows had a label" in section["note"]
