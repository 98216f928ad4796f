"""A trained network with weights set to 0, and trained on without them."""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from safetensors.torch import load as tensors
from safetensors.torch import save as tensor_bytes
from torch import Tensor, nn
from torch.nn.utils import parametrize
from upath import UPath

from ray_pipeline.errors import JobError
from ray_pipeline.job import Model, Prune, Train
from ray_pipeline.model import train, zoo
from ray_pipeline.model.train import Progress, Record

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)
"""Whose weights are pruned; biases, norms and embeddings are left whole."""


class Masked(nn.Module):
    """A layer's weight where its mask is 1, and 0 elsewhere: in any engine, whatever its optimizer
    makes of the weight itself."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


@dataclass(frozen=True)
class Beginning:
    """Gives a fresh network the weights of the one in `trained`, and masks them."""

    trained: UPath
    settings: Prune

    def __call__(self, network: nn.Module) -> None:
        network.load_state_dict(tensors((self.trained / "model.safetensors").read_bytes()))
        for layer, mask in masks(network, self.settings):
            parametrize.register_parametrization(layer, "weight", Masked(mask))


def write(
    trained: UPath,
    features: UPath,
    training: Train,
    settings: Prune,
    *,
    out: UPath,
    work: UPath,
    progress: Progress,
) -> Record:
    """Prune the network in `trained` and train it on; files and interruptions as `train.write`.

    Raises:
        JobError: it has no layers to prune.
        TrainingError: as `train.write`.
    """
    described = json.loads((trained / "model.json").read_text())
    model = Model.model_validate(described["model"])
    network = zoo.build(model, zoo.Inputs.model_validate(described["inputs"]))
    if model.lora is not None or not masks(network, settings):
        raise JobError(
            f"`{model.name}` has no layers of its own to prune",
            where="compress.prune",
            expected="a network that is trained in full",
            hint="leave `compress.prune` out, or choose another `model`",
        )
    rate = settings.learning_rate or training.learning_rate
    longer = training.model_copy(update={"epochs": settings.epochs, "learning_rate": rate})
    begin = Beginning(trained, settings)
    record = train.write(features, model, longer, out, work=work, progress=progress, begin=begin)
    begin(network)
    network.load_state_dict(tensors((out / "model.safetensors").read_bytes()))
    zeros = settled(network)
    (out / "model.safetensors").write_bytes(tensor_bytes(network.state_dict()))
    return {**record, "zeros": zeros}


def masks(network: nn.Module, settings: Prune) -> list[tuple[nn.Module, Tensor]]:
    """Each layer to prune with its mask, 1 where a weight stays.

    `magnitude`: the smallest weights of all these layers together go, as the global pruning in
    Blalock et al. (2020), https://arxiv.org/abs/2003.03033. `2:4`: of every four inputs in a row
    the two with the largest weights stay, as in Mishra et al. (2021),
    https://arxiv.org/abs/2104.08378; a layer whose inputs do not come in fours stays whole.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, LAYERS)]
    weights = [layer.weight.detach() for layer in layers]
    if not layers:
        return []
    if settings.pattern == "2:4":
        return list(zip(layers, map(two_of_four, weights), strict=True))
    sizes = torch.cat([weight.abs().flatten() for weight in weights])
    bound = sizes.kthvalue(max(1, round(settings.share * len(sizes)))).values
    kept = [(weight.abs() > bound).to(weight.dtype) for weight in weights]
    return list(zip(layers, kept, strict=True))


def two_of_four(weight: Tensor) -> Tensor:
    """A mask [outputs, inputs, …] with 1 at the two largest of every four inputs."""
    if weight.shape[1] % 4:
        return torch.ones_like(weight)
    by_input = weight.movedim(1, -1)
    fours = by_input.abs().reshape(-1, 4)
    mask = torch.zeros_like(fours).scatter_(1, fours.topk(2, dim=1).indices, 1.0)
    return mask.reshape(by_input.shape).movedim(-1, 1).contiguous()


def settled(network: nn.Module) -> float:
    """Put the masks into the weights; the share of all the network's weights that is 0."""
    for layer in [layer for layer in network.modules() if isinstance(layer, LAYERS)]:
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    every = [weight.detach() for weight in network.parameters()]
    zeros = sum(int((weight == 0).sum()) for weight in every)
    return zeros / sum(weight.numel() for weight in every)
