"""What Label Studio exported, recorded from its own server; and exports that are no such thing."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import asked_rows
import pyarrow.compute as pc
import pytest
from asked_rows import CLASSES, EXPORTS, SCHEMA
from upath import UPath

from ray_pipeline.data import parts
from ray_pipeline.data.labels import identity, label_studio, settled
from ray_pipeline.data.labels.label_studio import SKIPPED
from ray_pipeline.errors import DataError
from ray_pipeline.job import Label

IDS = identity.ids(asked_rows.rows(), identity.columns(SCHEMA)).tolist()
BOTH = [str(EXPORTS / "export.json"), str(EXPORTS / "export_min.json")]


def label(*places: str, **settings: Any) -> Label:
    return Label.model_validate({"annotations": places, **settings})


def test_the_recorded_tasks_are_those_that_are_made() -> None:
    """An id that changed would part every row from the answers that people gave."""
    exported = json.loads((EXPORTS / "export.json").read_text())
    assert {task["data"]["row"]: task["data"] for task in exported} == {
        task["data"]["row"]: task["data"] for task in asked_rows.made()
    }


@pytest.mark.parametrize("place", BOTH)
def test_answers_are_read_from_both_forms(place: str) -> None:
    answers, refused = label_studio.read([place])
    said = {(IDS.index(a.item), a.annotator): a.label for a in answers}
    one, two = sorted({a.annotator for a in answers})
    expected = {
        (0, one): "great", (0, two): "great",
        (1, one): "great", (1, two): "other",
        (2, two): "great",
        (3, one): "other", (3, two): "other",
        (4, one): "other", (4, two): "great",
    }  # fmt: skip
    assert said == expected
    skipped = {(IDS.index(one.item), one.annotator): one.reason for one in refused}
    assert skipped == ({} if "min" in place else {(2, one): SKIPPED})  # JSON-MIN leaves them out


def test_what_annotators_settled_on_is_laid_onto_rows() -> None:
    found, _, _ = settled.read(label(BOTH[0]))
    labels, met = found.labels(asked_rows.rows())
    assert labels.to_pylist() == ["great", None, "great", "other", "other", None]
    assert met == set(IDS[:5])
    # JSON-MIN has no ground truth: row 4 is a conflict
    found, _, _ = settled.read(label(BOTH[1]))
    labels, _ = found.labels(asked_rows.rows())
    assert labels.to_pylist() == ["great", None, "great", "other", None, None]


def test_a_column_more_does_not_part_rows_from_their_answers() -> None:
    found, _, _ = settled.read(label(BOTH[0]))
    rows = asked_rows.rows()
    labels, _ = found.labels(rows.append_column("later", rows["price"]).select([4, 2, 1, 0, 3]))
    assert labels.to_pylist() == ["great", None, "great", "other", "other", None]
    changed = rows.set_column(2, "price", pc.add(rows["price"], 1))  # null stays: row 2 is the same
    labels, met = found.labels(changed)
    assert labels.to_pylist() == [None, None, "great", None, None, None]
    assert met == {IDS[2]}
    assert found.labels(rows.drop_columns(["price"]))[1] == set()


def test_every_answer_is_used_or_refused(tmp_path: Path) -> None:
    found, answers, refused = settled.read(label(BOTH[0]))
    _, met = found.labels(asked_rows.rows().slice(0, 4))
    record, tables = settled.told(UPath(tmp_path), found, answers, refused, met)
    assert record["items"] == 3
    assert record["conflicts"] == 1
    assert record["refused"] == {settled.CONFLICT: 2, settled.UNKNOWN: 2, SKIPPED: 1}
    assert record["used"] + sum(record["refused"].values()) == 10
    kept = parts.read(UPath(tmp_path) / "annotations.parquet").to_pylist()
    aside = parts.read(UPath(tmp_path) / "refused.parquet").to_pylist()
    assert len(kept) + len(aside) == 10
    assert {line["label"] for line in kept if line["item"] == IDS[3]} == {"other"}
    assert IDS[4] in {line["item"] for line in aside if line["reason"] == settled.UNKNOWN}
    people, pairs, unused = tables
    assert [line[1] for line in people["rows"]] == [2, 3]
    assert pairs["rows"][0][1:3] == [4, "50.0 %"]  # rows 0, 1, 3, 4
    assert {line[0] for line in unused["rows"]} == set(record["refused"])


def task(answers: list[dict[str, Any]], row: Any = IDS[0], columns: Any = ("a",)) -> dict[str, Any]:
    return {"id": 1, "data": {"row": row, "columns": list(columns)}, "annotations": answers}


def answer(*choices: str, by: Any = 1, **more: Any) -> dict[str, Any]:
    parts_ = [{"type": "choices", "value": {"choices": list(choices)}}]
    return {"completed_by": by, "result": parts_, **more}


def read(folder: Path, *tasks: Any, classes: tuple[str, ...] = ()) -> tuple[list, list]:
    (folder / "export.json").write_text(json.dumps(tasks))
    return label_studio.read([str(folder / "export.json")], classes)


def test_an_annotators_latest_answer_counts_wherever_it_stands(tmp_path: Path) -> None:
    early = answer("great", updated_at="2026-01-01T00:00:00Z")
    late = answer("other", updated_at="2026-01-02T00:00:00Z")
    for order in ([early, late], [late, early]):
        answers, refused = read(tmp_path, task(order[:1]), task(order[1:]))
        assert [a.label for a in answers] == ["other"]
        assert not refused


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (task([answer("great", was_cancelled=True)]), SKIPPED),
        (task([answer()]), "no choice was made"),
        (task([{"completed_by": 1, "result": None}]), "no choice was made"),
        (task([{"completed_by": 1, "result": [{"type": "rating", "value": {"rating": 4}}]}]),
         "no choice was made"),
        (task([answer("great", "other")]), "several choices were made"),
        (task([answer("grand")]), "the choice is not one of `label.classes`"),
        (task([answer("great")], row="7"), "the task is not one of ours"),
        (task([answer("great")], row=None), "the task is not one of ours"),
        (task([answer("great")], columns=()), "the task is not one of ours"),
        ({"id": 3, "text": "another tool's line", "label": "great"}, "the task is not one of ours"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_kept_with_its_reason(
    given: dict[str, Any], why: str, tmp_path: Path
) -> None:
    answers, refused = read(tmp_path, given, task([answer("other", by=2)]), classes=CLASSES)
    assert [(a.label, a.annotator) for a in answers] == [("other", "2")]
    assert [one.reason for one in refused] == [why]


def test_addresses_are_counted_and_not_kept(tmp_path: Path) -> None:
    by = [{"email": "zoe@example.com"}, {"id": 5, "email": "ann@example.com"}, "bob@example.com"]
    answers, refused = read(tmp_path, task([answer("great", by=who) for who in (*by, None)]))
    assert sorted(a.annotator for a in answers) == ["5", "address 1", "address 2", "unknown"]
    assert "@" not in repr((answers, refused))


def test_three_annotators_by_majority_and_by_their_reliability() -> None:
    """Two who guess outvote one who knows; Dawid-Skene sees who agrees with the others."""
    reliable, guessing = ["ab"[n % 2] for n in range(60)], "aabb"
    said = []
    for number, truth in enumerate(reliable):
        votes = [truth, truth, "ab"["ab".index(truth) ^ (guessing[number % 4] == "b")]]
        said += [
            label_studio.Answer(f"{number:032x}", ("a",), str(who), vote)
            for who, vote in enumerate(votes)
        ]
    for method in ("majority", "dawid-skene"):
        found = settled.settled(said, method)  # type: ignore[arg-type]
        assert list(found.items[("a",)].values()) == reliable
    one_class = settled.settled([a for a in said if a.label == "a"], "dawid-skene")
    assert Counter(one_class.items[("a",)].values()).keys() == {"a"}


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"a": 1}', "a,b\n1,2\n"])
def test_a_file_that_is_no_export_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text(text)
    with pytest.raises(DataError, match=r"export\.json"):
        label_studio.read([str(tmp_path / "export.json")])


def test_an_export_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        label_studio.read([str(tmp_path / "none.json")])
