from __future__ import annotations

import json
import math
import shutil

import prepared_rows
import pytest
import torch
from safetensors.torch import load_file
from upath import UPath

from ray_pipeline.data import features as prepared
from ray_pipeline.job import Model, Range, Train, Tune
from ray_pipeline.model import bred, checkpoints, population, train, tune
from ray_pipeline.model.inputs import Inputs
from ray_pipeline.model.space import space
from ray_pipeline.model.trial import Member

MODEL = Model(width=8, depth=1, frequencies=0)
TRAIN = Train(batch_size=64, learning_rate=1e-2, schedule="constant")
RATE = "train.learning_rate"
SETTINGS = Tune.model_validate(
    {
        "scheduler": "pbt",
        "trials": 4,
        "epochs": 3,
        "seed": 1,
        "cpus": 2,
        "space": {
            RATE: {"log_uniform": [1e-6, 3e-2]},
            "model.dropout": {"uniform": [0.0, 0.3]},
            "model.width": {"choice": [4, 8]},
        },
    }
)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return prepared_rows.written(UPath(tmp_path_factory.mktemp("population") / "features"))


@pytest.fixture(scope="module")
def member(features, tmp_path_factory):
    """A function that makes a member in this process, with its states in one folder."""
    folder = UPath(tmp_path_factory.mktemp("states"))
    shared = {
        "model": MODEL,
        "train": TRAIN,
        "settings": SETTINGS,
        "statistics": prepared.load(features),
        "data": train.matrices(features),
        "states": folder,
    }

    class Here(Member):
        trial_id = property(id)

        def setup(self, config):
            super().setup(config, **shared)

        def _setup_logdir(self):
            pass  # Tune's would be in the home folder

    def made(settings, state=None):
        begun = {"member": {"settings": settings, "state": state}}
        return Here(begun)

    return made


def test_a_member_goes_on_from_the_state_that_it_is_given(member):
    good = member({RATE: 1e-2, "model.dropout": 0.1})
    state = good.step()["state"]
    poor = member({RATE: 1e-6, "model.dropout": 0.0})
    poor.step()
    assert not torch.equal(poor.network.layers[0].weight, good.network.layers[0].weight)
    settings = {RATE: 1e-2, "model.dropout": 0.1}
    poor.reset_config({"member": {"settings": settings, "state": state}})
    for name, weight in good.network.state_dict().items():
        assert torch.equal(poor.network.state_dict()[name], weight)
    theirs, ours = good.step(), poor.step()
    assert ours["epoch"] == 2
    assert ours["validation_loss"] == theirs["validation_loss"]  # the moments were taken over too


def test_a_member_whose_loss_is_not_finite_is_the_poorest_and_not_an_error(member):
    result = member({RATE: 1e38, "model.dropout": 0.0}).step()
    assert result["validation_loss"] == math.inf
    assert result["state"]


def bred_in(features, folder, at_epoch=lambda epoch: None):
    out, work = folder / "out", folder / "out" / "work"
    work.mkdir(parents=True, exist_ok=True)
    epochs = []

    def progress(event):
        if "epoch" in event:
            epochs.append(event["epoch"])
            at_epoch(event["epoch"])

    inputs = (UPath(features), MODEL, TRAIN, SETTINGS, UPath(out))
    return tune.write(*inputs, work=UPath(work), progress=progress), UPath(out), epochs


def without_seconds(trials):
    """What trials went through, whatever the time and the names of their states."""
    for trial in trials:
        trial["history"] = [{**epoch, "seconds": 0} for epoch in trial["history"]]
        trial |= {"seconds": 0, "weights": ""}
    return sorted(trials, key=lambda trial: json.dumps(trial["settings"]))


def test_a_population_passes_on_what_is_good_and_a_killed_one_ends_the_same(
    features, ray_cluster, tmp_path
):
    left = tmp_path / "killed" / "out" / "work"

    def leave(epoch):
        """What a process that was killed then would have left."""
        if epoch == 1:
            shutil.copytree(tmp_path / "whole" / "out" / "work", left)

    record, out, epochs = bred_in(features, tmp_path / "whole", leave)
    assert epochs == [1, 2]
    trials = json.loads((out / "trials.json").read_text())
    check_what_was_passed_on(UPath(left), trials, population.exchanges(out / "work"))
    assert record["validation_loss"] == min(trial["validation_loss"] for trial in trials)
    titles = [finding["title"] for finding in record["findings"]]
    assert titles[:2] == ["What the population passed on", "The trials side by side"]
    check_what_is_kept(features, out, record)

    again, resumed, epochs = bred_in(features, tmp_path / "killed")
    assert epochs == [2]
    ended = json.loads((resumed / "trials.json").read_text())
    assert without_seconds(ended) == without_seconds(trials)
    assert again["best"] == record["best"]


def check_what_was_passed_on(left, trials, exchanges):
    """After each exchange poor ones have the weights, the epochs and the settings of good ones."""
    assert {each["epoch"] for each in exchanges} == {1, 2}
    for each in exchanges:
        assert 1e-6 <= each["settings"][RATE] <= 3e-2
        assert 0.0 <= each["settings"]["model.dropout"] <= 0.3
    changed = [{epoch["settings"][RATE] for epoch in trial["history"]} for trial in trials]
    assert any(len(rates) > 1 for rates in changed)
    assert [len(trial["history"]) for trial in trials] == [3] * 4
    stand = json.loads((left / "population.json").read_text())
    states = [checkpoints.loaded(left / "states" / each["state"]) for each in stand["members"]]
    assert stand["exchanges"]
    for each in stand["exchanges"]:  # the poor one's next epoch begins at the good one's weights
        poor, good = (states[each[key]] for key in ("member", "from"))
        assert all(torch.equal(poor["weights"][k], good["weights"][k]) for k in good["weights"])
        assert poor["losses"] == good["losses"] == min(state["losses"] for state in states)


def check_what_is_kept(features, out, record):
    """The stage after the search lays out a trained model whose loss is the one that was told."""
    kept = out.parent / "trained"
    kept.mkdir()
    model, training = tune.apply(tune.best(out), MODEL, TRAIN)
    told = bred.write(features, out, model, training, kept)
    assert told["validation_loss"] == record["validation_loss"]
    network = train.load(kept)
    rows = train.matrices(features)["validation"]
    inputs = (torch.from_numpy(rows[name]) for name in ("numbers", "categories"))
    with torch.no_grad():
        logits = network(*inputs)
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(rows["label"]))
    assert loss.item() == pytest.approx(record["validation_loss"], abs=1e-5)
    assert load_file(str(kept / "model.safetensors")).keys() == network.state_dict().keys()


def test_settings_stay_inside_their_ranges():
    ranges = {"a": Range(uniform=(0.0, 1.0)), "b": Range(log_uniform=(0.1, 1.0))}
    settings = {"a": 1.2, "b": 0.08, "c": 7}
    moved = population._inside({"member": {"settings": settings}}, ranges)
    assert moved["member"]["settings"] == {"a": 1.0, "b": 0.1, "c": 7}


def test_a_population_of_what_suits_the_data_has_no_trees():
    asked = Tune(scheduler="pbt", trials=2)
    inputs = Inputs(numbers=3, categories=(5, 5), outputs=2)
    found = space(asked, Model(name="auto"), Train(), inputs, rows=1000)
    assert found.names == ("mlp", "resnet", "ft_transformer")
