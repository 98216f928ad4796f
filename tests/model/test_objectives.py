from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import prepared_rows
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.schedulers import TrialScheduler
from torch import nn
from upath import UPath

from ray_pipeline.errors import GateRefused
from ray_pipeline.job import Job, Tune
from ray_pipeline.model import latency, objectives
from ray_pipeline.model.feed import MemoryFeed, Place
from ray_pipeline.model.journal import Halving, Journal
from ray_pipeline.model.train import matrices

TIMED = ("loss", "latency")
POINTS = st.lists(
    st.tuples(st.integers(0, 5).map(float), st.integers(0, 5).map(float)), min_size=1, max_size=20
)


@given(POINTS)
def test_the_front_is_what_optuna_says(points):
    import optuna

    study = optuna.create_study(directions=["minimize", "minimize"])
    for point in points:
        study.add_trial(optuna.trial.create_trial(values=list(point)))
    theirs = sorted(trial.number for trial in study.best_trials)
    ours = objectives.front(points)
    assert sorted(ours) == theirs
    assert [points[place] for place in ours] == sorted(points[place] for place in ours)


@given(POINTS)
def test_the_knee_is_furthest_below_the_line_between_the_ends(points):
    front = sorted({points[place] for place in objectives.front(points)})
    scaled = np.array(front)
    scaled = (scaled - scaled.min(0)) / np.maximum(np.ptp(scaled, axis=0), 1e-9)
    if len(front) == 1:
        assert objectives.knee(front) == 0
        return
    across = (scaled[-1] - scaled[0]) / np.linalg.norm(scaled[-1] - scaled[0])
    beside = scaled - scaled[0]
    below = beside[:, 0] * across[1] - beside[:, 1] * across[0]  # cross product: signed distance
    assert below[objectives.knee(front)] == pytest.approx(below.max(), abs=1e-9)


def trial(loss, milliseconds):
    return {"validation_loss": loss, "latency_ms": milliseconds}


def test_what_is_chosen():
    trials = [trial(0.30, 9.0), trial(0.31, 1.5), trial(0.40, 1.0), trial(0.45, 3.0)]
    assert objectives.chosen(trials, Tune()) is trials[0]
    assert objectives.chosen(trials, Tune(objectives=TIMED)) is trials[1]
    for bound, place in ((10.0, 0), (2.0, 1), (1.2, 2)):
        asked = Tune(objectives=TIMED, max_latency=bound)
        assert objectives.chosen(trials, asked) is trials[place]
    with pytest.raises(GateRefused, match=r"tune\.max_latency: the fastest of 4 .* 1 ms"):
        objectives.chosen(trials, Tune(objectives=TIMED, max_latency=0.5))


def test_of_two_objectives_a_trial_is_stopped_that_another_beats_in_both(tmp_path):
    journal = Journal(UPath(tmp_path) / "trials.json", 4, lambda event: None)
    halving = Halving(journal, Tune(objectives=TIMED, epochs=4))
    fates = []
    for number, (loss, milliseconds) in enumerate([(0.5, 2.0), (0.6, 1.0), (0.6, 3.0), (0.4, 9.0)]):
        result = {"epoch": 1, "train_loss": 0.0, "score": 0.0, "time_this_iter_s": 0.1}
        result |= trial(loss, milliseconds)
        fates.append(halving.on_trial_result(None, SimpleNamespace(trial_id=str(number)), result))
    on, off = TrialScheduler.CONTINUE, TrialScheduler.STOP
    assert fates == [on, on, off, on]
    between = {**result, "epoch": 2, **trial(9.0, 9.0)}  # not a rung
    assert halving.on_trial_result(None, SimpleNamespace(trial_id="0"), between) == on


class Slow(nn.Module):
    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.seen = seconds, []

    def forward(self, numbers, categories):
        import time

        self.seen.append((len(numbers), self.training, torch.is_grad_enabled()))
        time.sleep(self.seconds)
        return numbers


def test_latency_is_that_of_one_row_and_leaves_the_network_as_it_was(tmp_path):
    data = matrices(prepared_rows.written(UPath(tmp_path) / "features", rows=20))
    place = Place(0, 1, torch.device("cpu"), 0)
    feed = MemoryFeed(data["train"], data["validation"], 4, place)
    network = Slow(0.001)
    assert latency.one_row_ms(network.train(), feed) >= 1.0
    assert set(network.seen) == {(1, False, False)}
    assert network.training


@pytest.mark.parametrize(
    ("tune", "said"),
    [
        ({"objectives": ["latency"]}, r"give \[loss\] or \[loss, latency\]"),
        ({"max_latency": 2.0}, "max_latency needs objectives"),
        ({"scheduler": "pbt", "trials": 1}, "2 or more"),
        ({"scheduler": "pbt", "parallel": 2}, "set cpus or gpus"),
        ({"scheduler": "pbt", "objectives": ["loss", "latency"]}, "one objective"),
        ({"scheduler": "pbt", "space": {"model.width": {"choice": [1, 2]}}}, "needs one of these"),
        (
            {
                "scheduler": "pbt",
                "space": {
                    "model.name": {"choice": ["mlp", "trees"]},
                    "train.clip": {"uniform": [0.1, 1.0]},
                },
            },
            "trees have no weights",
        ),
    ],
)
def test_a_search_that_cannot_be_is_an_error_of_the_job(tune, said):
    space = {"space": {"train.learning_rate": {"uniform": [0.1, 1.0]}}}
    with pytest.raises(ValueError, match=said):
        Job.model_validate(
            {"name": "x", "data": {"source": "x", "label": "y"}, "tune": {**space, **tune}}
        )
