"""Logs for machines, and a stage that says nothing."""

from __future__ import annotations

import io
import json
import time
from datetime import datetime

import pytest
from upath import UPath

from ray_pipeline import runs, stuck
from ray_pipeline.job import Job
from ray_pipeline.journal import Journal


def made(out, progress):
    progress({"row": 1, "rows": 2})
    return {"rows_in": 3, "rows_out": 2, "rows_quarantined": 1}


def failed(out):
    raise RuntimeError("no")


@pytest.fixture
def job(tmp_path):
    return Job(name="shop", storage=str(tmp_path), data={"source": "rows.csv", "label": "left"})


def lines(file: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in file.getvalue().splitlines()]


def test_each_line_has_its_run_and_its_stage(job):
    file = io.StringIO()
    with Journal(file) as journal, runs.opened(job, journal) as run:
        digest = run.stage("clean", made).digest
        assert runs.current.get() == run.id
    began, event, ended = lines(file)
    for line in (began, event, ended):
        assert (line["run"], line["stage"]) == (run.id, "clean")
        assert datetime.fromisoformat(line["time"]).utcoffset().total_seconds() == 0
    assert [began["what"], event["what"], ended["what"]] == ["started", "event", "ended"]
    assert event["row"] == 1
    assert (ended["rows_quarantined"], ended["cached"], ended["digest"]) == (1, False, digest)
    assert UPath(run.folder / "run.json").exists()


def test_after_a_run_nothing_is_said_to_be_in_it(job):
    with pytest.raises(RuntimeError), runs.opened(job, Journal(io.StringIO())) as run:
        run.stage("clean", failed)
    assert runs.current.get() is None


def noted(file: io.StringIO) -> list[str]:
    return [line["text"] for line in lines(file) if line["what"] == "note"]


def test_silence_is_noticed_and_ever_less_often():
    file = io.StringIO()
    with stuck.Noticing(Journal(file), after_s=0.1, look=lambda: "0 of 4 CPU free") as noticing:
        noticing.started("train")
        time.sleep(1)
    told = noted(file)
    assert 2 <= len(told) <= 4, "after 0.1, 0.2, 0.4 and 0.8 s"
    assert told[0].startswith("nothing heard for 0 s; 0 of 4 CPU free")


def test_who_speaks_is_not_interrupted():
    file = io.StringIO()
    with stuck.Noticing(Journal(file), after_s=0.5, look=str) as noticing:
        noticing.started("train")
        for epoch in range(10):
            time.sleep(0.1)
            noticing.event("train", {"epoch": epoch})
        noticing.ended(runs.Stage("train", "", UPath("."), 1.0, False, {}))
        time.sleep(0.7)
    assert noted(file) == []


def test_what_is_to_be_seen_of_a_cluster(ray_cluster):
    assert "of 4 CPU free" in stuck.seen()
