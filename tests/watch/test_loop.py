"""What is decided; and that a process that is killed leaves nothing half done, or done twice."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from upath import UPath

from ray_pipeline import bundle
from ray_pipeline.bundle import Manifest
from ray_pipeline.deploy import history, log_files, reference
from ray_pipeline.deploy.reference import Reference
from ray_pipeline.errors import DataError, GateRefused, JobError
from ray_pipeline.job import Job
from ray_pipeline.schema import Column, Schema
from ray_pipeline.watch import decisions, judge
from ray_pipeline.watch.loop import Watching

SCHEMA = Schema(
    columns=(
        Column(name="x", kind="number"),
        Column(name="left", kind="category", role="label"),
    )
)
BETTER = {"accuracy": 0.04, "intervals": {"accuracy": [0.01, 0.07]}}
WORSE = {"accuracy": -0.01, "intervals": {"accuracy": [-0.03, 0.02]}}


def usual(rng, count=3000):
    labels = pa.chunked_array([rng.choice(["no", "yes"], count, p=[0.7, 0.3])])
    return Reference(
        rows=count,
        columns={"x": reference.numbers(rng.normal(0, 1, count))},
        predicted=reference.values(labels, ("no", "yes")),
        labels=reference.values(labels, ("no", "yes")),
        losses=reference.losses_of((rng.random(count) < 0.2).astype(float)),
    )


class Place:
    """A storage with monthly files, and an endpoint of which the history is kept in it as the real
    one does. Which challenger a run makes is given; what the real path makes of files is not
    tested here."""

    def __init__(self, folder, **watch):
        self.folder, self.storage = folder, folder / "storage"
        (folder / "data").mkdir()
        for month in range(1, 4):
            self.add(month)
        self.watch = {"drift": {"rows": 1000}, **watch}
        self.compared, self.fault = BETTER, None
        self.trained, self.live_at = [], None

    def add(self, month):
        (self.folder / f"data/2013-{month:02}.csv").write_text("x,left\n1,yes\n")

    @property
    def job(self):
        data = {"source": str(self.folder / "data"), "label": "left"}
        told = {"name": "churn", "storage": str(self.storage), "data": data, "watch": self.watch}
        return Job.model_validate(told)

    def bundle(self, version):
        path = UPath(self.storage / "churn/bundles" / version)
        if not path.exists():
            path.mkdir(parents=True)
            manifest = Manifest(
                name="churn", version=version, created="2026-01-01T00:00:00+00:00",
                task="classification", schema=SCHEMA, classes=("no", "yes"),
            )  # fmt: skip
            known = usual(np.random.default_rng(5)).model_dump_json().encode()
            bundle.write(path, manifest, {"model.onnx": b"-", reference.FILE: known})
        return str(path)

    # The endpoint.

    def live(self):
        newest = [e for e in self.history() if e["action"] != "refused"][-1:]
        return newest[0]["bundle"] if newest else None

    def history(self):
        return history.read(str(self.storage), "churn")

    def deploy(self, path, settings, why):
        if isinstance(self.fault, GateRefused):
            self.write(path, "refused", self.fault.what)
            raise self.fault
        self.write(path, "deploy", why)

    def rollback(self, why):
        self.write(history.before(self.history(), "churn")["bundle"], "rollback", why)

    def write(self, path, action, why):
        manifest = bundle.opened(path).manifest
        now = decisions.made("run", [])["created"]
        entry = {
            "action": action, "name": "churn", "version": manifest.version, "bundle": path,
            "digest": manifest.digest, "since": now, "by": "me", "why": why, "settings": "{}",
        }  # fmt: skip
        history.write(str(self.storage), entry)

    def told(self, figures):
        self.figures = figures

    # The path.

    def train(self, job, until):
        files = [one.new.files for one in (job.data.source, job.data.test)]
        stages = [{"name": "clean", "digest": "c"}]
        if until == "clean":
            if isinstance(self.fault, DataError):
                raise self.fault
            return {"stages": stages}
        self.trained.append(files)
        version = "v" + Path(files[1][-1]).stem[-2:]
        metrics = {}
        if job.evaluate.champion:
            against = bundle.opened(job.evaluate.champion).manifest.version
            metrics["champion"] = {**self.compared, "version": against, "theirs": {"accuracy": 0.8}}
        return {
            "run": "r1", "bundle": self.bundle(version), "metrics": metrics, "stages": stages,
        }  # fmt: skip

    def watching(self):
        return Watching(self.job, self.train, self)

    def once(self):
        return self.watching().once()

    def log(self, shift=0.0, rows=1000, seed=0):
        rng = np.random.default_rng(seed)
        said = rng.choice(["no", "yes"], rows, p=[0.7, 0.3])
        table = pa.table(
            {
                "id": [f"{number:032x}" for number in range(rows)],
                "row": pa.array([0] * rows, pa.int32()),
                "time": pa.array([int(time.time() * 1e6)] * rows, pa.timestamp("us", "UTC")),
                "version": [bundle.opened(self.live()).manifest.version] * rows,
                "predicted": said,
                "input": pa.StructArray.from_arrays([rng.normal(shift, 1, rows)], ["x"]),
            }
        )
        kept = log_files.folder(self.live(), "churn")
        log_files.added(kept / log_files.REQUESTS, table, 1e9, 30)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def names(paths):
    return [Path(path).name for path in paths]


def test_the_first_model_is_trained_on_all_but_the_newest_file(place):
    decision = place.once()
    assert (decision["action"], decision["outcome"]) == ("run", "promoted")
    assert decision["why"] == ["nothing is live"]
    assert names(decision["learn"]) == ["2013-01.csv", "2013-02.csv"]
    assert names(decision["judge"]) == ["2013-03.csv"]
    assert [e["version"] for e in place.history()] == ["v03"]
    assert place.history()[0]["why"].startswith(f"watch {decision['id']}: ")
    again = place.once()
    assert (again["action"], again["outcome"]) == ("nothing", "nothing")
    assert len(place.watching().decisions.all()) == 1, "looks that change nothing are not kept"


@pytest.mark.parametrize(
    ("compared", "outcome", "live"), [(BETTER, "promoted", "v04"), (WORSE, "refused", "v03")]
)
def test_a_new_file_makes_a_challenger_that_has_to_be_better(place, compared, outcome, live):
    place.once()
    place.add(4)
    place.compared = compared
    decision = place.once()
    assert decision["why"] == ["1 new files, up to 2013-04.csv"]
    assert decision["outcome"] == outcome
    assert names(decision["judge"]) == ["2013-04.csv"]
    assert "accuracy is 0.0" in decision["challenger"]["verdict"]
    assert bundle.opened(place.live()).manifest.version == live
    assert place.once()["action"] == "nothing", "the same files are not decided on again"
    assert len(place.trained) == 2


def test_drift_is_a_reason_and_is_told(place):
    place.watch["new_files"] = None
    place.once()
    place.add(4)
    place.log()
    assert place.once()["action"] == "nothing"
    place.log(shift=1.0, seed=1)
    decision = place.once()
    assert (decision["action"], decision["outcome"]) == ("run", "promoted")
    assert decision["why"][0].startswith("x: distribution ")
    assert decision["look"]["rows"] == 1000
    alarm = decision["look"]["alarms"][0]
    assert alarm["size"] > alarm["bound"]
    assert place.figures["findings"][0]["column"] == "x"


def test_drift_without_newer_labelled_data_changes_nothing(place):
    place.once()
    place.log(shift=1.0)
    decision = place.once()
    assert decision["action"] == "nothing"
    assert decision["why"][-1] == "no labelled file is there that neither model has seen"


def test_only_so_many_runs_a_day(tmp_path):
    place = Place(tmp_path, max_runs=2)
    place.once()
    for month in (4, 5):
        place.add(month)
        decision = place.once()
    assert (decision["action"], decision["outcome"]) == ("refuse", "refused")
    assert decision["why"][-1] == "2 runs in 24 hours, and 2 are allowed"
    assert place.once()["outcome"] == "refused"
    assert len(place.watching().decisions.all()) == 3, "said once"


def test_data_that_is_not_as_expected_trains_nothing(place):
    place.once()
    place.add(4)
    place.fault = DataError("rows are not as expected: range (x): 4 of 9", where="data.expect")
    decision = place.once()
    assert decision["outcome"] == "refused"
    assert decision["verdict"] == "data.expect: rows are not as expected: range (x): 4 of 9"
    assert len(place.trained) == 1


@pytest.mark.parametrize(("share", "believed"), [(0.7, True), (0.2, False)])
def test_labels_that_are_other_than_ever_are_not_learned_from(place, share, believed):
    import pyarrow.parquet as pq

    rng = np.random.default_rng(7)
    cleaned = UPath(place.storage / "churn/stages/clean-c")
    for folder, p in (("rows", 0.7), ("test", share)):
        (cleaned / folder).mkdir(parents=True)
        labels = rng.choice(["no", "yes"], 900, p=[p, 1 - p])
        pq.write_table(pa.table({"left": labels}), str(cleaned / folder / "0.parquet"))
    place.once()
    place.add(4)
    decision = place.once()
    assert decision["outcome"] == ("promoted" if believed else "refused")
    if not believed:
        assert decision["verdict"].startswith("the labels of the newest files")
        assert len(place.trained) == 1


def test_a_challenger_that_fails_its_trial_is_rolled_back(place):
    place.once()
    place.add(4)
    place.fault = GateRefused("version v04 was refused at 10 % of requests: 3 of 9 failed")
    decision = place.once()
    assert decision["outcome"] == "rolled_back"
    assert "refused at 10 %" in decision["verdict"]
    assert bundle.opened(place.live()).manifest.version == "v03"


def test_a_person_may_have_to_approve(tmp_path):
    place = Place(tmp_path, approve=True)
    assert place.once()["outcome"] == "waiting"
    assert place.history() == []
    promoted = place.watching().promoted()
    assert promoted["outcome"] == "promoted"
    assert [e["version"] for e in place.history()] == ["v03"]
    assert place.watching().promoted() is None


def test_a_challenger_that_waited_for_too_long_is_not_released(tmp_path):
    place = Place(tmp_path, approve=True)
    place.once()
    place.deploy(place.bundle("other"), None, "by hand")
    assert place.watching().promoted()["outcome"] == "refused"
    assert [e["version"] for e in place.history()] == ["other"]


def test_a_model_of_which_nothing_is_known_is_not_judged(place):
    """It may have learned from the very rows."""
    place.deploy(place.bundle("other"), None, "by hand")
    decision = place.once()
    assert decision["action"] == "nothing"
    assert decision["why"][-1].startswith("what the live model has learned from is not known")


def test_jobs_that_cannot_be_watched_say_why(place, tmp_path):
    with pytest.raises(JobError, match="nothing is to be watched"):
        Watching(place.job.model_copy(update={"watch": None}), place.train, place)
    evaluate = place.job.evaluate.model_copy(update={"bootstrap": 0})
    with pytest.raises(JobError, match=r"evaluate\.bootstrap"):
        Watching(place.job.model_copy(update={"evaluate": evaluate}), place.train, place)


def killed_at(place, at):
    """A process that looks, and is killed when it writes for the `at`th time, before or after;
    whether it was."""
    child = os.fork()
    if child == 0:
        count, writes = 0, (decisions.write_whole, history.write_whole)

        def write(path, content):
            nonlocal count
            count += 1
            if count == (at + 1) // 2 and at % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            writes[0](path, content)
            if count == at // 2 and not at % 2:
                os.kill(os.getpid(), signal.SIGKILL)

        decisions.write_whole = history.write_whole = write
        try:
            place.once()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("compared", [BETTER, WORSE], ids=["better", "worse"])
def test_killed_at_any_write_it_is_done_once(tmp_path, compared):
    at, boundaries = 0, 0
    while True:
        at += 1
        (tmp_path / str(at)).mkdir()
        place = Place(tmp_path / str(at))
        place.once()
        place.add(4)
        place.compared = compared
        killed = killed_at(place, at)
        boundaries += killed
        outcomes = [place.once(), place.once()]
        kept = place.watching().decisions.all()
        assert [one["outcome"] for one in kept][1:] == [
            "promoted" if compared is BETTER else "refused"
        ], at
        released = [entry["version"] for entry in place.history()]
        assert released == (["v03", "v04"] if compared is BETTER else ["v03"]), at
        assert outcomes[-1]["action"] == "nothing"
        if not killed:
            break
    assert boundaries >= 10


def test_killed_again_and_again_it_is_given_up(place):
    place.once()
    place.add(4)
    for at in (7, 3, 3):  # each time before the challenger is written down
        assert killed_at(place, at)
    decision = place.once()
    assert decision["outcome"] == "failed"
    assert [entry["version"] for entry in place.history()] == ["v03"]


def test_two_at_once_are_not(place):
    from ray_pipeline import files

    with files.only_one(UPath(place.storage / "churn/watch"), "x"), pytest.raises(JobError):
        place.once()


def test_a_verdict_needs_the_whole_interval():
    settings = judge.Judge()
    told = {"version": "v1", "theirs": {"accuracy": 0.8, "log_loss": 0.5}}
    found = {"accuracy": 0.01, "log_loss": -0.02}
    intervals = {"accuracy": [-0.001, 0.02], "log_loss": [-0.03, -0.01]}
    compared = {**told, **found, "intervals": intervals}
    assert not judge.verdict(compared, settings).better
    by_loss = judge.Judge(metric="log_loss")
    assert judge.verdict(compared, by_loss).better, "less of it is better"
    assert not judge.verdict(compared, judge.Judge(metric="log_loss", min_gain=0.03)).better
    with pytest.raises(JobError, match=r"watch\.judge\.metric"):
        judge.verdict(compared, judge.Judge(metric="f2"))


def test_a_decision_is_a_record_that_says_why(place):
    decision = place.once()
    path = place.storage / "churn/watch/decisions" / f"{decision['id']}.json"
    assert json.loads(path.read_text()) == decision
    assert {"id", "created", "action", "why", "outcome", "learn", "judge"} <= decision.keys()
    assert len(decision["challenger"]["digest"]) == 64
