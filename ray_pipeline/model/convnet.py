"""Networks for photographs, from transformers: as they come from their makers, or anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ray_pipeline.errors import JobError
from ray_pipeline.job import Model
from ray_pipeline.model.cnn import Standardised, beside, image_of
from ray_pipeline.model.inputs import Inputs
from ray_pipeline.model.tabular import Dropout, Embedded

STAGES = 4
SMALLEST = 32
"""Pixels of the shorter side: four stages make one of them."""


class Convnet(nn.Module):
    """The weights of `model.base`, or without one a new ConvNeXt (Liu et al. 2022,
    https://arxiv.org/abs/2201.03545): four stages of `depth` blocks, the last of `width` channels,
    each before it half of the next. Then dropout, and a linear layer as in `Cnn`.

    Raises:
        JobError: transformers is not installed, the base cannot be loaded or is no network for
            images, or the images are too small.
    """

    def __init__(self, model: Model, inputs: Inputs) -> None:
        super().__init__()
        image = image_of(inputs)
        if min(image.height, image.width) < SMALLEST:
            raise JobError(
                f"images of {image.height} × {image.width} pixels are too small for `convnet`",
                where=f"data.features.columns.{image.name}.size",
                expected=f"{SMALLEST} or more on either side",
                hint="take a larger size, or the model `cnn`",
            )
        self.standardised = Standardised(image)
        self.backbone = _based(model.base) if model.base else _new(model, image.channels)
        self.channels = int(self.backbone.config.num_channels)
        self.embedded = Embedded(model, inputs)
        self.dropout = Dropout(model.dropout)
        width = int(self.backbone.config.hidden_sizes[-1])
        self.head = nn.Linear(width + self.embedded.width, inputs.outputs)

    def forward(
        self, image: Tensor, numbers: Tensor | None = None, categories: Tensor | None = None
    ) -> Tensor:
        """Logits [N, K] of images [N, H, W, C] uint8, numbers [N, F] and categories [N, C]."""
        planes = self.standardised(image)
        if planes.shape[1] < self.channels:  # a grey image for a network that knows colours
            planes = planes.expand(-1, self.channels, -1, -1)
        pooled = self.backbone(pixel_values=planes).pooler_output.flatten(1)
        logits: Tensor = self.head(beside(self.dropout(pooled), self.embedded, numbers, categories))
        return logits


def _new(model: Model, channels: int) -> Any:
    transformers = _transformers()
    widths = [max(8, model.width >> halvings) for halvings in reversed(range(STAGES))]
    settings = transformers.ConvNextConfig(
        num_channels=channels, hidden_sizes=widths, depths=[model.depth] * STAGES
    )
    return transformers.ConvNextModel(settings)


def _based(base: str) -> Any:
    """The backbone in a folder or of a hub's id; its weights are safetensors, never pickled."""
    transformers = _transformers()
    folder = Path(base)
    try:
        network = transformers.AutoModel.from_pretrained(
            base, local_files_only=folder.is_dir(), use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise JobError(
            f"`{base}` cannot be loaded: {str(error).strip().splitlines()[0]}",
            where="model.base",
            expected="a folder or a hub's id with config.json and model.safetensors",
        ) from error
    if not hasattr(network.config, "num_channels") or not hasattr(network.config, "hidden_sizes"):
        raise JobError(
            f"`{base}` is a {network.config.model_type}",
            where="model.base",
            expected="a convolutional network for images, such as a ConvNeXt or ResNet",
        )
    return network


def _transformers() -> Any:
    try:
        import transformers
    except ModuleNotFoundError:
        raise JobError(
            "transformers is not installed",
            where="model.name: convnet",
            hint="pip install 'ray-pipeline[text]'",
        ) from None
    return transformers
