"""A convolutional network for small images, with what else a row holds beside it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from ray_pipeline.data.statistics import ImageStatistics
from ray_pipeline.errors import JobError
from ray_pipeline.job import Model
from ray_pipeline.model.inputs import Inputs
from ray_pipeline.model.tabular import Dropout, Embedded


class Standardised(nn.Module):
    """Pixels [N, H, W, C] uint8 → [N, C, H, W] float32 of mean 0 and deviation 1 in training.

    In memory the channels stay next to each other, which is the fastest order for convolutions.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, image: ImageStatistics) -> None:
        super().__init__()
        for name, values in (("mean", image.mean), ("deviation", image.deviation)):
            self.register_buffer(name, torch.tensor(values), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        return ((image.float() - self.mean) / self.deviation).permute(0, 3, 1, 2)


class Residual(nn.Module):
    """Two convolutions of 3 × 3 with batch normalisation, added to what they were given: He et
    al., "Deep Residual Learning" (2016), https://arxiv.org/abs/1512.03385, figure 2."""

    def __init__(self, given: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_convolution(given, width, 3), nn.ReLU(), *_convolution(width, width, 3)
        )
        self.skip = nn.Sequential(*_convolution(given, width, 1))

    def forward(self, hidden: Tensor) -> Tensor:
        return relu(self.layers(hidden) + self.skip(hidden))


class Cnn(nn.Module):
    """`depth` times: half the height and width, then a residual block. Then the mean over the
    picture, dropout, and a linear layer, which also reads the row's numbers and categories.

    The last block has `width` channels, each one before it half of the next.
    """

    def __init__(self, model: Model, inputs: Inputs) -> None:
        super().__init__()
        image = image_of(inputs)
        widths = [max(8, model.width >> halvings) for halvings in reversed(range(model.depth))]
        first = widths[0]
        layers: list[nn.Module] = [*_convolution(image.channels, first, 3), nn.ReLU()]
        for given, width in zip([first, *widths], widths, strict=False):
            layers += [nn.MaxPool2d(2, ceil_mode=True), Residual(given, width)]
        self.standardised = Standardised(image)
        self.layers = nn.Sequential(*layers)
        self.embedded = Embedded(model, inputs)
        self.dropout = Dropout(model.dropout)
        self.head = nn.Linear(widths[-1] + self.embedded.width, inputs.outputs)

    def forward(
        self, image: Tensor, numbers: Tensor | None = None, categories: Tensor | None = None
    ) -> Tensor:
        """Logits [N, K] of images [N, H, W, C] uint8, numbers [N, F] and categories [N, C]."""
        pooled = self.layers(self.standardised(image)).mean((2, 3))
        logits: Tensor = self.head(beside(self.dropout(pooled), self.embedded, numbers, categories))
        return logits


def image_of(inputs: Inputs) -> ImageStatistics:
    """What the images are like. Raises JobError where the rows have none."""
    if inputs.image is None:
        raise JobError(
            "the rows have no image",
            where="model.name",
            expected="a feature of the kind `image`",
            hint="choose another model, or give a column this kind under `data.columns`",
        )
    return inputs.image


def beside(
    pooled: Tensor, embedded: nn.Module, numbers: Tensor | None, categories: Tensor | None
) -> Tensor:
    """What a network saw in images [N, W], with the row's other columns beside it."""
    if numbers is None and categories is None:
        return pooled
    return torch.cat([pooled, embedded(numbers, categories)], dim=1)


def _convolution(given: int, width: int, size: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(given, width, size, padding=size // 2, bias=False), nn.BatchNorm2d(width)
