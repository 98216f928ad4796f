"""Sentence embeddings: an encoder of transformers that learns which texts belong together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ray_pipeline.data.encoders import pretrained
from ray_pipeline.job import Model
from ray_pipeline.model import contrastive
from ray_pipeline.model.encoder import adapted, base_of, keep_layers, merged
from ray_pipeline.model.inputs import Inputs


class Embedding(nn.Module):
    """The encoder of `model.base`: a text's vector is the mean over its tokens, of length 1, the
    same that a column of features with `text: embedding` is given.

    Questions and passages go through the one encoder: Reimers & Gurevych, "Sentence-BERT" (2019),
    https://arxiv.org/abs/1908.10084.

    Raises:
        JobError: a library is not installed, the base cannot be loaded, or it is no such encoder.
    """

    def __init__(self, model: Model, inputs: Inputs) -> None:
        super().__init__()
        self.backbone: Any = pretrained.backbone(base_of(model, inputs))
        if model.layers is not None:
            keep_layers(self.backbone, model.layers)
        if model.lora is not None:
            self.backbone = adapted(self.backbone, model.lora)
        self.temperature = model.contrastive.temperature

    def forward(self, question: Tensor, passage: Tensor, negative: Tensor | None = None) -> Tensor:
        """Of each pair [N, 2] the loss, and whether the question is nearest to its own passage.

        Each input is tokens [N, T], -1 after a text's end; `negative` are passages that are wrong
        for their question.
        """
        texts = [passage] if negative is None else [passage, negative]
        return contrastive.losses(
            self.vectors(question),
            torch.cat([self.vectors(tokens) for tokens in texts]),
            torch.cat([contrastive.marks(tokens) for tokens in texts]),
            self.temperature,
        )

    def vectors(self, tokens: Tensor) -> Tensor:
        """The vectors [N, W], of length 1, of texts as tokens [N, T], -1 after a text's end."""
        return normalize(pretrained.pooled_mean(self.backbone, tokens), dim=1)

    def merged(self) -> Embedding:
        """This network with LoRA's additions in its weights: as fast as one without."""
        self.backbone = merged(self.backbone)
        return self
