"""Causal language models from transformers, fine-tuned in full or through LoRA."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ray_pipeline.data.encoders import pretrained
from ray_pipeline.data.matrices import PADDING
from ray_pipeline.job import Model
from ray_pipeline.model.encoder import adapted, base_of, merged
from ray_pipeline.model.inputs import Inputs


class Language(nn.Module):
    """The language model of `model.base`, which foretells each token of a text from those before.

    It puts out what learning and judging need, not the logits: those of a batch are as many as
    its tokens times the words of the vocabulary, and would have to be kept.

    Raises:
        JobError: a library is not installed, the base cannot be loaded, or it is no such model.
    """

    def __init__(self, model: Model, inputs: Inputs) -> None:
        super().__init__()
        self.backbone: Any = pretrained.causal(base_of(model, inputs))
        if model.lora is not None:
            self.backbone = adapted(self.backbone, model.lora)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Of each text [N, 2] the summed cross entropy of its targets, and how many are hit.

        `tokens` [N, T] end in PADDING; `targets` [N, T] are those of them that count, and else
        PADDING. The first token is foretold from nothing, and never counts.
        """
        later = targets[:, 1:]
        # Questions come first: where no text's answer has begun, no logits are made.
        places = (later != PADDING).any(0).nonzero()[:, 0]
        if not len(places):
            places = torch.zeros(1, dtype=torch.long, device=tokens.device)
            later = torch.full_like(tokens[:, :1], PADDING)
        wanted = later[:, places].long()
        found = self.backbone(
            input_ids=tokens.clamp(min=0),
            attention_mask=(tokens != PADDING).long(),
            logits_to_keep=places,
            use_cache=False,
        )
        logits = found.logits.float()  # [N, places, V]
        losses = cross_entropy(
            logits.flatten(0, 1), wanted.flatten(), ignore_index=PADDING, reduction="none"
        ).view(wanted.shape)
        hits = (logits.argmax(2) == wanted) & (wanted != PADDING)
        return torch.stack([losses.sum(1), hits.sum(1).to(losses.dtype)], 1)

    def merged(self) -> Language:
        """This network with LoRA's additions in its weights: as fast as one without."""
        self.backbone = merged(self.backbone)
        return self
