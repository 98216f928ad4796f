"""Parts of a step, and computing in shorter types, in one process."""

from __future__ import annotations

import prepared_rows
import pytest
import torch
from torch import nn

from ray_pipeline.errors import TrainingError
from ray_pipeline.job import Model, Train
from ray_pipeline.model import loop, strategy, zoo
from ray_pipeline.model.feed import Rows
from ray_pipeline.model.losses import part_loss, parts

CPU = torch.device("cpu")
STATISTICS = prepared_rows.statistics()


def batch(count: int = 60, seed: int = 0) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(count, 3, generator=generator)
    inputs = {"numbers": numbers, "categories": torch.zeros(count, 2, dtype=torch.int64)}
    weight = torch.rand(count, generator=generator)
    return Rows(inputs, (numbers[:, 0] > 0).long(), weight)


def trained(
    steps: int = 8, scale: float = 1.0, **settings: object
) -> tuple[list[float], strategy.Plain]:
    torch.manual_seed(0)
    network = zoo.build(Model(width=32, dropout=0.0), loop.inputs(STATISTICS))
    train = Train(learning_rate=1e-2, **settings)
    engine = strategy.prepared(network, train, "ddp", CPU, 60)
    losses = []
    for step in range(steps):
        rows = batch(seed=step)
        loss = part_loss(rows, STATISTICS)
        scaled = lambda model, part, loss=loss: loss(model, part) * scale  # noqa: E731
        losses.append(engine.step(parts(rows, train.accumulate), scaled).item())
    assert isinstance(engine, strategy.Plain)
    return losses, engine


@pytest.mark.parametrize("count", [2, 7])
def test_a_step_in_parts_is_the_same_step(count):
    whole, expected = trained()
    found, engine = trained(accumulate=count)
    assert found == pytest.approx(whole, abs=1e-5)
    for name, value in expected.weights().items():
        torch.testing.assert_close(engine.weights()[name], value, atol=1e-4, rtol=0)


def test_parts_are_all_rows_once_and_nearly_equal():
    cut = parts(batch(60), 7)
    assert {len(part.label) for part in cut} == {8, 9}
    assert torch.equal(torch.cat([p.inputs["numbers"] for p in cut]), batch(60).inputs["numbers"])


def test_more_parts_than_rows_are_refused():
    with pytest.raises(TrainingError, match="3 rows cannot be taken in 4 parts"):
        parts(batch(3), 4)


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 2e-2), ("fp16", 3e-3)])
def test_shorter_types_learn_the_same(precision, tolerance):
    expected, _ = trained()
    found, engine = trained(precision=precision)
    assert found[-1] < found[0]
    assert found != expected
    assert found == pytest.approx(expected, abs=tolerance)
    assert all(
        value.dtype == torch.float32
        for value in engine.weights().values()
        if value.is_floating_point()
    )


def test_fp16_scales_the_loss_and_skips_a_step_that_overflows():
    _, engine = trained(steps=1, precision="fp16")
    before, scale = engine.weights(), engine.scaler.get_scale()

    def overflowing(model: nn.Module, rows: Rows) -> torch.Tensor:
        return model(**rows.inputs).float().sum() * 1e30

    engine.step([batch()], overflowing)
    assert engine.scaler.get_scale() == scale / 2
    assert all(torch.equal(engine.weights()[name], value) for name, value in before.items())
    state = engine.optimizer_state()
    _, fresh = trained(steps=0, precision="fp16")
    fresh.restore(state)
    assert fresh.scaler.get_scale() == scale / 2


def test_small_gradients_survive_in_fp16():
    """A loss of 1e-6 has gradients that float16 cannot hold; scaled, they train."""
    _, engine = trained(steps=5, scale=1e-6, precision="fp16")
    _, fresh = trained(steps=0, precision="fp16")
    moved = [
        (engine.weights()[name] - value).abs().max().item()
        for name, value in fresh.weights().items()
        if value.is_floating_point() and "layers" in name
    ]
    assert min(moved) > 1e-3
