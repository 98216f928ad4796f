"""Weights of training rows, from the prepared files to the loss."""

from __future__ import annotations

import json

import numpy as np
import prepared_rows
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss
from upath import UPath

from ray_pipeline.job import Model, Range, Train, Tune
from ray_pipeline.model import losses, train, tune
from ray_pipeline.model.feed import MemoryFeed, Place, Rows, dataset, matrices
from ray_pipeline.model.stream import StreamFeed

PLACE = Place(0, 1, torch.device("cpu"), 3)
CLASSES = prepared_rows.statistics()
VALUES = prepared_rows.statistics("regression", np.array([10.0, 20.0, 60.0]))


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    folder = UPath(tmp_path_factory.mktemp("weights") / "features")
    return prepared_rows.written(folder, weighted=True)


def test_a_row_of_weight_two_is_a_row_given_twice():
    logits, label = torch.randn(6, 2), torch.tensor([0, 1, 1, 0, 1, 0])
    weight = torch.tensor([2.0, 0.0, 1.0, 1.0, 2.0, 0.0])
    place = torch.tensor([0, 0, 2, 3, 4, 4])
    found = losses.training_loss(logits, Rows({}, label, weight), CLASSES)
    torch.testing.assert_close(found, cross_entropy(logits[place], label[place]))
    values = torch.tensor([10.0, 20.0, 30.0, 60.0, 50.0, 0.0])
    found = losses.training_loss(logits[:, :1], Rows({}, values, weight), VALUES)
    scaled = (values - VALUES.label.mean) / VALUES.label.deviation
    torch.testing.assert_close(found, mse_loss(logits[place, 0], scaled[place]))


def test_without_weights_the_loss_is_torchs_own():
    logits, label = torch.randn(50, 2), torch.randint(0, 2, (50,))
    assert torch.equal(losses.loss_of(logits, label, CLASSES), cross_entropy(logits, label))


def assert_own_weights(batches):
    for batch in batches:
        expected = prepared_rows.weight_of(batch.inputs["numbers"].numpy())
        np.testing.assert_array_equal(batch.weight.numpy(), expected)


def test_each_row_keeps_its_weight_in_memory_and_in_a_stream(features):
    sides = [matrices(dataset(features / side).to_table()) for side in ("train", "validation")]
    memory = MemoryFeed(*sides, 60, PLACE)
    stream = StreamFeed(features, 60, PLACE)
    for feed in (memory, stream):
        batches = list(feed.training(1))
        assert len(batches) == 10
        assert_own_weights(batches)
        assert all(batch.weight is None for batch in feed.validation())


def test_training_and_search_follow_the_weights(features, tmp_path, ray_cluster):
    """With all weight on the rows of one class, every row is predicted to be of it."""
    lopsided = UPath(tmp_path / "features")
    prepared_rows.written(lopsided, weighted=True)
    for path in (lopsided / "train").glob("*.parquet"):
        one_sided(path)
    model = Model(width=8, frequencies=0)
    settings = Train(workers=0, feed="memory", epochs=2, batch_size=64, learning_rate=1e-2)
    out = made(tmp_path / "trained")
    train.write(
        lopsided, model, settings, out, work=made(out / "work"), progress=lambda event: None
    )
    held = matrices(dataset(lopsided / "validation").to_table())
    with torch.no_grad():
        said = train.load(out)(
            torch.tensor(held["numbers"]), torch.tensor(held["categories"])
        ).argmax(1)
    assert said.float().mean() > 0.98
    assert held["label"].mean() < 0.6
    searching = Tune(trials=1, epochs=4, space={"model.width": Range(choice=(8,))})
    found = made(tmp_path / "searched")
    tune.write(
        lopsided,
        model,
        settings,
        searching,
        found,
        work=made(found / "work"),
        progress=lambda event: None,
    )
    [trial] = json.loads((found / "trials.json").read_text())
    # The best epoch, by the loss of rows without weights, is one that has learned little of them.
    last = trial["history"][-1]
    assert last["score"] == pytest.approx(held["label"].mean(), abs=0.02)


def one_sided(path: UPath) -> None:
    table = pq.read_table(str(path))
    weight = pa.array(table["label"].to_numpy().astype(np.float32))
    pq.write_table(table.drop_columns("weight").append_column("weight", weight), str(path))


def made(folder) -> UPath:
    folder.mkdir(parents=True)
    return UPath(folder)
