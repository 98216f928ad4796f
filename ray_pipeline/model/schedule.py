"""The learning rate, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable

from ray_pipeline.job import Train

FALLS: dict[str, Callable[[float], float]] = {
    "cosine": lambda passed: 0.5 * (1 + math.cos(math.pi * passed)),
    "linear": lambda passed: 1 - passed,
    "constant": lambda passed: 1.0,
}
"""What is left of the learning rate when a share of the steps has passed."""


def rate_factor(train: Train, step: int, steps: int) -> float:
    """The learning rate's share of its highest value: a linear rise, and the schedule's fall to 0.

    The cosine is that of Loshchilov & Hutter (2017), https://arxiv.org/abs/1608.03983.
    """
    rise = min(1.0, (step + 1) / max(1.0, train.warm_up * steps))
    return rise * FALLS[train.schedule](step / steps)
