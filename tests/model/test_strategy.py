from __future__ import annotations

import sys

import numpy as np
import prepared_rows
import pytest
import ray
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch import nn
from upath import UPath

from ray_pipeline.job import Model, Train
from ray_pipeline.model import loop, strategy, zoo
from ray_pipeline.model.feed import MemoryFeed, Place, dataset, matrices

CPU = torch.device("cpu")
TRAIN = Train(batch_size=64, learning_rate=5e-3, epochs=2)
MODEL = Model(width=16, dropout=0.0)
NAMES = ("ddp", "zero1", "zero2", "zero3")
TOLERANCE = 1e-5


def twins() -> tuple[nn.Module, nn.Module]:
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        made.append(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1), nn.Linear(1, 1)))
    return made[0], made[1]


def test_adamw_is_torchs():
    ours, theirs = twins()
    mine = strategy.AdamW(list(ours.parameters()), 1e-2, 0.1)
    torchs = torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0.1)
    for step in range(20):
        rows = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        for network, optimizer in ((ours, mine), (theirs, torchs)):
            for parameter in network.parameters():
                parameter.grad = None
            network[:3](rows).square().mean().backward()  # the last layer gets no gradient
            optimizer.step()
    for left, right in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(left, right)


@pytest.mark.parametrize(
    ("workers", "gpu_bytes", "expected"),
    [
        (1, 10, "ddp"),  # nothing to share with
        (4, None, "ddp"),
        (4, 32_000, "ddp"),  # 16 bytes a parameter, in half of the memory
        (4, 31_999, "zero1"),
        (4, 20_000, "zero1"),  # 4 + 4 + 8/4
        (4, 19_999, "zero2"),
        (4, 14_000, "zero2"),  # 4 + 12/4
        (4, 13_999, "zero3"),
    ],
)
def test_auto_shards_as_little_as_fits(workers, gpu_bytes, expected):
    assert strategy.chosen(Train(), 1000, workers, gpu_bytes) == expected


def test_a_strategy_asked_for_is_not_changed():
    assert strategy.chosen(Train(strategy="zero2"), 1000, 1, None) == "zero2"


def feed_of(folder: str, rank: int, world: int) -> MemoryFeed:
    sides = [matrices(dataset(UPath(folder) / s).to_table()) for s in ("train", "validation")]
    return MemoryFeed(*sides, TRAIN.batch_size, Place(rank, world, CPU, TRAIN.seed))


def engine_of(name: str, feed: MemoryFeed, weights: strategy.Weights | None = None):
    statistics = prepared_rows.statistics()
    torch.manual_seed(0)
    network = zoo.build(MODEL, loop.inputs(statistics))
    if weights is not None:
        network.load_state_dict(weights)
    return strategy.prepared(network, TRAIN, name, CPU, feed.share), network, statistics


def two_epochs(name: str, feed: MemoryFeed) -> dict[str, object]:
    """The losses of two epochs, and of the second again after a restart from the first."""
    engine, network, statistics = engine_of(name, feed)
    losses = []
    for epoch in range(2):
        loss = loop.train_epoch(engine, feed, TRAIN, statistics, epoch)
        losses.append((loss, loop.validate(engine, feed, statistics, network)["validation_loss"]))
        if epoch == 0:
            weights, state = engine.weights(), engine.optimizer_state()
            if strategy.worker_count() > 1 and name != "ddp":
                shared = [state]
                torch.distributed.broadcast_object_list(shared)
                state = shared[0]
            # a copy, for the optimizer goes on in place
            state = torch.utils._pytree.tree_map(
                lambda v: v.clone() if isinstance(v, torch.Tensor) else v, state
            )
    final = {key: value.numpy() for key, value in engine.weights().items()}
    engine, network, _ = engine_of(name, feed, weights)
    engine.restore(state)
    again = loop.train_epoch(engine, feed, TRAIN, statistics, 1)
    return {"losses": losses, "again": again, "weights": final}


def every_strategy(config: dict[str, str]) -> dict[str, object]:
    context = ray.train.get_context()
    feed = feed_of(config["folder"], context.get_world_rank(), context.get_world_size())
    return {name: two_epochs(name, feed) for name in NAMES}


@pytest.fixture(scope="module")
def shared(ray_cluster, tmp_path_factory):
    """What each strategy gives with two workers, and plain torch with one, on weighted rows."""
    for module in (sys.modules[__name__], prepared_rows):  # workers do not see the test folders
        ray.cloudpickle.register_pickle_by_value(module)
    folder = tmp_path_factory.mktemp("strategies")
    features = prepared_rows.written(UPath(folder / "features"), weighted=True)
    trainer = TorchTrainer(
        every_strategy,
        train_loop_config={"folder": str(features)},
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(storage_path=str(folder / "ray")),
    )
    return {
        "alone": two_epochs("ddp", feed_of(str(features), 0, 1)),
        **trainer.fit().return_value,
    }


@pytest.mark.parametrize("name", NAMES)
def test_two_workers_learn_what_one_does(shared, name):
    found = torch.tensor(shared[name]["losses"])
    torch.testing.assert_close(
        found, torch.tensor(shared["alone"]["losses"]), atol=TOLERANCE, rtol=0
    )
    assert found[1, 1] < found[0, 1]


@pytest.mark.parametrize("name", NAMES)
def test_the_gathered_weights_are_whole_and_equal(shared, name):
    expected = shared["alone"]["weights"]
    assert shared[name]["weights"].keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(shared[name]["weights"][key], value, atol=1e-4)


@pytest.mark.parametrize("name", ["alone", *NAMES])
def test_a_restart_goes_on_as_if_nothing_had_happened(shared, name):
    assert shared[name]["again"] == pytest.approx(shared[name]["losses"][1][0], abs=1e-6)
