"""The FT-Transformer: every column of a row is a token, and attention runs among the columns.

Gorishniy et al., "Revisiting Deep Learning Models for Tabular Data" (2021),
https://arxiv.org/abs/2106.11959, section 3.3. Numbers are embedded by waves, as in the other
networks here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, scaled_dot_product_attention

from ray_pipeline.errors import JobError
from ray_pipeline.job import Model
from ray_pipeline.model.inputs import Inputs
from ray_pipeline.model.tabular import Dropout, Waves

HIDDEN = 4 / 3
"""Width of a feed-forward layer over that of a token, as in the paper (its ReGLU has two)."""


class Tokens(nn.Module):
    """[N, F] numbers and [N, C] category indices → [N, T, width], the first token a trained one.

    A number that may be embedded is a token: its column's vector times the number, its column's
    bias, and its waves. All other numbers (the terms of texts, …) are one token together.
    """

    offsets: Tensor

    def __init__(self, model: Model, inputs: Inputs) -> None:
        super().__init__()
        sizes, width = inputs.categories, model.width
        self.single = inputs.numbers if inputs.embedded is None else inputs.embedded
        scale = width**-0.5
        self.first = nn.Parameter(_uniform(scale, 1, width))
        self.weight = nn.Parameter(_uniform(scale, self.single, width))
        self.bias = nn.Parameter(_uniform(scale, self.single + len(sizes), width))
        shared = model.model_copy(update={"embedding": width})
        self.waves = Waves(self.single, shared) if self.single and model.frequencies else None
        others = inputs.numbers - self.single
        self.others = nn.Linear(others, width) if others else None
        self.table = nn.Parameter(_uniform(scale, sum(sizes), width))
        starts = [sum(sizes[:column]) for column in range(len(sizes))]
        self.register_buffer("offsets", torch.tensor(starts, dtype=torch.int64), persistent=False)

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        single = numbers[:, : self.single]
        tokens = single.unsqueeze(2) * self.weight
        if self.waves is not None:
            tokens = tokens + self.waves(single).unflatten(1, (self.single, -1))
        looked_up = self.table[categories + self.offsets]
        parts = [torch.cat([tokens, looked_up], dim=1) + self.bias]
        if self.others is not None:
            parts.append(self.others(numbers[:, self.single :]).unsqueeze(1))
        # Not `len`, which would be a constant in the exported graph.
        first = self.first.expand(numbers.shape[0], 1, -1)
        return torch.cat([first, *parts], dim=1)


class Block(nn.Module):
    """Attention, then two layers with ReGLU; both normalise what they read and add to it.

    With `first_only` nothing but the first token is computed: [N, T, width] → [N, 1, width].
    """

    def __init__(self, model: Model, normalise: bool, first_only: bool) -> None:
        super().__init__()
        width, hidden = model.width, int(model.width * HIDDEN)
        self.heads, self.first_only = model.heads, first_only
        self.before = nn.LayerNorm(width) if normalise else nn.Identity()
        self.query, self.both = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.mixed = nn.Linear(width, width)
        self.between = nn.LayerNorm(width)
        self.widened, self.narrowed = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)
        self.dropout = Dropout(model.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        read = self.before(tokens)
        if self.first_only:
            tokens = tokens[:, :1]
        asking = read[:, :1] if self.first_only else read
        keys, values = self.both(read).chunk(2, dim=2)
        query, keys, values = map(self._split, (self.query(asking), keys, values))
        attended = scaled_dot_product_attention(query, keys, values).transpose(1, 2).flatten(2)
        tokens = tokens + self.dropout(self.mixed(attended))
        gate, hidden = self.widened(self.between(tokens)).chunk(2, dim=2)
        narrowed: Tensor = self.narrowed(self.dropout(relu(gate) * hidden))
        return tokens + narrowed

    def _split(self, tokens: Tensor) -> Tensor:
        """[N, T, width] → [N, heads, T, width / heads]"""
        rows, columns, _ = tokens.shape
        return tokens.reshape(rows, columns, self.heads, -1).transpose(1, 2)


class FtTransformer(nn.Module):
    """Tokens, `depth` blocks, then a head that reads the first token."""

    def __init__(self, model: Model, inputs: Inputs) -> None:
        super().__init__()
        if model.width % model.heads:
            raise JobError(
                f"{model.heads} attention heads cannot share a width of {model.width}",
                where="model.heads",
                expected="a divisor of model.width",
            )
        self.tokens = Tokens(model, inputs)
        last = model.depth - 1
        # Without a norm before the first block training is easier (the paper's appendix E).
        self.blocks = nn.Sequential(
            *(Block(model, normalise=n > 0, first_only=n == last) for n in range(model.depth))
        )
        self.head = nn.Sequential(
            nn.LayerNorm(model.width), nn.ReLU(), nn.Linear(model.width, inputs.outputs)
        )

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.tokens(numbers, categories))[:, 0])
        return logits


def _uniform(bound: float, *shape: int) -> Tensor:
    return torch.empty(shape).uniform_(-bound, bound)
