from __future__ import annotations

from functools import cache

import prepared_rows
import pytest
import torch
from strategy_cases import (
    CASES,
    FOUR,
    NAMES,
    every_case,
    every_case_and_bytes,
    feed_of,
    two_epochs,
)
from torch import nn
from upath import UPath
from worker_group import by_workers

from ray_pipeline.job import Train
from ray_pipeline.model import memory, strategy, zero
from ray_pipeline.model.adamw import AdamW

TOLERANCE = 1e-5
SHORT = 2e-2
"""What bfloat16's 8 bits make of the losses and weights of two epochs."""


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


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A function that gives what each case comes to with so many workers, on weighted rows; one
    is plain torch."""
    folder = UPath(tmp_path_factory.mktemp("strategies") / "features")
    features = str(prepared_rows.written(folder, rows=256, weighted=True))

    @cache
    def of(workers: int) -> dict[str, object]:
        if workers == 1:
            return {"ddp": two_epochs("ddp", feed_of(features, 0, 1))}
        made, cases = (every_case, FOUR) if workers == 4 else (every_case_and_bytes, list(CASES))
        return by_workers(workers, tmp_path_factory.mktemp("workers"), made, features, cases)

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
        torch.testing.assert_close(found[key], value, atol=3 * SHORT if short else 1e-4, rtol=1e-7)


@pytest.mark.parametrize(("workers", "case"), [(1, "ddp"), *EVERY])
def test_a_restart_goes_on_as_if_nothing_had_happened(shared, workers, case):
    own, from_ddp = shared(workers)[case]["again"]
    loss = shared(workers)[case]["losses"][1][0]
    assert own == pytest.approx(loss, abs=1e-6)
    short = CASES[case][1].precision != "fp32"
    assert from_ddp == pytest.approx(loss, abs=SHORT if short else TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_the_memory_of_states_is_as_predicted(shared, name):
    """DeepSpeed has freed gradients and its buffer when the optimizer steps; in the backward pass,
    for which a plan is made as well, they are there."""
    measured, predicted = shared(2)["bytes"][name]
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
