"""What is kept of requests, by an endpoint behind a real server; and the labels told later."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

import http_servers
import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from releases import waited
from upath import UPath

from ray_pipeline.bundle import Manifest
from ray_pipeline.deploy import log_files, request_log
from ray_pipeline.deploy.auth import Gate
from ray_pipeline.deploy.counters import Counters
from ray_pipeline.deploy.example import example_row
from ray_pipeline.deploy.keyring import described
from ray_pipeline.deploy.request_log import RequestLog
from ray_pipeline.errors import JobError
from ray_pipeline.job import Job, Log, Serve

ALL = Log(sample=1, every_s=0.1)
HEADERS = {"X-API-Key": http_servers.KEY}
TELLS = "rp_tells"
KEYS = [
    described("own", http_servers.KEY, scopes=("predict",)),
    described("tells", TELLS, scopes=("feedback",)),
]


@pytest.fixture(scope="module")
def logged(classifier, tmp_path_factory):
    """An endpoint that logs all, and where."""
    folder, settings = UPath(tmp_path_factory.mktemp("log")), Serve(log=ALL, max_rows=50)
    app = http_servers.endpoint(classifier.bundle, settings, log=folder, gate=Gate("model", KEYS))
    with (
        http_servers.running(app) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}/model", headers=HEADERS) as client,
    ):
        yield client, folder


def written(folder, rows, what=log_files.REQUESTS):
    def found():
        table = log_files.newest(folder / what, 10**6)
        return table if table is not None and len(table) >= rows else None

    return waited(found, 30)


def test_a_request_is_kept_as_the_model_read_it(logged, classifier):
    client, folder = logged
    row = {**example_row(classifier.bundle), "ville": " ? ", "age": None}
    before = log_files.newest(folder / "requests", 10**6)
    answer = client.post("/predict", json={"rows": [row, {**row, "age": 41}]}).json()
    table = written(folder, 2 + (len(before) if before else 0))
    kept = [one for one in table.to_pylist() if one["id"] == answer["id"]]
    assert [one["row"] for one in kept] == [0, 1]
    assert [one["input"]["age"] for one in kept] == [None, 41.0]
    assert kept[0]["input"]["ville"] is None, "a text that stands for no value is none"
    said = [(one["label"], one["probability"]) for one in answer["predictions"]]
    assert [(one["predicted"], one["probability"]) for one in kept] == said
    assert {one["version"] for one in kept} == {answer["version"]}
    assert abs(kept[0]["time"].timestamp() - time.time()) < 60


def test_labels_are_joined_by_the_id_of_an_answer(logged, classifier):
    client, folder = logged
    row = example_row(classifier.bundle)
    answers = [client.post("/predict", json={"rows": [row] * 3}).json() for _ in range(2)]
    first, second = (answer["id"] for answer in answers)
    told = [
        {"id": first, "row": 1, "label": ">50K"},
        {"id": second, "label": ">50K"},
        {"id": "0" * 32, "label": ">50K"},
    ]
    tell = {"headers": {"X-API-Key": TELLS}}
    assert client.post("/feedback", json={"feedback": told}, **tell).json() == {"accepted": 3}
    written(folder, 3, log_files.FEEDBACK)
    later = [{"id": first, "row": 1, "label": "<=50K"}]
    assert client.post("/feedback", json={"feedback": later}, **tell).status_code == 202
    feedback = written(folder, 4, log_files.FEEDBACK)
    assert set(feedback["by"].to_pylist()) == {"key tells"}
    ids = {first, second}
    table = waited(
        lambda: t if ids <= set((t := written(folder, 6))["id"].to_pylist()) else None, 30
    )
    joined = log_files.labelled(table, folder / log_files.FEEDBACK).to_pylist()
    found = {(one["id"], one["row"]): one["label"] for one in joined}
    assert found == {(first, 1): "<=50K", (second, 0): ">50K"}, "the last that was told counts"
    assert all(one["input"]["job"] == row["job"] for one in joined)


@pytest.mark.parametrize(
    ("body", "status", "where"),
    [
        ({"feedback": [{"id": "1" * 32, "label": "rich"}]}, 422, "feedback[0].label"),
        ({"feedback": [{"id": "short", "label": ">50K"}]}, 422, "feedback[0]"),
        ({"feedback": [{"id": "1" * 32, "label": ">50K", "x": 1}]}, 422, "feedback"),
        ({"feedback": [{"id": "1" * 32, "label": ">50K"}] * 51}, 413, "feedback"),
    ],
)
def test_labels_that_are_none_are_refused(logged, body, status, where):
    answer = logged[0].post("/feedback", json=body, headers={"X-API-Key": TELLS})
    assert answer.status_code == status
    assert answer.json()["error"]["where"] == where


def test_who_may_only_predict_tells_no_labels(logged):
    body = {"feedback": [{"id": "1" * 32, "label": ">50K"}]}
    assert logged[0].post("/feedback", json=body).json()["error"]["code"] == "wrong_scope"
    client = {"headers": {"X-API-Key": "rp_nobody"}}
    assert logged[0].post("/feedback", json=body, **client).status_code == 403


def log_of(bundle, folder, settings, counters=None):
    opened = http_servers.endpoint(bundle, Serve())
    predictions = opened._predictions
    log = RequestLog(folder, settings, bundle.manifest, predictions.columns, counters or Counters())
    return log, predictions


def offer(log, predictions, bundle, times=1, **values):
    rows = predictions.protocol.checked([{**example_row(bundle), **values}])
    said = [{"label": "<=50K", "probability": 0.7}]
    return [log.offered(rows, said, 200) for _ in range(times)]


def test_a_storage_that_hangs_holds_no_request_up(classifier, tmp_path, monkeypatch):
    """Nothing waits while a write does not end; what there is no room for is counted."""
    counters, release = Counters(), threading.Event()
    monkeypatch.setattr(request_log, "MOST_ROWS", 10)
    log, predictions = log_of(classifier.bundle, UPath(tmp_path), ALL, counters)
    write = log_files.added

    def hanging(*arguments):
        assert release.wait(60)
        return write(*arguments)

    monkeypatch.setattr(log_files, "added", hanging)

    async def asked():
        log.start()
        first = offer(log, predictions, classifier.bundle)
        while log._waiting.predicted:  # until the thread has them
            await asyncio.sleep(0.01)
        then = offer(log, predictions, classifier.bundle, times=25)
        release.set()
        while counters._counts["logged"] < 11:
            await asyncio.sleep(0.01)
        return first + then

    ids = asyncio.run(asyncio.wait_for(asked(), 60))
    assert [number is None for number in ids] == [False] * 11 + [True] * 15
    assert counters.taken()["log_left_out"] == 15
    assert len(log_files.newest(UPath(tmp_path) / log_files.REQUESTS, 100)) == 11


def test_a_storage_that_fails_is_counted(classifier, tmp_path):
    (tmp_path / "requests").write_text("a file where a folder is to be")
    counters = Counters()
    log, predictions = log_of(classifier.bundle, UPath(tmp_path), ALL, counters)
    offer(log, predictions, classifier.bundle, times=3)
    log.stop()
    assert counters.taken()["log_left_out"] == 3


def test_only_a_sample_is_kept(classifier, tmp_path):
    log, predictions = log_of(classifier.bundle, UPath(tmp_path), Log(sample=0.2))
    ids = offer(log, predictions, classifier.bundle, times=4000)
    share = np.mean([number is not None for number in ids])
    assert abs(share - 0.2) < 5 * np.sqrt(0.2 * 0.8 / 4000)


def test_what_waits_is_no_work_for_the_garbage_collector(classifier, tmp_path):
    """It would go through all of it again and again, while requests wait."""
    log, predictions = log_of(classifier.bundle, UPath(tmp_path), Log(sample=1))
    documents = [{**example_row(classifier.bundle), "age": 30 + n % 9} for n in range(2000)]
    offer(log, predictions, classifier.bundle)
    gc.collect()
    before = len(gc.get_objects())
    for document in documents:
        rows = predictions.protocol.checked([document])
        shares = {"<=50K": 0.7, ">50K": 0.3}
        log.offered(rows, [{"label": "<=50K", "probability": 0.7, "probabilities": shares}], 200)
        del rows, shares
    gc.collect()
    assert len(log._waiting.predicted) == 2001
    assert len(gc.get_objects()) - before < 200


def test_masked_columns_keep_only_whether_there_was_a_value(classifier, tmp_path):
    settings = Log(sample=1, mask=("age", "job"))
    log, predictions = log_of(classifier.bundle, UPath(tmp_path), settings)
    offer(log, predictions, classifier.bundle, age=61, job="a name of somebody")
    offer(log, predictions, classifier.bundle, age=None, job=None)
    log.stop()
    (file,) = log_files.files(UPath(tmp_path) / "requests")
    kept = log_files.newest(UPath(tmp_path) / "requests", 10).to_pylist()
    assert [one["input"]["age"] for one in kept] == ["<MASKED>", None]
    assert [one["input"]["job"] for one in kept] == ["<MASKED>", None]
    assert b"somebody" not in file.path.read_bytes()


def test_masked_columns_have_to_be_there(classifier):
    manifest: Manifest = classifier.bundle.manifest
    request_log.check(Log(mask=("age",)), manifest)
    with pytest.raises(JobError, match=r"(?s)agee.*watch.log.mask|watch.log.mask.*agee"):
        request_log.check(Log(mask=("agee",)), manifest)


@pytest.mark.parametrize(("days", "fits"), [(30, True), (29, False)])
def test_nothing_is_kept_longer_than_rows_may_be(days, fits):
    data = {"source": "a.csv", "label": "b", "privacy": {"retention_days": days}}
    told = {"name": "kept", "data": data, "watch": {"log": {}}}
    if fits:
        assert Job.model_validate(told).served.log == Log()
    else:
        with pytest.raises(ValidationError, match=r"watch\.log\.max_age_days: 30"):
            Job.model_validate(told)


def test_the_log_is_bounded_in_bytes_and_age(tmp_path):
    folder = UPath(tmp_path) / "requests"
    rng = np.random.default_rng(0)

    def table(number):
        return pa.table({"n": [number] * 2000, "x": rng.random(2000)})

    one = log_files.added(folder, table(0), 1e9, 1)
    for number in range(1, 12):
        log_files.added(folder, table(number), 5 * one + 100, 1)
        assert sum(file.size for file in log_files.files(folder)) <= 5 * one + 100
    kept = {n for f in log_files.files(folder) for n in pq.read_table(str(f.path))["n"].to_pylist()}
    assert kept == {7, 8, 9, 10, 11}, "the newest"
    old = folder / f"{time.time_ns() - 2 * 86_400 * 10**9:020d}-1.parquet"
    log_files.files(folder)[0].path.rename(old)
    log_files.swept(folder, 1e9, 1)
    assert not old.exists()
    assert len(log_files.files(folder)) == 4
    assert log_files.added(folder, table(0), one / 2, 1) == 0, "larger than all may be"
