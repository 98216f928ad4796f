"""What each strategy makes of the same rows: run on every worker, and compared by the tests."""

from __future__ import annotations

import gc
import io
from collections.abc import Sequence
from operator import itemgetter

import prepared_rows
import torch
import torch.distributed as dist
from upath import UPath

from ray_pipeline.job import Model, Offload, Train
from ray_pipeline.model import loop, memory, strategy, zoo
from ray_pipeline.model.feed import MemoryFeed, Place, dataset, matrices
from ray_pipeline.model.losses import part_loss

CPU = torch.device("cpu")
TRAIN = Train(batch_size=64, learning_rate=5e-3, epochs=2)
MODEL = Model(width=16, dropout=0.0)
WIDE = Model(width=512, depth=3, dropout=0.0)
"""Its layers are larger than those that stage 3 leaves whole on every worker."""
NAMES = ("ddp", "zero1", "zero2", "zero3")
CASES = {
    **{name: (name, TRAIN) for name in NAMES},
    "ddp in parts": ("ddp", TRAIN.model_copy(update={"accumulate": 4})),
    "zero2 in parts": ("zero2", TRAIN.model_copy(update={"accumulate": 4})),
    "zero2 beside": ("zero2", TRAIN.model_copy(update={"offload": Offload(optimizer="cpu")})),
    "zero3 beside": (
        "zero3",
        TRAIN.model_copy(update={"offload": Offload(optimizer="cpu", parameters="cpu")}),
    ),
    "ddp in bf16": ("ddp", TRAIN.model_copy(update={"precision": "bf16"})),
    "zero3 in bf16": ("zero3", TRAIN.model_copy(update={"precision": "bf16"})),
}
"""By name: a strategy, and the settings it trains with."""
FOUR = ("ddp", "zero2", "zero3")
Saved = tuple[strategy.Weights, object]


def feed_of(folder: str, rank: int, world: int) -> MemoryFeed:
    sides = [matrices(dataset(UPath(folder) / s).to_table()) for s in ("train", "validation")]
    return MemoryFeed(*sides, TRAIN.batch_size, Place(rank, world, CPU, TRAIN.seed))


def engine_of(name: str, train: Train, feed: MemoryFeed, saved: Saved | None = None):
    statistics = prepared_rows.statistics()
    torch.manual_seed(0)
    network = zoo.build(MODEL, loop.inputs(statistics))
    if saved is not None:
        network.load_state_dict(saved[0])
    engine = strategy.prepared(network, train, name, CPU, feed.share)
    if saved is not None:
        engine.restore(saved[1])
    return engine, network, statistics


def two_epochs(case: str, feed: MemoryFeed, ddp: Saved | None = None) -> dict[str, object]:
    """The losses of two epochs, and of the second again after restarts: from the first, and from
    that of `ddp`."""
    name, train = CASES[case]
    engine, network, statistics = engine_of(name, train, feed)
    losses = []
    for epoch in range(2):
        loss = loop.train_epoch(engine, feed, train, statistics, epoch)
        found = loop.validate(engine.model, feed, statistics, network)
        losses.append((loss, found["validation_loss"]))
        if epoch == 0:
            saved = kept(engine)
    final = engine.weights()
    again = []
    for start in (saved, ddp or saved):
        engine, _, _ = engine_of(name, train, feed, start)
        again.append(loop.train_epoch(engine, feed, train, statistics, 1))
    return {"losses": losses, "again": again, "weights": final, "saved": saved}


def kept(engine: strategy.Engine) -> Saved:
    """What a checkpoint holds, as it is read again: the optimizer goes on in place."""
    stored = io.BytesIO()
    torch.save((engine.weights(), engine.optimizer_state()), stored)
    stored.seek(0)
    return torch.load(stored, weights_only=True)


def every_case(folder: str, cases: Sequence[str]) -> dict[str, object]:
    """By case what `two_epochs` finds; on every worker."""
    feed = feed_of(folder, dist.get_rank(), dist.get_world_size())
    found, ddp = {}, None
    for case in cases:
        found[case] = two_epochs(case, feed, ddp)
        saved = found[case].pop("saved")
        ddp = saved if case == "ddp" else ddp
    return found


def every_case_and_bytes(folder: str, cases: Sequence[str]) -> dict[str, object]:
    """As `every_case`, and by strategy the `bytes_held`."""
    feed = feed_of(folder, dist.get_rank(), dist.get_world_size())
    return every_case(folder, cases) | {"bytes": {name: bytes_held(name, feed) for name in NAMES}}


def bytes_held(name: str, feed: MemoryFeed) -> tuple[float, float]:
    """Bytes of tensors when the optimizer steps, and what was said to be needed for states."""
    torch.manual_seed(0)
    before = storages()
    network = zoo.build(WIDE, loop.inputs(prepared_rows.statistics()))
    rows = next(feed.training(0))
    loss = part_loss(rows, prepared_rows.statistics())
    shape = memory.shape(
        network, lambda count: loss(network, rows.mapped(itemgetter(slice(count))))
    )
    engine = strategy.prepared(network, TRAIN, name, CPU, feed.share)
    optimizer = engine.optimizer if name == "ddp" else engine.sharded.optimizer
    held, step = [], optimizer.step

    def counted(*arguments: object) -> object:
        found = storages()
        held.append(sum(size for place, size in found.items() if place not in before))
        return step(*arguments)

    optimizer.step = counted
    for _ in range(2):  # moments are there from the first step on
        engine.step([rows], loss)
    need = memory.needed(shape, TRAIN, name, strategy.worker_count(), feed.share)
    return held[-1], need.total - need.activations


def storages() -> dict[int, int]:
    """The bytes of all tensors in this process, by where they are."""
    gc.collect()
    found = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    found += [each.grad for each in found if each.is_leaf and each.grad is not None]
    return {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in found}
