"""From a file without labels to tasks, to answers, to labelled rows: through the whole path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from small_bundles import Exported, raw_rows
from upath import UPath

from ray_pipeline import audit, cli, jobfile, pipeline
from ray_pipeline.data import parts
from ray_pipeline.data.labels import annotate, identity, stage
from ray_pipeline.data.labels.annotate import Wanted
from ray_pipeline.data.labels.settled import Settled
from ray_pipeline.errors import DataError, JobError, UsageError
from ray_pipeline.job import Label
from ray_pipeline.runs import Record, Stage

NOUNS = ("tea", "coffee", "soup", "bread", "cake", "rice", "salt", "jam")
RULES = {
    "praise": {"when": {"column": "review", "contains": "best"}, "vote": "great"},
    "blame": {"when": {"column": "review", "contains": "bad"}, "vote": "other"},
    "dear": {"when": {"column": "price", "above": 6}, "vote": "other"},
}


class Silent:
    """Watches a run and tells nobody."""

    def started(self, stage: str) -> None:
        """Nothing is shown."""

    def event(self, stage: str, event: Record) -> None:
        """Nothing is shown."""

    def ended(self, stage: Stage) -> None:
        """Nothing is shown."""


def reviews() -> list[tuple[str, int, str]]:
    """Clear ones, some on which functions disagree, some of which none says anything."""
    words = ("best", "bad", "best", "plain")
    return [
        (f"{words[n % 4]} {noun} of {noun}s", n % 9, f"customer{n}")
        for n, noun in enumerate(NOUNS * 5)
    ]


@pytest.fixture
def job(ray_cluster: None, tmp_path: Path) -> Path:
    """A job over a CSV file without a header, and without the column that it is to predict."""
    lines = [",".join(map(str, review)) for review in reviews()]
    (tmp_path / "reviews.csv").write_text("\n".join(lines) + "\n")
    settings = {
        "name": "tea",
        "storage": "storage",
        "data": {
            "source": "reviews.csv",
            "header": False,
            "label": "verdict",
            "columns": {
                "review": "text",
                "price": "integer",
                "who": {"kind": "category", "role": "ignore"},
            },
            "privacy": {"find": "off", "subject": "who"},
        },
        "label": {"functions": RULES, "unvoted": "unlabelled"},
    }
    (tmp_path / "tea.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return tmp_path / "tea.yaml"


def asked(path: Path, wanted: Wanted, *overrides: str) -> tuple[list[dict[str, Any]], Record]:
    out = UPath(path.parent) / "tasks.json"
    told = pipeline.annotated(jobfile.read(path, overrides), wanted, out, Silent())
    return json.loads(out.read_text()), told


def answered(path: Path, tasks: list[dict[str, Any]], *labels: str) -> str:
    """Two people's answers to `tasks`, all the same, as Label Studio exports them."""
    for number, task in enumerate(tasks):
        value = {"choices": [labels[number % len(labels)]]}
        result = [{"from_name": "label", "to_name": "review", "type": "choices", "value": value}]
        task["annotations"] = [
            {"id": 2 * number + by, "completed_by": by, "was_cancelled": False, "result": result}
            for by in (1, 2)
        ]
    (path.parent / "export.json").write_text(json.dumps(tasks))
    return "label.annotations=[export.json]"


def labelled_rows(path: Path, *overrides: str) -> tuple[dict[tuple[str, int], str], Record]:
    """The label of each training row by review and price, and the record of the label stage."""
    record = pipeline.run(jobfile.read(path, overrides), Silent(), until="label")
    made = record["stages"][-1]
    folder = UPath(path.parent) / "storage/tea/stages" / f"label-{made['digest']}" / "rows"
    rows = [row for file in parts.files(folder) for row in parts.read(file).to_pylist()]
    return {(row["review"], row["price"]): row["verdict"] for row in rows}, made


def test_from_rows_without_labels_to_answers_that_label_them(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["validate", str(job)]) == 0
    assert "verdict" in capsys.readouterr().out

    tasks, told = asked(job, Wanted(12, "uncertainty"))
    assert told["classes"] == ["great", "other"]
    for task in tasks:  # where functions disagree, or say nothing
        review, price = task["data"]["review"], task["data"]["values"]["price"]
        assert ("best" in review and price > 6) or ("plain" in review and price <= 6)
    assert "customer" not in json.dumps(tasks)  # no feature: whose review it is, is not shown
    assert [e["action"] for e in audit.entries(job.parent / "storage")][-1] == "annotate"

    answers = answered(job, tasks, "great", "other")
    labels, made = labelled_rows(job, answers)
    for number, task in enumerate(tasks):
        row = task["data"]["review"], task["data"]["values"]["price"]
        assert labels[row] == ("great", "other")[number % 2]
    assert made["record"]["annotations"]["items"] == 12
    assert made["record"]["annotations"]["alpha"] == 1.0
    assert made["rows_in"] == made["rows_out"] + made["rows_quarantined"] == 40

    again, _ = asked(job, Wanted(40, "uncertainty"), answers)
    assert not {t["data"]["row"] for t in again} & {t["data"]["row"] for t in tasks}
    assert labelled_rows(job, answers)[1]["cached"]  # the same answers are the same labels


def test_a_start_from_nothing(job: Path) -> None:
    bare = "label={unvoted: unlabelled, classes: [great, other, broken]}"
    with pytest.raises(DataError, match="no row got a label"):
        pipeline.run(jobfile.read(job, [bare]), Silent(), until="split")
    with pytest.raises(JobError, match="0 classes are known"):
        asked(job, Wanted(4), "label={unvoted: unlabelled}")
    tasks, told = asked(job, Wanted(4, "diversity", columns=("who", "price")), bare)
    assert told == {**told, "tasks": 4, "predicted": 0, "classes": ["great", "other", "broken"]}
    prices = {task["data"]["values"]["price"] for task in tasks}
    assert {0, 8} < prices  # far from each other
    assert all(task["data"].keys() == {"row", "columns", "values"} for task in tasks)
    assert all(task["data"]["values"]["who"].startswith("customer") for task in tasks)
    with pytest.raises(JobError, match="every row of this job has a label"):
        asked(job, Wanted(4), "label=null")


def clean_stage(folder: Path, made: Exported, labels: list[str | None]) -> UPath:
    rows = pa.table(raw_rows(len(labels)), schema=made.schema.arrow().remove(5))
    rows = rows.append_column("income", pa.array(labels, pa.string()))
    parts.written(rows, UPath(folder) / "clean/rows/0.parquet")
    return UPath(folder) / "clean"


def test_a_bundle_says_what_is_uncertain_and_suspects_come_first(
    ray_cluster: None, voting_bundle: Exported, tmp_path: Path
) -> None:
    labels = ["<=50K", ">50K", None, None] * 20
    settings = Label.model_validate({"unvoted": "unlabelled", "errors": "ask"})
    cleaned = clean_stage(tmp_path, voting_bundle, labels)
    rows = parts.read(cleaned / "rows/0.parquet")
    of = identity.columns(voting_bundle.schema)
    suspect = identity.ids(rows, of)[4]
    out = UPath(tmp_path) / "label"
    doubted = {"item": [suspect], "suggested": [">50K"], "other": [0.9]}
    parts.written(pa.table(doubted), out / "suspects.parquet")
    bundle = str(voting_bundle.bundle.path)

    def written(wanted: Wanted) -> Record:
        place = UPath(tmp_path) / "tasks.json"
        return annotate.written(cleaned, out, settings, voting_bundle.schema, wanted, out=place)

    for wrong, said in (
        (Wanted(4, "uncertainty"), "how sure"),
        (Wanted(4, columns=("whom",)), "no column is called `whom`"),
        (Wanted(0), "0 tasks"),
    ):
        with pytest.raises(UsageError, match=said):
            written(wrong)
    told = written(Wanted(10, "both", bundle))
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert told == {**told, "tasks": 10, "suspects": 1, "predicted": 10}
    assert tasks[0]["data"]["row"] == suspect
    assert tasks[0]["predictions"][0]["model_version"] == "confident learning"
    given, _ = stage.at_hand(rows, voting_bundle.schema, Settled({}))
    free = {i for i, own in zip(identity.ids(rows, of), given.to_pylist(), strict=True) if not own}
    assert {task["data"]["row"] for task in tasks[1:]} <= free
    assert {t["predictions"][0]["model_version"] for t in tasks[1:]} == {Path(bundle).name}
    assert len({task["data"]["row"] for task in tasks}) == 10
