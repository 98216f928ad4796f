from __future__ import annotations

import prepared_rows
import pytest
import torch
from torch import nn
from upath import UPath

from ray_pipeline.data import features as prepared
from ray_pipeline.job import Model, Train, Tune
from ray_pipeline.model.averaging import WINDOW, Averaged
from ray_pipeline.model.train import matrices
from ray_pipeline.model.trial import Trial


@pytest.fixture
def network():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    made[2].bias.requires_grad_(False)
    return made


def drift(network):
    """A step: each weight moves by one."""
    with torch.no_grad():
        for weight in network.parameters():
            if weight.requires_grad:
                weight.add_(1)


def test_weights_are_the_exponential_mean_since_the_first_step(network):
    drawn = network[0].weight.detach().clone()
    averaged = Averaged(network, steps=50)
    share, expected = 1 / (WINDOW * 50), 1.0
    for step in range(1, 21):
        drift(network)
        averaged()
        expected += share * (step - expected) if step > 1 else 0
        torch.testing.assert_close(averaged.network[0].weight - drawn, torch.full((3, 2), expected))
    torch.testing.assert_close(network[0].weight - drawn, torch.full((3, 2), 20.0))


def test_a_short_epoch_is_judged_by_its_last_weights(network):
    averaged = Averaged(network, steps=3)
    for _ in range(3):
        drift(network)
        averaged()
    torch.testing.assert_close(averaged.network[0].weight, network[0].weight)


def test_running_statistics_are_the_latest_and_what_is_frozen_stays(network):
    averaged = Averaged(network, steps=50)
    network.train()
    for _ in range(5):
        network(torch.randn(8, 2))
        drift(network)
        averaged()
    assert torch.equal(averaged.network[1].running_mean, network[1].running_mean)
    assert averaged.network[1].num_batches_tracked == 5
    assert torch.equal(averaged.network[2].bias, network[2].bias)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    features = prepared_rows.written(UPath(tmp_path_factory.mktemp("averaging") / "features"))
    train = Train(batch_size=32, learning_rate=3e-2, schedule="constant")
    return {
        "model": Model(width=8, depth=1, frequencies=0),
        "train": train,
        "settings": Tune.model_validate(
            {"epochs": 3, "space": {"model.width": {"choice": [4, 8]}}}
        ),
        "statistics": prepared.load(features),
        "data": matrices(features),
    }


def test_an_epoch_of_a_trial_is_judged_by_the_mean_and_trained_as_ever(shared):
    class Here(Trial):
        def setup(self, config):
            super().setup(config, **shared)

        def _setup_logdir(self):
            pass  # Tune's would be in the home folder

    class Plain(Here):
        averaged = False

    told, plain = Here({}).step(), Plain({}).step()
    assert told["train_loss"] == plain["train_loss"]
    assert told["validation_loss"] != plain["validation_loss"]
