from __future__ import annotations

import numpy as np
import prepared_rows
import pytest
import torch
from prepared_rows import lines
from upath import UPath

from ray_pipeline.errors import TrainingError
from ray_pipeline.model.feed import MemoryFeed, Place, dataset, matrices, rows
from ray_pipeline.model.stream import StreamFeed

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return prepared_rows.written(UPath(tmp_path_factory.mktemp("rows") / "features"))


def memory(features, world=1, rank=0, batch_size=64, seed=3):
    sides = [matrices(dataset(features / side).to_table()) for side in ("train", "validation")]
    return MemoryFeed(*sides, batch_size, Place(rank, world, CPU, seed))


def test_an_epoch_passes_each_row_at_most_once(features):
    found = lines(memory(features).training(0))
    assert len(found) == 600 // 64 * 64
    assert len(np.unique(found, axis=0)) == len(found)


def test_the_order_follows_seed_and_epoch(features):
    def first(epoch, seed=3):
        return next(memory(features, seed=seed).training(epoch)).inputs["numbers"]

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))
    assert not torch.equal(first(0), first(0, seed=4))


def test_two_workers_share_each_batch_of_one(features):
    alone = memory(features).training(5)
    pair = [memory(features, 2, rank).training(5) for rank in (0, 1)]
    for whole, left, right in zip(alone, *pair, strict=True):
        np.testing.assert_array_equal(lines([whole]), lines([left, right]))


@pytest.mark.parametrize("world", [1, 3])
def test_validation_is_every_row_once(features, world):
    table = dataset(features / "validation").to_table()
    expected = lines([rows(matrices(table))])
    shards = [list(memory(features, world, rank).validation()) for rank in range(world)]
    np.testing.assert_array_equal(lines([b for shard in shards for b in shard]), expected)
    streams = [StreamFeed(features, 64, Place(r, world, CPU, 0)) for r in range(world)]
    streamed = [list(stream.validation()) for stream in streams]
    np.testing.assert_array_equal(lines([b for shard in streamed for b in shard]), expected)
    assert all(streamed)


def test_more_workers_than_rows_is_an_error(features):
    with pytest.raises(TrainingError, match="cannot be shared by 3 workers"):
        memory(features, world=3, batch_size=2)


def test_absent_columns_are_matrices_of_no_width():
    table = prepared_rows.table_of(
        np.ones((4, 2), np.float32), np.ones((4, 1), np.int32), np.zeros(4, np.int64)
    )
    assert matrices(table.drop_columns("categories"))["categories"].shape == (4, 0)
