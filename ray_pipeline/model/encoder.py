"""Pretrained encoders of texts from transformers, fine-tuned in full or through LoRA."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ray_pipeline.data.encoders import pretrained
from ray_pipeline.errors import JobError
from ray_pipeline.job import Model
from ray_pipeline.job.model import Lora
from ray_pipeline.model.inputs import Inputs
from ray_pipeline.model.tabular import Embedded


class Encoder(nn.Module):
    """The encoder of `model.base`, the mean of what it makes of a text's tokens, dropout, and a
    linear layer, which also reads the row's other columns.

    Of its layers `model.layers` are kept, spread evenly from the first to the last: a student to
    begin with, as in Sanh et al., "DistilBERT" (2019), https://arxiv.org/abs/1910.01108. With
    `model.lora` the encoder's weights stay as they are but for a low-rank addition to its linear
    layers: Hu et al. (2021), https://arxiv.org/abs/2106.09685.

    Raises:
        JobError: a library is not installed, the base cannot be loaded, or it is no such encoder.
    """

    def __init__(self, model: Model, inputs: Inputs) -> None:
        super().__init__()
        self.backbone = pretrained.backbone(base_of(model, inputs))
        if model.layers is not None:
            keep_layers(self.backbone, model.layers)
        if model.lora is not None:
            self.backbone = adapted(self.backbone, model.lora)
        self.embedded = Embedded(model, inputs)
        self.dropout = nn.Dropout(model.dropout)
        width = int(self.backbone.config.hidden_size)
        self.head = nn.Linear(width + self.embedded.width, inputs.outputs)

    def forward(
        self, tokens: Tensor, numbers: Tensor | None = None, categories: Tensor | None = None
    ) -> Tensor:
        """Logits [N, K] of tokens [N, T], -1 after a text's end; numbers [N, F], categories."""
        pooled = self.dropout(pretrained.pooled_mean(self.backbone, tokens))
        if numbers is not None and categories is not None:
            pooled = torch.cat([pooled, self.embedded(numbers, categories)], dim=1)
        logits: Tensor = self.head(pooled)
        return logits

    def merged(self) -> Encoder:
        """This network with LoRA's additions in its weights: as fast as one without."""
        self.backbone = merged(self.backbone)
        return self


def keep_layers(backbone: Any, count: int) -> None:
    """Leave out all but `count` of the layers. Raises JobError."""
    found = [
        (module, name)
        for module in backbone.modules()
        for name, part in module.named_children()
        if isinstance(part, nn.ModuleList) and len(part) == backbone.config.num_hidden_layers
    ]
    if not found or count > backbone.config.num_hidden_layers:
        raise JobError(
            f"`{backbone.config.model_type}` has not {count} layers to keep",
            where="model.layers",
            expected=f"at most {backbone.config.num_hidden_layers}",
        )
    module, name = found[0]
    layers = getattr(module, name)
    places = torch.linspace(0, len(layers) - 1, count).round().int().tolist()
    setattr(module, name, nn.ModuleList(layers[place] for place in places))
    backbone.config.num_hidden_layers = count


def base_of(model: Model, inputs: Inputs) -> str:
    """The pretrained network that one which reads tokens begins with. Raises JobError."""
    if inputs.tokens is None:
        raise JobError(
            "the rows have no tokens",
            where=f"model.name: {model.name}",
            expected="a text column with `text: tokens` under `data.features.columns`",
        )
    return model.base or inputs.tokens.base


def merged(backbone: Any) -> Any:
    """A network of transformers with LoRA's additions, if it has any, in its weights."""
    return backbone.merge_and_unload() if hasattr(backbone, "merge_and_unload") else backbone


def adapted(backbone: Any, lora: Lora) -> Any:
    """A network of transformers with LoRA's additions, which alone are trained. Raises JobError."""
    try:
        import peft
    except ModuleNotFoundError:
        raise pretrained.absent("peft") from None
    settings = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear",
    )
    return peft.get_peft_model(backbone, settings)
