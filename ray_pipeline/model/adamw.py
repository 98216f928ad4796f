"""AdamW (Loshchilov & Hutter, 2019, https://arxiv.org/abs/1711.05101) by torch's fused kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw


class AdamW:
    """torch's AdamW kernel, without torch.optim's classes.

    Those import the compiler and sympy when the first one is made: 1.2 s in every process, which
    is a whole short trial. Parameters without a gradient are left alone, as there.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], rate: float, decay: float) -> None:
        self.parameters, self.rate, self.decay = parameters, rate, decay
        self.means = [torch.zeros_like(parameter) for parameter in parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in parameters]
        self.steps = [torch.zeros((), device=parameter.device) for parameter in parameters]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """What torch's gradient scaler asks an optimizer for."""
        return [{"params": self.parameters}]

    @torch.no_grad()
    def step(self) -> None:
        lists: tuple[list[Tensor], ...] = ([], [], [], [], [])
        everything = (self.parameters, self.means, self.squares, self.steps)
        for parameter, *state in zip(*everything, strict=True):
            if parameter.grad is not None:
                for each, value in zip(lists, (parameter, parameter.grad, *state), strict=True):
                    each.append(value)
        parameters, gradients, means, squares, steps = lists
        adamw(
            parameters,
            gradients,
            means,
            squares,
            [],
            steps,
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self.rate,
            weight_decay=self.decay,
            eps=1e-8,
            maximize=False,
        )

    def state_dict(self) -> dict[str, list[Tensor]]:
        return {"means": self.means, "squares": self.squares, "steps": self.steps}

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        for name, saved in state.items():
            for mine, value in zip(getattr(self, name), saved, strict=True):
                mine.copy_(value)
