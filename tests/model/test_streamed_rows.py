from __future__ import annotations

import numpy as np
import prepared_rows
import pytest
import torch
from prepared_rows import lines
from upath import UPath

from ray_pipeline.model import stream
from ray_pipeline.model.feed import Place, dataset, matrices, rows
from ray_pipeline.model.stream import StreamFeed


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """600 training rows in two files, in row groups of 40."""
    return prepared_rows.written(UPath(tmp_path_factory.mktemp("rows") / "features"))


def feed(features, batch_size=60, world=1, rank=0, seed=3):
    return StreamFeed(features, batch_size, Place(rank, world, torch.device("cpu"), seed))


def same(one, other):
    return all(
        torch.equal(left.label, right.label)
        and torch.equal(left.inputs["numbers"], right.inputs["numbers"])
        for left, right in zip(one, other, strict=True)
    )


def test_an_epoch_is_all_rows(features):
    batches = list(feed(features).training(0))
    assert [len(batch.label) for batch in batches] == [60] * 10
    expected = rows(matrices(dataset(features / "train").to_table()))
    np.testing.assert_array_equal(lines(batches), lines([expected]))


def test_the_order_follows_seed_and_epoch(features, monkeypatch):
    monkeypatch.setattr(stream, "POOL", 2)  # rows come from far, not only from their pool

    def epoch(number, seed=3):
        return list(feed(features, seed=seed).training(number))

    assert same(epoch(0), epoch(0))
    assert not same(epoch(0), epoch(1))
    assert not same(epoch(0), epoch(0, seed=4))
    first, second = (lines(epoch(number)[:2]) for number in (0, 1))
    assert not np.array_equal(first, second), "other row groups come first"


@pytest.mark.parametrize("world", [2, 3, 7])
def test_no_row_is_given_to_two_workers(features, world):
    shares = [list(feed(features, 64, world, rank).training(2)) for rank in range(world)]
    share = 64 // world
    assert all([len(b.label) for b in one] == [share] * (600 // (share * world)) for one in shares)
    found = lines([batch for one in shares for batch in one])
    assert len(np.unique(found, axis=0)) == len(found) == 600 // (share * world) * share * world


@pytest.mark.parametrize("start", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("rank", [0, 1])
def test_an_epoch_goes_on_where_it_was(features, monkeypatch, start, rank):
    monkeypatch.setattr(stream, "POOL", 2)
    whole = list(feed(features, world=2, rank=rank).training(4))
    assert same(feed(features, world=2, rank=rank).training(4, start), whole[start:])


def test_what_was_trained_before_is_not_read_again(features, monkeypatch):
    monkeypatch.setattr(stream, "POOL", 2)
    read = []
    cut = stream._cut

    def counted(groups, begin, end):
        for batch in cut(groups, begin, end):
            read.append(len(batch))
            yield batch

    monkeypatch.setattr(stream, "_cut", counted)
    list(feed(features).training(0, 8))
    assert sum(read) == 2 * 60


def test_tables_are_cut_across_row_groups(features):
    groups = stream.row_groups(features / "train")
    whole = dataset(features / "train").to_table()
    found = list(stream.tables(groups, 30, 590, 100))
    assert [len(table) for table in found] == [100] * 5 + [60]
    joined = np.concatenate([matrices(table)["numbers"] for table in found])
    np.testing.assert_array_equal(joined, matrices(whole)["numbers"][30:590])


def test_a_file_that_is_gone_is_said(features, tmp_path):
    copied = prepared_rows.written(UPath(tmp_path / "features"))
    opened = feed(copied)
    for path in (copied / "train").glob("*.parquet"):
        path.unlink()
    with pytest.raises(FileNotFoundError):
        list(opened.training(0))
