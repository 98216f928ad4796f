"""Networks for rows of numbers and categories.

The MLP and the residual network are those of Gorishniy et al., "Revisiting Deep Learning Models
for Tabular Data" (2021), https://arxiv.org/abs/2106.11959, sections 3.1 and 3.2. Numbers are
embedded as in Gorishniy et al., "On Embeddings for Numerical Features in Tabular Deep Learning"
(2022), https://arxiv.org/abs/2203.05556: sines and cosines of trained frequencies, a linear layer
shared by the columns, ReLU (there "PLR").
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from ray_pipeline.job import Model
from ray_pipeline.model.inputs import Inputs


class Waves(nn.Module):
    """[N, F] numbers → [N, F × embedding], through sines and cosines of trained frequencies."""

    def __init__(self, columns: int, model: Model) -> None:
        super().__init__()
        start = torch.randn(columns, model.frequencies) * model.frequency_scale
        self.frequencies = nn.Parameter(2 * math.pi * start)
        self.mixed = nn.Linear(2 * model.frequencies, model.embedding)

    def forward(self, numbers: Tensor) -> Tensor:
        angles = numbers.unsqueeze(2) * self.frequencies  # [N, F, frequencies]
        return relu(self.mixed(torch.cat([angles.cos(), angles.sin()], dim=2))).flatten(1)


class Embedded(nn.Module):
    """[N, F] numbers and [N, C] category indices → [N, width], what the first layer reads.

    All category columns share one table, each from its own offset on: one lookup, whatever C is.
    """

    offsets: Tensor

    def __init__(self, model: Model, inputs: Inputs) -> None:
        super().__init__()
        sizes, numbers = inputs.categories, inputs.numbers
        # Waves are for quantities: a thousand terms of a text would drown in them.
        self.waved = numbers if inputs.embedded is None else inputs.embedded
        self.waves = Waves(self.waved, model) if self.waved and model.frequencies else None
        self.table = nn.Embedding(sum(sizes), model.embedding) if sizes else None
        vectors = len(sizes) + (self.waved if self.waves else 0)
        self.width = numbers + vectors * model.embedding
        starts = [sum(sizes[:column]) for column in range(len(sizes))]
        self.register_buffer("offsets", torch.tensor(starts, dtype=torch.int64), persistent=False)

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        parts = [numbers]
        if self.waves is not None:
            whole = numbers.shape[1] == self.waved  # a slice of all would stay in the graph
            parts.append(self.waves(numbers if whole else numbers[:, : self.waved]))
        if self.table is not None:
            parts.append(self.table(categories + self.offsets).flatten(1))
        return torch.cat(parts, dim=1)


class Dropout(nn.Dropout):
    """torch's dropout, with 16 random bits for a value where the CPU computes.

    torch draws one at a time there, a quarter of a training step; `p` is kept to within 1/65,536.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        if not self.training or self.p == 0 or hidden.device.type != "cpu":
            return super().forward(hidden)
        draws = torch.empty((hidden.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        bits = draws.view(torch.int16)[: hidden.numel()].view(hidden.shape)
        mask = torch.empty(hidden.shape, dtype=hidden.dtype)
        torch.ge(bits, round(self.p * 2**16) - 2**15, out=mask)  # as floats: bools are slower
        return hidden * mask.mul_(1 / (1 - self.p))


class Mlp(nn.Module):
    """`depth` times Linear → ReLU → Dropout, then Linear."""

    def __init__(self, model: Model, inputs: Inputs) -> None:
        super().__init__()
        self.embedded = Embedded(model, inputs)
        layers: list[nn.Module] = []
        width = self.embedded.width
        for _ in range(model.depth):
            layers += [nn.Linear(width, model.width), nn.ReLU(), Dropout(model.dropout)]
            width = model.width
        self.layers = nn.Sequential(*layers, nn.Linear(width, inputs.outputs))

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        logits: Tensor = self.layers(self.embedded(numbers, categories))
        return logits


class ResNet(nn.Module):
    """Linear, `depth` residual blocks with hidden layers of twice the width, then a head."""

    def __init__(self, model: Model, inputs: Inputs) -> None:
        super().__init__()
        self.embedded = Embedded(model, inputs)
        self.first = nn.Linear(self.embedded.width, model.width)
        self.blocks = nn.ModuleList(_block(model) for _ in range(model.depth))
        self.head = nn.Sequential(
            nn.BatchNorm1d(model.width), nn.ReLU(), nn.Linear(model.width, inputs.outputs)
        )

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        hidden = self.first(self.embedded(numbers, categories))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        logits: Tensor = self.head(hidden)
        return logits


def _block(model: Model) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm1d(model.width),
        nn.Linear(model.width, 2 * model.width),
        nn.ReLU(),
        Dropout(model.dropout),
        nn.Linear(2 * model.width, model.width),
        Dropout(model.dropout),
    )
