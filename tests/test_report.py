"""The page: whole and honest whatever the record holds or lacks."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from upath import UPath

from ray_pipeline import report

VOID = {"meta", "br", "link", "img", "hr", "input"}


def record() -> dict[str, Any]:
    """A run as the path leaves it, small."""
    judged = {
        "accuracy": 0.86,
        "f1": 0.67,
        "roc_auc": 0.91,
        "log_loss": 0.31,
        "about": {
            "task": "classification",
            "split": "test",
            "rows": 1000,
            "positive": "yes",
            "resamples": 500,
            "confidence": 0.95,
        },
        "intervals": {"accuracy": [0.84, 0.88], "roc_auc": [None, None]},
        "baseline": {"predicts": "no", "accuracy": 0.76, "f1": 0.0, "log_loss": 0.55},
        "validation": {"accuracy": 0.865},
        "classes": {
            "no": {"precision": 0.9, "recall": 0.93, "f1": 0.91, "support": 760},
            "yes": {"precision": 0.75, "recall": 0.6, "f1": 0.67, "support": 240},
        },
        "confusion": {"classes": ["no", "yes"], "counts": [[707, 53], [96, 144]]},
        "calibration": [
            {"probability": 0.1, "observed": 0.12, "rows": 700},
            {"probability": 0.8, "observed": 0.75, "rows": 300},
        ],
        "groups": {
            "sex": {
                "values": {
                    "Male": {"rows": 600, "accuracy": 0.84, "true_positive_rate": 0.6},
                    "Female": {"rows": 400, "accuracy": 0.89, "true_positive_rate": None},
                },
                "accuracy_difference": 0.05,
            }
        },
    }
    columns = {
        "age": {"kind": "integer", "missing": 0, "distinct": 60, "min": 17, "max": 90, "mean": 38.5}
        | {"histogram": [3, 9, 4, 0, 1]},
        "job": {"kind": "category", "missing": 150, "distinct": 900}
        | {"top": [["clerk", 600], ["astronaut", 2]]},
    }
    passed = [
        stage("clean", 2.0, rows_in=3000, rows_out=2990, rows_quarantined=10)
        | {
            "record": {
                "rows_in": 3000,
                "rows_out": 2990,
                "rows_quarantined": 10,
                "quarantine": {"too many fields": 7, "label is missing": 3},
                "columns": columns,
            }
        },
        stage("split", 0.5)
        | {"record": {"rows": {"train": 1690, "validation": 300, "test": 1000}}},
        stage("tune", 30.0, cached=True),
        stage("train", 8.0) | {"record": {"parameters": 12345, "strategy": "ddp"}},
        stage("evaluate", 1.0),
        stage("export", 3.0)
        | {
            "record": {
                "version": "abc123",
                "parity": {"max_difference": 2e-7, "label_agreement": 1.0, "forms": {}},
            }
        },
    ]
    return {
        "run": "20261124-081200-ab12",
        "job": {"name": "income", "evaluate": {"gates": {"accuracy": {"min": 0.85, "max": None}}}},
        "version": "0.1.0",
        "status": "done",
        "started": "2026-11-24T08:12:00+00:00",
        "seconds": 44.5,
        "error": None,
        "stages": passed,
        "schema": {"columns": [{"name": "job", "kind": "category", "role": "label"}]},
        "metrics": judged,
        "history": [
            {"epoch": n, "train_loss": 1 / n, "validation_loss": 1.1 / n, "score": 0.8 + n / 100}
            for n in range(1, 6)
        ],
        "trials": [
            {
                "settings": {"model.width": 64, "train.learning_rate": 1e-3},
                "score": loss and 1 - loss,
                "validation_loss": loss,
                "state": "complete" if loss else "failed",
                "epochs": 2,
                "seconds": 1.5,
                "history": [{"epoch": n, "validation_loss": loss} for n in (1, 2)],
            }
            for loss in (0.41, None, 0.35, 0.37)
        ],
        "bundle": "/data/storage/income/bundles/abc123",
        "endpoint": "http://127.0.0.1:8000/income/predict",
        "curl": "curl -H 'Authorization: Bearer s3cr3t-key' http://127.0.0.1:8000/income/predict",
    }


def stage(name: str, seconds: float, cached: bool = False, **rows: int) -> dict[str, Any]:
    counts = dict.fromkeys(("rows_in", "rows_out", "rows_quarantined")) | rows
    return {
        "name": name,
        "digest": "d1",
        "seconds": seconds,
        "cached": cached,
        "record": {},
    } | counts


class Checked(HTMLParser):
    """Parses a page, fails on tags that do not close, and keeps headings, addresses and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.headings: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names))
        self.addresses += [str(v) for name, v in attrs if name in {"src", "href", "xlink:href"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if "style" not in self.open:
            self.text += data


ALL = [
    *("How good it is", "The path", "The data", "The search", "The training", "Where it errs"),
    *("Group by group", "What is served", "Call it", "The job", "How to read this"),
]


def test_a_whole_run_has_every_section_and_needs_nothing_from_elsewhere() -> None:
    page = report.page(record())
    checked = Checked(page)
    assert checked.headings == ALL
    assert "script" not in checked.tags
    assert checked.addresses == []
    assert "url(" not in page
    assert "@import" not in page
    assert "Passed its gate" in checked.text


def test_figures_are_on_the_page() -> None:
    text = re.sub(r"\s+", " ", Checked(report.page(record())).text)
    for shown in (
        *("0.8600", "0.8400 – 0.8800", "0.7600", "3,000 rows in = 2,990 out + 10 quarantined"),
        *("too many fields", "12,345", "abc123", "best, epoch 5", "44.5 s", "stored"),
        *("93.0 %", "Gaps: accuracy 0.050", "clerk"),
    ):
        assert shown in text, shown


@pytest.mark.parametrize("key", sorted(record()))
def test_a_record_that_lacks_a_part_still_has_a_page(key: str) -> None:
    partial = record()
    del partial[key]
    checked = Checked(report.page(partial))
    gone = {
        "metrics": {"How good it is", "Where it errs", "Group by group", "How to read this"},
        "stages": {"The path", "The data"},
        "history": {"The training"},
        "trials": {"The search"},
        "job": {"The job"},
    }.get(key, set())
    assert set(checked.headings) == set(ALL) - gone


@pytest.mark.parametrize("key", sorted(record()["metrics"]))
def test_metrics_that_lack_a_part_still_have_a_page(key: str) -> None:
    partial = record()
    del partial["metrics"][key]
    checked = Checked(report.page(partial))
    gone = {"groups": {"Group by group"}}.get(key, set())
    assert set(checked.headings) == set(ALL) - gone


def test_a_run_that_failed_says_what_happened_and_where() -> None:
    failed = {k: v for k, v in record().items() if k in ("run", "job", "stages")}
    failed["stages"] = failed["stages"][:1]
    failed |= {
        "status": "failed",
        "error": {"type": "DataError", "message": "no column `x`\n  do: y"},
    }
    text = Checked(report.page(failed)).text
    assert "Failed after clean" in text
    assert "no column `x`\n  do: y" in text
    assert "Failed before any stage ended" in Checked(report.page({"error": {"message": "!"}})).text


def test_a_refused_run_names_the_gate() -> None:
    refused = record()
    refused["job"]["evaluate"]["gates"] = {
        "accuracy": {"min": 0.9, "max": None},
        "groups.sex.accuracy_difference": {"min": None, "max": 0.1},
    }
    text = re.sub(r"\s+", " ", Checked(report.page(refused)).text)
    assert "Refused: 1 of 2 gates failed" in text
    assert "✗ accuracy 0.8600 asked for at least 0.9" in text
    assert "✓ groups.sex.accuracy_difference 0.0500 asked for at most 0.1" in text


def test_names_from_the_data_are_text_and_never_markup() -> None:
    evil = "<img src=x onerror=alert(1)>"
    hostile = record()
    hostile["metrics"]["classes"][evil] = hostile["metrics"]["classes"].pop("yes")
    hostile["metrics"]["confusion"]["classes"][1] = evil
    hostile["metrics"]["about"]["positive"] = evil
    hostile["metrics"]["groups"][evil] = hostile["metrics"]["groups"].pop("sex")
    hostile["metrics"]["groups"][evil]["values"][evil] = {"rows": 1, "accuracy": 1.0}
    hostile["stages"][0]["record"]["columns"][evil] = {"kind": "category", "top": [[evil, 99]]}
    hostile["stages"][0]["record"]["quarantine"][evil] = 1
    hostile["trials"][0]["settings"][evil] = evil
    hostile["job"]["name"] = evil
    hostile["error"] = {"message": evil}
    checked = Checked(report.page(hostile))
    assert "img" not in checked.tags
    assert checked.text.count(evil) > 8


def test_secrets_and_rare_values_are_not_on_the_page() -> None:
    private = record()
    private["job"] |= {
        "data": {"source": "postgresql://ada:hunter2@db/people", "options": {"api_key": "abcdef"}},
    }
    page = report.page(private)
    assert "hunter2" not in page
    assert "abcdef" not in page
    assert "s3cr3t-key" not in page
    assert "postgresql://***@db/people" in page
    assert "astronaut" not in page  # held by two people


def test_a_shell_variable_is_no_secret() -> None:
    line = 'curl -H "Authorization: Bearer $(ray-pipeline key income)" localhost'
    assert report.without_secrets(line) == line


def test_the_chosen_trial_is_the_one_with_the_lowest_loss() -> None:
    (row,) = re.findall(
        r'<tr class="chosen"><th>(\d+)</th><td>([\d.]+)</td>', report.page(record())
    )
    assert row == ("3", "0.3500")
    assert "4 trials, compared by validation loss; 1 failed" in report.page(record())


def test_page_does_not_change_the_record() -> None:
    given = record()
    before = copy.deepcopy(given)
    report.page(given)
    assert given == before


def test_many_classes_are_shown_by_their_most_frequent_confusions() -> None:
    many = record()
    names = [f"class {n}" for n in range(30)]
    counts = [[0] * 30 for _ in range(30)]
    counts[3][7], counts[4][4], counts[9][1] = 12, 50, 2
    many["metrics"]["confusion"] = {"classes": names, "counts": counts}
    rows = re.findall(
        r"<tr><th>(class \d+)</th><td class=\"left\">(class \d+)</td><td>(\d+)</td>",
        report.page(many),
    )
    assert rows == [("class 3", "class 7", "12"), ("class 9", "class 1", "2")]


def test_write_puts_the_page_into_the_folder_and_its_place_into_the_record(tmp_path: Any) -> None:
    run = record()
    path = report.write(run, UPath(tmp_path) / "runs" / "r1")
    assert run["report"] == str(path)
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_numbers_have_dotted_names() -> None:
    nested = {"a": 1, "b": {"c": 2.5, "d": {"e.f": None}}, "list": [1], "text": "x", "flag": True}
    assert report.numbers(nested) == {"a": 1, "b.c": 2.5, "b.d.e.f": None}


@pytest.mark.parametrize(
    ("value", "low", "high", "passed"),
    [
        *((0.5, 0.5, None, True), (0.5, None, 0.5, True), (0.4, 0.5, None, False)),
        *((0.6, None, 0.5, False), (0.6, 0.5, 0.7, True), (None, 0.0, None, False)),
    ],
)
def test_bounds_include_their_ends(value: Any, low: Any, high: Any, passed: bool) -> None:
    (verdict,) = report.verdicts({"m": value}, {"m": {"min": low, "max": high}})
    assert verdict["passed"] is passed


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (report.duration(0.4242), "0.42 s"),
        (report.duration(59.94), "59.9 s"),
        (report.duration(245), "4 min 05 s"),
        (report.duration(7385), "2 h 03 min"),
        (report.size(999), "999 B"),
        (report.size(23_400_000), "23.4 MB"),
        (report.percent(0.001, 0), "< 1 %"),
        (report.percent(0.256), "25.6 %"),
        (report.count(1234567), "1,234,567"),
        (report.figure(123456.7), "123,457"),
        (report.plain({"min": 0.5, "max": None}), "min 0.5, max –"),
        (report.amount(151234), "151,234"),
    ],
)
def test_figures_as_a_person_writes_them(shown: str, expected: str) -> None:
    assert shown == expected


def test_a_stage_describes_its_own_section():
    found = {
        "title": "Personal data",
        "note": "what was found",
        "tables": [
            {"caption": "by column", "columns": ["column", "e-mails"], "rows": [["<b>", 7]]}
        ],
    }
    html = report.page({"stages": [{**stage("clean", 1.0), "record": {"findings": [found]}}]})
    assert "<h2>Personal data</h2><small>what was found</small>" in html
    assert "<h3>by column</h3>" in html
    assert "<th>&lt;b&gt;</th><td>7</td>" in html


def test_findings_stand_where_the_path_passes_and_plots_are_drawn() -> None:
    whole = record()
    by_name = {passed["name"]: passed for passed in whole["stages"]}
    for name, title in (("clean", "Found in rows"), ("train", "Found while training")):
        by_name[name]["record"]["findings"] = [{"title": title}]
    by_name["export"]["record"]["findings"] = [{"title": "Found in graph"}]
    plots = [
        {"kind": "curves", "x": "ε", "y": "score", "lines": {"a": [[0, 0.9], [0.1, 0.5]]}},
        {"kind": "bars", "x": "drop", "bars": [["age", 0.2, 0.1, 0.3], ["town", 0.0, None, None]]},
        {"kind": "dots", "x": "size", "y": "score", "dots": [["int8", 1, 0.8]]},
    ]
    by_name["evaluate"]["record"]["findings"] = [{"title": "Found in tests", "plots": plots}]
    page = report.page(whole)
    order = Checked(page).headings
    for before, found, after in (
        ("The data", "Found in rows", "The search"),
        ("The training", "Found while training", "Where it errs"),
        ("Group by group", "Found in tests", "What is served"),
        ("What is served", "Found in graph", "Call it"),
    ):
        assert order.index(before) < order.index(found) < order.index(after)
    section = page.partition("<h2>Found in tests")[2].partition("</section>")[0]
    assert section.count('<svg class="chart"') == 3
