from __future__ import annotations

import json

import prepared_rows
import pytest
from upath import UPath

from ray_pipeline import jobfile, starter
from ray_pipeline.job import Elastic, Model, Train
from ray_pipeline.model import memory, plan

STATISTICS = prepared_rows.statistics()
MODEL = Model(name="resnet", width=64, depth=2)


def planned(**settings: object) -> plan.Plan:
    train = Train(**{"workers": 2, "batch_size": 64, "epochs": 3} | settings)
    return plan.planned(MODEL, train, STATISTICS, 600)


@pytest.fixture(scope="module")
def whole():
    return planned(price_per_hour=7200.0)


def test_it_counts_steps_time_and_money(whole):
    assert (whole.workers, whole.share) == (2, 32)
    assert whole.steps == 3 * (600 // 64)
    assert 0 < whole.step_s < 5
    assert whole.hours == pytest.approx(whole.steps * whole.step_s * 2 / 3600)
    assert whole.cost == pytest.approx(whole.hours * 7200)
    assert planned().cost is None


def test_it_chooses_the_first_that_fits(whole, monkeypatch):
    assert [option.strategy for option in whole.options] == list(memory.STRATEGIES)
    assert whole.chosen == "ddp"
    assert whole.options[3].traffic == 1.5 * whole.options[0].traffic > 0
    middle = (whole.options[0].memory.total + whole.options[1].memory.total) / 2
    small = int(min(middle, whole.options[0].memory.total - 1))
    monkeypatch.setattr(memory, "available", lambda device, workers: small)
    tight = planned()
    assert tight.chosen == next((o.strategy for o in tight.options if o.fits), None) != "ddp"
    monkeypatch.setattr(memory, "available", lambda device, workers: 10)
    assert planned().chosen is None


def test_it_plans_the_strategy_that_is_asked_for():
    assert [option.strategy for option in planned(strategy="zero2").options] == ["zero2"]


@pytest.mark.parametrize(
    ("workers", "expected"), [(0, 1), (3, 3), (Elastic(min=2, max=5), 2), ("auto", 1)]
)
def test_it_is_for_the_fewest_workers(workers, expected):
    assert plan.worker_count(Train(workers=workers)) == expected


def test_it_is_told_as_text_and_as_json(whole):
    lines = plan.lines(whole)
    assert f"{whole.shape.parameters:,} parameters" in lines[0]
    assert [line.split()[0] for line in lines[2:6]] == list(memory.STRATEGIES)
    assert lines[2].endswith("chosen")
    assert "worker hours, cost" in lines[-1]
    again = json.loads(json.dumps(plan.record(whole)))
    assert again["options"][0]["total"] == whole.options[0].memory.total


def test_validate_plans_a_job_whose_rows_are_prepared(tmp_path, capsys):
    from ray_pipeline import cli

    job_file = starter.written(tmp_path)
    job = jobfile.read(job_file)
    assert cli.main(["validate", str(job_file)]) == 0
    assert "--until features" in capsys.readouterr().out
    folder = UPath(job.storage) / job.name / "stages" / "features-0"
    folder.mkdir(parents=True)
    (folder / "stage.json").write_text("{}")
    (folder / "statistics.json").write_text('{"of": "another version"}')
    assert cli.main(["validate", str(job_file)]) == 0
    assert "--until features" in capsys.readouterr().out
    STATISTICS.write(folder)
    assert cli.main(["validate", str(job_file)]) == 0
    assert "training plan: " in capsys.readouterr().out
    assert cli.main(["validate", str(job_file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["chosen"] == "ddp"
