"""Which weights become 0, and that they stay so while the others are trained."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from prepared_rows import written
from safetensors.torch import load as tensors
from torch import nn
from torch.nn.utils import prune as reference
from upath import UPath

from ray_pipeline.errors import JobError
from ray_pipeline.job import Model, Prune, Train
from ray_pipeline.model import prune, train
from ray_pipeline.model.inputs import Inputs

INPUTS = Inputs(numbers=3, categories=(5, 5), outputs=2)
TRAINING = Train(epochs=2, batch_size=64, workers=0, learning_rate=0.01, patience=9)


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.LayerNorm(6), nn.Linear(6, 8)
    )


def test_the_smallest_of_all_layers_go_as_torch_prunes_them():
    ours, theirs = small(), small()
    layers = [(theirs[0], "weight"), (theirs[4], "weight")]
    reference.global_unstructured(layers, reference.L1Unstructured, amount=0.3)
    found = prune.masks(ours, Prune(share=0.3))
    assert [layer for layer, _ in found] == [ours[0], ours[4]]
    for (_, mask), (layer, _) in zip(found, layers, strict=True):
        torch.testing.assert_close(mask, layer.weight_mask)


def test_two_of_every_four_inputs_stay():
    weight = torch.tensor([[1.0, -9, 3, 4, 0, 0, 5, -6], [2, 1, -4, 3, 8, 7, 6, 5]])
    kept = [[0, 1, 0, 1, 0, 0, 1, 1], [0, 0, 1, 1, 1, 1, 0, 0]]
    np.testing.assert_array_equal(prune.two_of_four(weight), kept)
    images = small()[0].weight.detach()  # [6, 4, 3, 3]: fours of input channels
    mask = prune.two_of_four(images)
    assert mask.shape == images.shape
    assert (mask.sum(1) == 2).all()
    assert (images.abs() * mask).sum() > (images.abs() * (1 - mask)).sum()
    assert prune.two_of_four(torch.zeros(3, 6)).all()


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("settings", "least"),
    [(Prune(share=0.7, epochs=2), 0.6), (Prune(pattern="2:4", epochs=2), 0.2)],
)
def test_zeros_stay_while_the_rest_is_trained(settings, least, tmp_path):
    features = written(UPath(tmp_path / "features"))
    for name in ("trained", "pruned", "work", "more"):
        UPath(tmp_path / name).mkdir()
    quiet = {"progress": lambda event: None}
    trained, pruned = UPath(tmp_path / "trained"), UPath(tmp_path / "pruned")
    model = Model(width=32, depth=2)
    first = train.write(features, model, TRAINING, trained, work=UPath(tmp_path / "work"), **quiet)
    record = prune.write(
        trained, features, TRAINING, settings, out=pruned, work=UPath(tmp_path / "more"), **quiet
    )
    assert record["epochs"] == 2
    assert record["score"] > first["score"] - 0.1
    before, after = (
        tensors((folder / "model.safetensors").read_bytes()) for folder in (trained, pruned)
    )
    assert before.keys() == after.keys()
    network = train.load(trained)
    names = {id(module): f"{name}.weight" for name, module in network.named_modules()}
    pruned_layers = prune.masks(network, settings)
    assert len(pruned_layers) == 4  # of the waves, two hidden ones, the head
    for layer, mask in pruned_layers:
        name = names[id(layer)]
        assert (after[name][mask == 0] == 0).all(), name
        assert not torch.equal(after[name], before[name] * mask), name
    zeros = sum(int((value == 0).sum()) for value in after.values())
    assert record["zeros"] == pytest.approx(zeros / sum(v.numel() for v in after.values()))
    assert record["zeros"] > least
    assert (pruned / "model.json").read_text() == (trained / "model.json").read_text()


def test_a_model_without_layers_to_prune_is_refused(tmp_path):
    model = Model(name="trees")
    trained = UPath(tmp_path)
    described = {"model": model.model_dump(mode="json"), "inputs": INPUTS.model_dump(mode="json")}
    (trained / "model.json").write_text(json.dumps(described))
    with pytest.raises(JobError, match="no layers of its own to prune"):
        prune.write(trained, trained, TRAINING, Prune(), out=trained, work=trained, progress=print)
