"""The mean of a network's latest weights, as what an epoch of a trial is judged by.

While the learning rate is high, the validation loss of an epoch hangs on its last few steps, and
which of two trials is the better one is nearly chance. Over 120 trials of the income job's space,
with six epochs, the order after the third agreed with the order at the end to a rank correlation of
0.22 by the last weights and of 0.98 by their mean; after the first to 0.57 and 0.74. At the end,
where the rate has come down, the two losses are the same.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

WINDOW = 0.2
"""Share of an epoch whose steps count: older ones have a weight of 1/e together."""


class Averaged:
    """Call it after each step: `network` then has the exponential moving mean of the weights.

    Buffers, such as the running statistics of batch normalisation, are those of the last step.
    torch's own `AveragedModel` takes seven times as long for a small network: 0.4 ms.
    """

    def __init__(self, trained: nn.Module, steps: int) -> None:
        """`steps` are those of an epoch."""
        self.network = copy.deepcopy(trained)
        self.share = min(1.0, 1 / (WINDOW * steps))
        self.means, self.latest = _weights(self.network), _weights(trained)
        self.begun = False
        pairs = zip(self.network.buffers(), trained.buffers(), strict=True)
        self.buffers = [(own, latest) for own, latest in pairs if own.numel()]

    @torch.no_grad()
    def __call__(self) -> None:
        torch._foreach_lerp_(self.means, self.latest, self.share if self.begun else 1.0)
        self.begun = True  # the weights that were drawn are no part of the mean
        for own, latest in self.buffers:
            own.copy_(latest)


def _weights(network: nn.Module) -> list[Tensor]:
    """The weights that are trained: what is frozen is the same in both networks."""
    return [weight.detach() for weight in network.parameters() if weight.requires_grad]
