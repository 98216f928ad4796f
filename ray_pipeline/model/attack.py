"""The worst that small changes of what a network reads do to it, found by its own gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ray_pipeline.data.compiled import compiled_arrow
from ray_pipeline.data.matrices import matrices
from ray_pipeline.data.statistics import Statistics
from ray_pipeline.job import Robustness
from ray_pipeline.model import batches
from ray_pipeline.model.batches import Inputs
from ray_pipeline.model.losses import row_losses
from ray_pipeline.model.metrics import Floats
from ray_pipeline.model.predictions import model_outputs
from ray_pipeline.model.robustness import Attack
from ray_pipeline.model.sample import Sample

Loss = Callable[[Tensor], Tensor]
"""From inputs [N, …] to the losses [N] of the rows, which do not touch each other."""


def fgsm(loss: Loss, inputs: Tensor, epsilon: float | Tensor) -> Tensor:
    """Inputs moved by `epsilon` each, along the sign of the loss's gradient.

    `epsilon` may be a tensor that broadcasts to `inputs`, 0 where nothing may move.
    Goodfellow et al. (2015), https://arxiv.org/abs/1412.6572.
    """
    return inputs + epsilon * _graded(loss, inputs)[1].sign()


def pgd(loss: Loss, inputs: Tensor, epsilon: float | Tensor, steps: int, seed: int) -> Tensor:
    """Inputs moved by at most `epsilon` each: `steps` steps of FGSM from a random start.

    A step is 2.5 epsilon / steps, so that the edge can be reached from anywhere. Each row stays
    where its loss was highest, which on a bumpy slope need not be the last step; the inputs
    themselves and FGSM's answer are among the places.
    Madry et al. (2018), https://arxiv.org/abs/1706.06083.
    """
    generator = torch.Generator().manual_seed(seed)
    draw = 2 * torch.rand(inputs.shape, generator=generator) - 1
    low, high = inputs - epsilon, inputs + epsilon
    worst, highest = inputs, loss(inputs).detach()

    def worse(moved: Tensor, losses: Tensor) -> None:
        nonlocal worst, highest
        rises = (losses > highest).view(-1, *[1] * (inputs.dim() - 1))
        worst, highest = torch.where(rises, moved, worst), torch.maximum(losses, highest)

    leap = fgsm(loss, inputs, epsilon)
    worse(leap, loss(leap).detach())
    moved = inputs + epsilon * draw.to(inputs)
    for _ in range(steps):
        losses, gradient = _graded(loss, moved)
        worse(moved, losses)
        step = moved + 2.5 * epsilon / steps * gradient.sign()
        moved = torch.minimum(torch.maximum(step, low), high)
    worse(moved, loss(moved).detach())
    return worst


def attacking(
    model: nn.Module, statistics: Statistics, sample: Sample, settings: Robustness
) -> Attack | None:
    """A function that attacks the pixels of the sample's rows, or else their scaled numbers.

    None where there are neither, or where no gradient reaches them (through trees, say).
    """
    prepared = matrices(compiled_arrow(statistics)(sample.rows))
    inputs, labels = batches.tensors(prepared), torch.tensor(sample.labels)
    name = "image" if statistics.image else "numbers"
    room = _room(statistics)
    if room is None or not _reached(model, inputs, name):
        return None

    def attack(kind: str, size: float) -> Floats:
        moved = inputs[name].float().clone()
        for places, part in batches.chunks(inputs):
            loss = _loss(model, part, name, labels[places], statistics)
            if kind == "fgsm":
                moved[places] = fgsm(loss, moved[places], size * room)
            else:
                moved[places] = pgd(loss, moved[places], size * room, settings.steps, settings.seed)
        if name == "image":  # what a file can hold
            moved = moved.round().clamp(0, 255)
        return model_outputs(model, statistics.label, {**prepared, name: moved.numpy()})

    return attack


def _room(statistics: Statistics) -> Tensor | None:
    """What one standard deviation is of each channel [C] of an image, or of each number [F].

    Scaled numbers have a deviation of 1; flags and the like, after them, must not be moved.
    """
    if statistics.image:
        return torch.tensor(statistics.image.deviation)
    if not statistics.scaled:
        return None
    return (torch.arange(statistics.number_width) < len(statistics.scaled)).float()


def _loss(
    model: nn.Module, inputs: Inputs, name: str, labels: Tensor, statistics: Statistics
) -> Loss:
    def loss(moved: Tensor) -> Tensor:
        return row_losses(model(**{**inputs, name: moved}), labels, statistics)

    return loss


def _reached(model: nn.Module, inputs: Inputs, name: str) -> bool:
    """Whether the outputs hang on the input by a gradient."""
    row = {key: values[:1] for key, values in inputs.items()}
    logits: Tensor = model(**{**row, name: row[name].float().requires_grad_()})
    return logits.requires_grad


def _graded(loss: Loss, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The losses [N] at `inputs`, and their gradient there."""
    with torch.enable_grad():
        leaf = inputs.detach().clone().requires_grad_()
        losses = loss(leaf)
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    return losses.detach(), gradient
