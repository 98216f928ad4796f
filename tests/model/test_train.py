from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import prepared_rows
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, r2_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from upath import UPath

from ray_pipeline.errors import TrainingError
from ray_pipeline.job import Model, Train
from ray_pipeline.model import checkpoints, train
from ray_pipeline.model.feed import dataset, matrices, rows

MODEL = Model(width=16, dropout=0.1, frequencies=4)
SETTINGS = Train(workers=0, feed="memory", epochs=6, batch_size=64, learning_rate=1e-2)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return prepared_rows.written(UPath(tmp_path_factory.mktemp("train") / "features"))


@pytest.fixture
def fitted(features, tmp_path):
    """A function that trains below a new folder and gives its record, output and events."""

    def fit(settings=SETTINGS, model=MODEL, name="a", rows_in=features, log_dir=None):
        out, work = UPath(tmp_path / name), UPath(tmp_path / name / "work")
        work.mkdir(parents=True, exist_ok=True)
        events: list[dict[str, object]] = []
        record = train.write(
            rows_in, model, settings, out, work=work, progress=events.append, log_dir=log_dir
        )
        return record, out, events

    return fit


def held_out(features):
    return rows(matrices(dataset(features / "validation").to_table()))


def test_it_learns_and_its_numbers_are_those_of_the_weights_it_keeps(fitted, features, ray_cluster):
    record, out, events = fitted()
    inputs, label, *_ = held_out(features)
    with torch.no_grad():
        chances = train.load(out)(**inputs).softmax(1).numpy()
    assert record["score"] == pytest.approx(accuracy_score(label, chances.argmax(1)))
    assert record["validation_loss"] == pytest.approx(log_loss(label, chances), abs=1e-5)
    assert record["score"] > 0.9
    history = json.loads((out / "history.json").read_text())
    assert events == history
    assert [epoch["epoch"] for epoch in history] == [1, 2, 3, 4, 5, 6]
    assert record["best_epoch"] == 1 + np.argmin([e["validation_loss"] for e in history])
    assert (record["strategy"], record["workers"], record["feed"]) == ("ddp", 1, "memory")


def test_a_regression_is_scored_by_r2_and_learns_the_standardised_label(
    fitted, tmp_path, ray_cluster
):
    features = prepared_rows.written(UPath(tmp_path / "rows"), task="regression")
    record, out, _ = fitted(rows_in=features)
    inputs, label, *_ = held_out(features)
    described = json.loads((features / "statistics.json").read_text())["label"]
    with torch.no_grad():
        outputs = train.load(out)(**inputs)
    assert outputs.shape == (len(label), 1)
    values = outputs[:, 0] * described["deviation"] + described["mean"]
    assert record["score"] == pytest.approx(r2_score(label, values), abs=1e-5)
    assert record["score"] > 0.8


def test_the_seed_decides_the_numbers(fitted, ray_cluster):
    losses = [
        fitted(SETTINGS.model_copy(update={"seed": seed}), name=str(index))[0]["validation_loss"]
        for index, seed in enumerate([1, 1, 2])
    ]
    assert losses[0] == losses[1] != losses[2]


def test_it_stops_when_the_loss_no_longer_falls_and_keeps_the_best(fitted, features, ray_cluster):
    settings = SETTINGS.model_copy(update={"epochs": 80, "patience": 2, "learning_rate": 5e-2})
    record, out, _ = fitted(settings)
    assert record["epochs"] == record["best_epoch"] + 2 < 80
    inputs, label, *_ = held_out(features)
    loss = torch.nn.functional.cross_entropy(train.load(out)(**inputs), label).item()
    history = json.loads((out / "history.json").read_text())
    assert loss == pytest.approx(min(e["validation_loss"] for e in history), abs=1e-5)


def test_rows_may_be_streamed(fitted, ray_cluster):
    record, _, _ = fitted(SETTINGS.model_copy(update={"feed": "stream"}))
    assert record["feed"] == "stream"
    assert record["score"] > 0.8


KILLED = """
import os, signal, sys
import ray
from upath import UPath
from ray_pipeline.job import Model, Train
from ray_pipeline.model import train

def progress(event):
    if event["epoch"] == 3:
        os.kill(os.getpid(), signal.SIGKILL)

ray.init(log_to_driver=False)
features, model, settings, out = sys.argv[1:]
train.write(UPath(features), Model.model_validate_json(model), Train.model_validate_json(settings),
            UPath(out), work=UPath(out) / "work", progress=progress)
"""


def test_a_killed_training_goes_on_and_ends_as_if_it_had_not_been(
    fitted, features, tmp_path, ray_cluster
):
    whole, _, _ = fitted(name="whole")
    (tmp_path / "killed" / "work").mkdir(parents=True)
    arguments = [features, MODEL.model_dump_json(), SETTINGS.model_dump_json(), tmp_path / "killed"]
    command = [sys.executable, "-c", KILLED, *map(str, arguments)]
    environment = {**os.environ, "RAY_ADDRESS": ray_cluster.address}
    killed = subprocess.run(command, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    record, out, events = fitted(name="killed")
    assert record["resumed_after"] == 3
    assert [event["epoch"] for event in events] == [4, 5, 6]
    for key in ("validation_loss", "score", "best_epoch", "epochs"):
        assert record[key] == whole[key], key
    expected = train.load(out.parent / "whole").state_dict()
    for name, value in train.load(out).state_dict().items():
        assert torch.equal(value, expected[name])


def test_a_checkpoint_that_was_being_written_is_not_read(fitted, tmp_path, ray_cluster):
    work = tmp_path / "a" / "work"
    work.mkdir(parents=True)
    (work / ".checkpoint.pt").write_bytes(b"half of it")
    assert checkpoints.loaded(UPath(work)) is None
    record, _, _ = fitted()
    assert record["resumed_after"] == 0


def test_a_finished_training_is_only_written_again(fitted, ray_cluster):
    first, _, _ = fitted()
    again, _, events = fitted()
    assert events == []
    assert again["resumed_after"] == 6
    assert again["validation_loss"] == first["validation_loss"]


def test_a_loss_that_is_no_number_ends_training(fitted, tmp_path, ray_cluster):
    features = prepared_rows.written(UPath(tmp_path / "rows"))
    path = str(features / "train" / "0.parquet")
    held = matrices(pq.read_table(path))
    numbers = held["numbers"].copy()
    numbers[0, 0] = np.nan
    pq.write_table(prepared_rows.table_of(numbers, held["categories"], held["label"]), path)
    with pytest.raises(TrainingError, match="the loss became nan in epoch 1"):
        fitted(rows_in=features)


def test_an_error_of_the_users_network_is_told(fitted, ray_cluster):
    with pytest.raises(TrainingError, match="training failed: mat1 and mat2 shapes"):
        fitted(model=MODEL.model_copy(update={"name": f"{__name__}:misshapen"}))


def misshapen(model: Model, inputs: object) -> torch.nn.Module:
    class Misshapen(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(99, 2)

        def forward(self, numbers: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
            return self.linear(numbers)

    return Misshapen()


def test_curves_are_written_for_tensorboard(fitted, tmp_path, ray_cluster):
    _, out, _ = fitted(log_dir=UPath(tmp_path / "logs"))
    log = EventAccumulator(str(tmp_path / "logs"))
    log.Reload()
    history = json.loads((out / "history.json").read_text())
    for name in ("train_loss", "validation_loss", "score"):
        points = log.Scalars(name)
        assert [point.step for point in points] == [1, 2, 3, 4, 5, 6]
        assert [p.value for p in points] == pytest.approx([epoch[name] for epoch in history])


@pytest.mark.parametrize(
    ("settings", "gpus", "expected"),
    [
        (Train(), 0, 0),
        (Train(), 3, 3),
        (Train(workers=0), 3, 0),
        (Train(workers=2), 0, 2),
        (Train(strategy="zero1"), 0, 1),  # a stage needs a process group
        (Train(strategy="zero3", workers=4), 0, 4),
        (Train(workers={"min": 2, "max": 5}), 0, (2, 5)),
    ],
)
def test_workers_follow_the_job_and_the_cluster(settings, gpus, expected, monkeypatch):
    monkeypatch.setattr(train, "_cluster", {"GPU": gpus}.__getitem__)
    assert train._workers(settings) == expected


@pytest.mark.parametrize(("store", "expected"), [(1e9, "memory"), (1e4, "stream")])
def test_rows_are_streamed_when_they_would_fill_the_object_store(
    features, store, expected, monkeypatch
):
    # 600 rows of 3 + 2 numbers of 4 bytes and a label of 8: 16,800 bytes
    monkeypatch.setattr(train, "_cluster", {"object_store_memory": store}.__getitem__)
    assert train._feed(features, Train()) == expected
