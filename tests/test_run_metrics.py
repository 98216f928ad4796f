"""The figures of a run for Prometheus, held against promtool."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from test_report import record
from upath import UPath

from ray_pipeline import run_metrics, runs
from ray_pipeline.errors import GateRefused
from ray_pipeline.job import Job

MONITORING = Path(__file__).parents[1] / "monitoring"


def samples(text):
    pairs = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def checked(text):
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    return samples(text)


def test_what_a_run_has_done_is_named_as_prometheus_has_it():
    one = record() | {"started_s": 1795921367.7}
    one["job"]["name"] = 'in"come'
    found = checked(run_metrics.exposition(one))
    job = 'job_name="in\\"come"'
    assert found[f'ray_pipeline_run_status{{{job},status="done"}}'] == 1
    assert found[f'ray_pipeline_run_status{{{job},status="failed"}}'] == 0
    assert found[f'ray_pipeline_stage_seconds{{{job},stage="clean"}}'] == 2.0
    assert found[f'ray_pipeline_stage_cached{{{job},stage="tune"}}'] == 1
    rows = [
        found[f'ray_pipeline_stage_rows{{{job},stage="clean",direction="{way}"}}']
        for way in ("in", "out", "quarantined")
    ]
    assert rows == [3000, 2990, 10]
    assert found[f'ray_pipeline_model_metric{{{job},metric="accuracy"}}'] == 0.86
    assert found[f"ray_pipeline_training_epochs{{{job}}}"] == 5
    assert found[f'ray_pipeline_training_loss{{{job},split="validation"}}'] == pytest.approx(0.22)


class Silent:
    def started(self, stage): ...
    def event(self, stage, event): ...
    def ended(self, stage): ...


def test_the_file_says_how_the_run_stands_stage_by_stage(tmp_path):
    job = Job.model_validate(
        {"name": "shop", "storage": str(tmp_path), "data": {"source": "x", "label": "y"}}
    )
    path = UPath(tmp_path) / "shop" / run_metrics.FILE

    def made(out):
        return {"rows_in": 3, "rows_out": 2, "rows_quarantined": 1}

    def refused():
        with runs.opened(job, Silent()) as run:
            run.stage("clean", made)
            stands = checked(path.read_text())
            assert stands['ray_pipeline_run_status{job_name="shop",status="running"}'] == 1
            assert 'ray_pipeline_stage_seconds{job_name="shop",stage="clean"}' in stands
            raise GateRefused("accuracy is 0.1")

    with pytest.raises(GateRefused):
        refused()
    ended = checked(path.read_text())
    assert ended['ray_pipeline_run_status{job_name="shop",status="refused"}'] == 1
    assert ended['ray_pipeline_run_status{job_name="shop",status="running"}'] == 0


def test_alerts_about_runs_come_when_they_should_and_not_before():
    for what, file in (("check", "run_alerts.yaml"), ("test", "run_alerts_test.yaml")):
        done = subprocess.run(
            ["promtool", what, "rules", MONITORING / file],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "SUCCESS" in done.stdout, done.stdout + done.stderr
        assert done.returncode == 0
    rules = yaml.safe_load((MONITORING / "run_alerts.yaml").read_text())["groups"][0]["rules"]
    tests = yaml.safe_load((MONITORING / "run_alerts_test.yaml").read_text())["tests"]
    tried = {one["alertname"] for test in tests for one in test["alert_rule_test"]}
    assert tried == {rule["alert"] for rule in rules}, "each is tried"
    asked = {name for rule in rules for name in re.findall(r"ray_pipeline_\w+", rule["expr"])}
    told = samples(run_metrics.exposition(record() | {"started_s": 1795921367.7}))
    assert asked <= {name.partition("{")[0] for name in told}
    read = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())["rule_files"]
    assert set(read) == {"alerts.yaml", "run_alerts.yaml"}
