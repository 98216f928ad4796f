from __future__ import annotations

import gc
import io
import sys
from collections.abc import Sequence
from functools import cache
from operator import itemgetter

import numpy as np
import prepared_rows
import pytest
import ray
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch import nn
from upath import UPath

from ray_pipeline.job import Model, Offload, Train
from ray_pipeline.model import loop, memory, strategy, train, zero, zoo
from ray_pipeline.model.adamw import AdamW
from ray_pipeline.model.environment import variables
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
TOLERANCE = 1e-5
SHORT = 2e-2
"""What bfloat16's 8 bits make of the losses and weights of two epochs."""
Saved = tuple[strategy.Weights, object]


def twins() -> tuple[nn.Module, nn.Module]:
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        made.append(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1), nn.Linear(1, 1)))
    return made[0], made[1]


def test_adamw_is_torchs():
    ours, theirs = twins()
    mine = AdamW(list(ours.parameters()), 1e-2, 0.1)
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


SHAPE = memory.Shape(trained=1000, frozen=0, largest=1000, row_bytes=0.0)


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        (16_000, "ddp"),  # 4 + 4 + 8 bytes a parameter
        (15_999, "zero1"),
        (15_000, "zero1"),  # 4 + (4 + 4 for the buffer) + 12/4
        (14_999, "zero2"),
        (12_000, "zero2"),  # 4 + (4/4 + 4) + 12/4
        (11_999, "zero3"),
    ],
)
def test_auto_shards_as_little_as_fits(available, expected):
    assert strategy.chosen(Train(), SHAPE, 4, 1, available) == expected


def test_stages_come_in_turn_where_buffers_are_small_beside_the_network():
    large = memory.Shape(trained=10**10, frozen=0, largest=10**7, row_bytes=0.0)
    gigabytes = (160, 100, 65, 30)
    found = [strategy.chosen(Train(), large, 8, 1, size * 10**9) for size in gigabytes]
    assert found == list(NAMES)


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
        losses.append((loss, loop.validate(engine, feed, statistics, network)["validation_loss"]))
        if epoch == 0:
            saved = kept(engine)
    final = {key: value.numpy() for key, value in engine.weights().items()}
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


def every_strategy(config: dict[str, object]) -> dict[str, object]:
    context = ray.train.get_context()
    feed = feed_of(config["folder"], context.get_world_rank(), context.get_world_size())
    found, ddp = {}, None
    for case in config["cases"]:
        found[case] = two_epochs(case, feed, ddp)
        saved = found[case].pop("saved")  # tensors cannot be returned
        ddp = saved if case == "ddp" else ddp
    return found | {"bytes": {name: bytes_held(name, feed) for name in NAMES}}


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
    found += [each.grad for each in found if each.grad is not None]
    return {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in found}


def by_workers(count: int, cases: Sequence[str], features: UPath) -> dict[str, object]:
    trainer = TorchTrainer(
        every_strategy,
        train_loop_config={"folder": str(features), "cases": cases},
        scaling_config=ScalingConfig(num_workers=count, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(storage_path=str(features / "ray")),
    )
    with variables(train.PROMPT):
        return trainer.fit().return_value


@pytest.fixture(scope="module")
def shared(ray_cluster, tmp_path_factory):
    """A function that gives what each case comes to with so many workers, on weighted rows; one
    is plain torch."""
    for module in (sys.modules[__name__], prepared_rows):  # workers do not see the test folders
        ray.cloudpickle.register_pickle_by_value(module)
    features = prepared_rows.written(
        UPath(tmp_path_factory.mktemp("strategies") / "features"), weighted=True
    )

    @cache
    def of(workers: int) -> dict[str, object]:
        if workers == 1:
            return {"ddp": two_epochs("ddp", feed_of(str(features), 0, 1))}
        return by_workers(workers, FOUR if workers == 4 else list(CASES), features)

    return of


EVERY = [(2, case) for case in CASES] + [(4, case) for case in FOUR]


@pytest.mark.parametrize(("workers", "case"), EVERY)
def test_workers_learn_what_one_does(shared, workers, case):
    found = torch.tensor(shared(workers)[case]["losses"])
    expected = torch.tensor(shared(1)["ddp"]["losses"])
    short = CASES[case][1].precision != "fp32"
    torch.testing.assert_close(found, expected, atol=SHORT if short else TOLERANCE, rtol=0)
    assert found[1, 1] < found[0, 1]


@pytest.mark.parametrize(("workers", "case"), EVERY)
def test_the_gathered_weights_are_whole_and_equal(shared, workers, case):
    expected, found = shared(1)["ddp"]["weights"], shared(workers)[case]["weights"]
    assert found.keys() == expected.keys()
    short = CASES[case][1].precision != "fp32"
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, atol=3 * SHORT if short else 1e-4)


@pytest.mark.parametrize(("workers", "case"), [(1, "ddp"), *EVERY])
def test_a_restart_goes_on_as_if_nothing_had_happened(shared, workers, case):
    own, from_ddp = shared(workers)[case]["again"]
    loss = shared(workers)[case]["losses"][1][0]
    assert own == pytest.approx(loss, abs=1e-6)
    short = CASES[case][1].precision != "fp32"
    assert from_ddp == pytest.approx(loss, abs=SHORT if short else TOLERANCE)


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("name", NAMES)
def test_the_memory_of_states_is_as_predicted(shared, workers, name):
    """DeepSpeed has freed gradients and its buffer when the optimizer steps; in the backward pass,
    for which a plan is made as well, they are there."""
    measured, predicted = shared(workers)["bytes"][name]
    if name == "ddp":
        assert measured == pytest.approx(predicted, rel=0.01)
    else:
        assert predicted / 2 < measured < 1.2 * predicted


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_knows_every_key_of_its_configuration(stage):
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    places = {"optimizer": "cpu"}
    if stage == 3:
        places = {"optimizer": "nvme", "parameters": "nvme", "folder": "/fast"}
    settings = Train(strategy=f"zero{stage}", offload=places, accumulate=4, precision="bf16")
    made = zero.configuration(settings, stage, share=32, parameters=1000)
    understood = DeepSpeedZeroConfig(**made["zero_optimization"])
    assert understood.stage == stage
    assert not understood.model_extra
    assert understood.offload_optimizer.device == places["optimizer"]
    assert not understood.offload_optimizer.model_extra
    if stage == 3:
        assert str(understood.offload_param.nvme_path) == "/fast"
    assert understood.reduce_bucket_size == 1000
    assert made["train_micro_batch_size_per_gpu"] == 8
    assert made["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}
