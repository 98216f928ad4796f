"""Two runs beside each other: what differs is told, with what chance allows."""

from __future__ import annotations

import copy
import json

import pytest
from test_report import Checked, record
from upath import UPath

from ray_pipeline import comparison


@pytest.fixture
def pair():
    """The second with other settings, fewer rows and better, judged on the same rows."""
    first = record() | {"sources": ["a.csv"], "status": "done"}
    second = copy.deepcopy(first) | {"run": "20260102-000000-beef", "sources": ["b.csv"]}
    second["job"].setdefault("train", {})["learning_rate"] = 0.5
    second["metrics"] |= {"accuracy": 0.93, "log_loss": 0.35}
    second["metrics"]["intervals"]["accuracy"] = [0.91, 0.95]
    stage = next(one for one in second["stages"] if one["name"] == "clean")
    stage["record"]["rows_out"] = 2900
    return first, second


def found(pair, name):
    return next(one for one in comparison.compared(*pair)["metrics"] if one["name"] == name)


def test_a_difference_beyond_both_intervals_is_told_from_chance(pair):
    accuracy = found(pair, "accuracy")
    assert accuracy["difference"] == pytest.approx(0.07)
    assert (accuracy["better"], accuracy["beyond"]) == (True, True)
    pair[1]["metrics"]["accuracy"] = 0.885
    pair[1]["metrics"]["intervals"]["accuracy"] = [0.865, 0.905]
    # Half widths of 0.02 each: their difference has one of 0.028.
    assert found(pair, "accuracy")["beyond"] is False
    pair[1]["metrics"]["accuracy"] = 0.889
    assert found(pair, "accuracy")["beyond"] is True
    loss = found(pair, "log loss")
    assert (loss["better"], loss["beyond"]) == (False, None), "less is better, without interval"


def test_only_what_differs_is_told(pair):
    told = comparison.compared(*pair)
    assert [one["name"] for one in told["settings"]] == ["train.learning_rate"]
    assert told["data"] == [
        {"name": "sources", "values": ["a.csv", "b.csv"]},
        {"name": "rows out", "values": [2990, 2900]},
    ]
    assert told["same_rows"] is True
    split = next(one for one in pair[1]["stages"] if one["name"] == "split")
    split["digest"] = "other"
    assert comparison.compared(*pair)["same_rows"] is False


def test_the_page_is_whole_and_tells_no_secret(pair):
    for one, password in zip(pair, ("hush1", "hush2"), strict=True):
        one["job"]["data"] = {"source": {"url": f"postgresql://me:{password}@db/x"}}
    page = comparison.page(*pair)
    Checked(page)
    assert "hush" not in page
    for shown in ("train.learning_rate", "b.csv", "+0.0700", pair[0]["run"], pair[1]["run"]):
        assert shown in page, shown
    assert "<script" not in page


def test_runs_that_ended_early_are_compared_too(pair):
    first, second = pair
    bare = {key: first[key] for key in ("run", "job", "started", "seconds")} | {"stages": []}
    Checked(comparison.page(bare, second))
    assert comparison.compared(bare, second)["same_rows"] is False
    assert comparison.compared(bare, bare)["metrics"] == []


def test_the_command_writes_the_page_and_tells_it(pair, tmp_path, capsys):
    from ray_pipeline import cli

    for one in pair:
        path = UPath(tmp_path / one["job"]["name"] / "runs" / one["run"] / "run.json")
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(one))
    runs = [one["run"] for one in pair]
    assert cli.main(["compare", *runs, "--storage", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["runs"] == runs
    assert UPath(told["page"]).read_text() == comparison.page(*pair)
    assert cli.main(["compare", *runs, "--storage", str(tmp_path)]) == 0
    assert "train.learning_rate: – → 0.5" in capsys.readouterr().out
    assert cli.main(["compare", runs[0], "nothing", "--storage", str(tmp_path)]) == 2
