from __future__ import annotations

import pytest
import torch
from torch import nn

from ray_pipeline.errors import JobError
from ray_pipeline.job import Model, Train
from ray_pipeline.model import memory, recompute, strategy, zoo
from ray_pipeline.model.feed import Rows
from ray_pipeline.model.inputs import Inputs

CPU = torch.device("cpu")
INPUTS = Inputs(numbers=6, categories=(4, 5), outputs=3)
RESNET = Model(name="resnet", width=32, depth=4, dropout=0.3)


def batch(count: int = 64) -> Rows:
    generator = torch.Generator().manual_seed(count)
    numbers = torch.randn(count, 6, generator=generator)
    categories = torch.randint(0, 4, (count, 2), generator=generator)
    label = torch.randint(0, 3, (count,), generator=generator)
    return Rows({"numbers": numbers, "categories": categories}, label)


def loss_of(model: nn.Module, rows: Rows) -> torch.Tensor:
    return nn.functional.cross_entropy(model(**rows.inputs), rows.label)


def trained(steps: int = 3, **settings: object) -> tuple[list[float], strategy.Weights]:
    torch.manual_seed(0)
    network = zoo.build(RESNET, INPUTS)
    engine = strategy.prepared(network, Train(**settings), "ddp", CPU, 64)
    losses = [engine.step([batch()], loss_of).item() for _ in range(steps)]
    return losses, engine.weights()


@pytest.mark.parametrize("reentrant", [False, True])
def test_blocks_that_are_recomputed_keep_less(reentrant):
    kept = []
    for recomputed in (False, True):
        network = zoo.build(RESNET, INPUTS).train()
        if recomputed:
            assert recompute.inside_blocks(network, reentrant=reentrant) == RESNET.depth
        kept.append(memory.peak_bytes(network, lambda net=network: loss_of(net, batch())))
    assert kept[1] < 0.6 * kept[0]


def test_recomputing_changes_no_number():
    plain, weights = trained()
    losses, again = trained(checkpointing=True)
    assert losses == plain  # dropout draws the same masks
    for name, value in weights.items():  # running means have seen each batch once
        torch.testing.assert_close(again[name], value, msg=name)


@pytest.mark.parametrize("reentrant", [False, True])
def test_blocks_behind_frozen_layers_learn(reentrant):
    """As those of LoRA do: nothing that the first block is given needs a gradient."""
    gradients = []
    for recomputed in (False, True):
        torch.manual_seed(0)
        network = zoo.build(RESNET, INPUTS).train()
        for part in (network.embedded, network.first):
            part.requires_grad_(False)
        if recomputed:
            recompute.inside_blocks(network, reentrant=reentrant)
        torch.manual_seed(1)
        loss_of(network, batch()).backward()
        gradients.append({name: p.grad for name, p in network.blocks[0].named_parameters()})
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, msg=name)


def test_a_network_without_blocks_is_refused():
    network = zoo.build(Model(), INPUTS)
    with pytest.raises(JobError, match="no blocks") as error:
        strategy.prepared(network, Train(checkpointing=True), "ddp", CPU, 64)
    assert error.value.where == "train.checkpointing"


def test_blocks_inside_blocks_are_part_of_them():
    inner = nn.Module()
    inner.layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    network = nn.Module()
    network.blocks = nn.ModuleList([inner, nn.Linear(2, 2)])
    assert recompute.inside_blocks(network) == 2
