from __future__ import annotations

import numpy as np
import pytest

from ray_pipeline.job import Train
from ray_pipeline.model.schedule import rate_factor

STEPS = 100


def rates(**settings: object) -> np.ndarray:
    return np.array([rate_factor(Train(**settings), step, STEPS) for step in range(STEPS + 1)])


def test_the_learning_rate_rises_then_falls_to_nothing():
    found = rates()
    peak = int(np.argmax(found))
    assert 5 <= peak <= 10
    assert np.all(np.diff(found[: peak + 1]) > 0)
    assert np.all(np.diff(found[peak:]) < 0)
    assert found[peak] > 0.95
    assert found[-1] == pytest.approx(0)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_without_a_warm_up_the_fall_is_that_of_transformers(schedule):
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = get_scheduler(schedule, optimizer, 0, STEPS)
    expected = [reference.lr_lambdas[0](step) for step in range(STEPS + 1)]
    np.testing.assert_allclose(rates(schedule=schedule, warm_up=0), expected, atol=1e-12)


def test_a_constant_rate_stays_once_it_has_risen():
    found = rates(schedule="constant", warm_up=0.2)
    np.testing.assert_allclose(found[:20], np.arange(1, 21) / 20)
    assert np.all(found[20:] == 1)
