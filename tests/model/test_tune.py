from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import optuna
import prepared_rows
import pytest
from upath import UPath

from ray_pipeline.errors import TrainingError
from ray_pipeline.job import Job, Model, Range, Train, Tune
from ray_pipeline.model import objectives, search, search_findings, space, tune
from ray_pipeline.model.inputs import Inputs

MODEL = Model(width=16, frequencies=0)
TRAIN = Train(batch_size=64, learning_rate=1e-2)
SPACE = {"model.width": {"choice": [4, 16]}, "train.learning_rate": {"log_uniform": [1e-5, 1e-1]}}
SETTINGS = Tune.model_validate({"trials": 6, "epochs": 3, "parallel": 2, "space": SPACE})


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return prepared_rows.written(UPath(tmp_path_factory.mktemp("tune") / "features"))


def searched(features, folder, settings=SETTINGS, model=MODEL, training=TRAIN):
    out, work = UPath(folder) / "out", UPath(folder) / "out" / "work"
    work.mkdir(parents=True, exist_ok=True)
    events: list[dict[str, object]] = []
    lock = threading.Lock()  # whoever follows the progress need not pickle

    def progress(event):
        with lock:
            events.append(event)

    record = tune.write(features, model, training, settings, out, work=work, progress=progress)
    return record, out, events


@pytest.fixture(scope="module")
def found(features, ray_cluster, tmp_path_factory):
    return searched(features, tmp_path_factory.mktemp("found"))


def trials_in(out: UPath) -> list[dict[str, object]]:
    return json.loads((out / "trials.json").read_text())


def test_the_best_trial_is_the_one_with_the_lowest_loss(found):
    record, out, _ = found
    trials = trials_in(out)
    best = min(trials, key=lambda trial: trial["validation_loss"])
    assert tune.best(out) == best["settings"] == record["best"]
    assert (record["score"], record["validation_loss"]) == (best["score"], best["validation_loss"])
    assert best["score"] > 0.85


def test_each_trial_is_told_whole(found):
    record, out, events = found
    trials = trials_in(out)
    assert len(trials) == record["trials"] == 6
    assert record["complete"] + record["stopped"] == 6
    for trial in trials:
        assert trial["settings"].keys() == SPACE.keys()
        assert trial["epochs"] == len(trial["history"]) >= 1
        assert (trial["state"] == "complete") == (trial["epochs"] == 3)
        lowest = min(trial["history"], key=lambda epoch: epoch["validation_loss"])
        assert trial["validation_loss"] == lowest["validation_loss"]
        assert trial["score"] == lowest["score"]
    assert [event["trial"] for event in events] == [1, 2, 3, 4, 5, 6]
    assert events[-1]["best"] == record["score"]


def test_poor_trials_are_stopped_early(found):
    trials = trials_in(found[1])
    first = {
        state: [t["history"][0]["validation_loss"] for t in trials if t["state"] == state]
        for state in ("complete", "stopped")
    }
    assert first["complete"]
    assert first["stopped"]
    assert min(first["complete"]) < min(first["stopped"])


def test_the_jobs_own_settings_are_tried(found):
    own = {"model.width": 16, "train.learning_rate": 1e-2}
    assert own in [trial["settings"] for trial in trials_in(found[1])]


def test_failed_trials_are_kept_and_not_fatal(features, ray_cluster, tmp_path):
    space = {"model.name": {"choice": ["mlp", "no_such_model"]}}
    settings = SETTINGS.model_copy(
        update={"trials": 4, "epochs": 1, "space": {k: Range(**v) for k, v in space.items()}}
    )
    record, out, events = searched(features, tmp_path, settings)
    failed = [trial for trial in trials_in(out) if trial["state"] == "failed"]
    assert failed
    assert record["failed"] == len(failed) < 4
    assert all("no_such_model" in trial["error"] for trial in failed)
    assert record["best"] == {"model.name": "mlp"}
    assert len(events) == 4


def test_a_search_without_a_usable_trial_says_why(features, ray_cluster, tmp_path):
    space = {"model.name": Range(choice=("no_such_model",))}
    settings = SETTINGS.model_copy(update={"trials": 2, "epochs": 1, "space": space})
    with pytest.raises(TrainingError, match=r"all 2 trials failed.*no_such_model"):
        searched(features, tmp_path, settings)


KILLED = """
import os, signal, sys
import ray
from upath import UPath
from ray_pipeline.job import Model, Train, Tune
from ray_pipeline.model import tune

def progress(event):
    if event["trial"] == 3:
        os.kill(os.getpid(), signal.SIGKILL)

ray.init(log_to_driver=False)
features, model, train, search, out = sys.argv[1:]
tune.write(UPath(features), Model.model_validate_json(model), Train.model_validate_json(train),
           Tune.model_validate_json(search), UPath(out),
           work=UPath(out) / "work", progress=progress)
"""


def test_a_killed_search_runs_only_what_is_left(features, ray_cluster, tmp_path):
    out = tmp_path / "out"
    (out / "work").mkdir(parents=True)
    settings = [part.model_dump_json() for part in (MODEL, TRAIN, SETTINGS)]
    command = [sys.executable, "-c", KILLED, str(features), *settings, str(out)]
    environment = {**os.environ, "RAY_ADDRESS": ray_cluster.address}
    killed = subprocess.run(command, env=environment, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = json.loads((out / "work" / "trials.json").read_text())
    assert len(before) == 3
    record, done, events = searched(features, tmp_path)
    assert record["trials"] == 6
    assert [event["trial"] for event in events] == [4, 5, 6]
    first = [{k: v for k, v in trial.items() if k != "chosen"} for trial in trials_in(done)[:3]]
    assert first == before
    settings_tried = [json.dumps(trial["settings"]) for trial in trials_in(done)]
    assert len(set(settings_tried)) == 6


def test_settings_found_are_put_in_their_places():
    model, train = tune.apply({"model.width": 8, "train.clip": 2.0}, MODEL, TRAIN)
    assert model == MODEL.model_copy(update={"width": 8})
    assert train == TRAIN.model_copy(update={"clip": 2.0})


@pytest.mark.parametrize(
    ("range_", "expected", "inside", "outside"),
    [
        (Range(choice=("a", 2)), optuna.distributions.CategoricalDistribution(("a", 2)), "a", "b"),
        (Range(integer=(1, 3)), optuna.distributions.IntDistribution(1, 3), 3, 4),
        (Range(uniform=(0, 0.5)), optuna.distributions.FloatDistribution(0, 0.5), 0.0, 0.6),
        (
            Range(log_uniform=(1e-3, 1)),
            optuna.distributions.FloatDistribution(1e-3, 1, log=True),
            1e-3,
            1e-4,
        ),
    ],
)
def test_a_range_is_optunas_distribution(range_, expected, inside, outside):
    assert search.distribution(range_) == expected
    assert space.contains(range_, inside)
    assert not space.contains(range_, outside)


INPUTS = Inputs(numbers=3, categories=(5, 5), outputs=2)


def test_auto_tries_what_suits_the_data_and_each_has_its_own_settings():
    found = space.space(Tune(), Model(name="auto"), Train(), INPUTS, rows=1000)
    assert found.names == ("trees", "mlp", "resnet", "ft_transformer")
    assert [start["model.name"] for start in found.starts] == list(found.names)
    assert all(key.startswith("model.trees.") for key in found.of("trees"))
    assert not any(key.startswith("model.trees.") for key in found.of("mlp"))
    many = space.space(Tune(), Model(name="auto"), Train(), INPUTS, rows=10**6)
    assert many.names == ("trees", "mlp", "resnet")


def test_the_jobs_own_dimensions_come_on_top_of_automatic_ones():
    ranges = {"model.name": {"choice": ["trees", "mlp"]}, "model.width": {"integer": [2, 9]}}
    asked = Tune.model_validate({"space": ranges})
    found = space.space(asked, Model(name="auto", width=64), Train(), INPUTS, rows=1000)
    assert found.names == ("trees", "mlp")
    assert found.of("mlp")["model.width"] == Range(integer=(2, 9))
    assert "model.width" not in found.starts[1]  # 64 is outside
    assert "model.trees.leaves" in found.starts[0]


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
@pytest.mark.parametrize("objectives", [("loss",), ("loss", "latency")])
def test_proposals_hold_the_settings_of_their_architecture_alone(algorithm, objectives):
    asked = Tune(algorithm=algorithm, objectives=objectives, trials=12)
    wide = space.space(asked, Model(name="auto"), Train(), INPUTS, rows=1000)
    searcher, ended = search.search(asked, wide, []), []
    for trial in range(12):
        settings = searcher.suggest(str(trial))
        name = settings["model.name"]
        assert settings.keys() == {"model.name", *wide.of(name)}
        assert all(space.contains(wide.dimension(key), value) for key, value in settings.items())
        loss = float(name == "mlp")
        measures = {"validation_loss": loss, "latency_ms": trial / 10}
        searcher.on_trial_complete(str(trial), measures)
        ended.append({"settings": settings, **measures, "state": "complete"})
    again = search.search(asked, wide, ended).suggest("next")
    assert again not in [trial["settings"] for trial in ended]


def test_a_search_for_nothing_is_an_error_of_the_job():
    job = {"name": "x", "data": {"source": "x", "label": "y"}, "tune": {"trials": 3}}
    with pytest.raises(ValueError, match=r"tune\.space: say what to search"):
        Job.model_validate(job)
    Job.model_validate({**job, "model": {"name": "auto"}})


def test_architectures_are_searched_for_quality_and_time_and_their_price_is_told(
    features, ray_cluster, tmp_path
):
    asked = Tune.model_validate(
        {
            "trials": 4,
            "epochs": 2,
            "parallel": 2,
            "objectives": ["loss", "latency"],
            "space": {"model.name": {"choice": ["trees", "mlp"]}},
        }
    )
    model = Model.model_validate({"name": "auto", "width": 64, "trees": {"rounds": 5}})
    train = TRAIN.model_copy(update={"price_per_hour": 3600.0})
    record, out, _ = searched(features, tmp_path, asked, model, train)
    trials = trials_in(out)
    names = [trial["settings"]["model.name"] for trial in trials]
    assert {"trees", "mlp"} <= set(names)
    best, _ = tune.apply(tune.best(out), model, TRAIN)
    assert best.name in {"trees", "mlp"}
    assert all(trial["latency_ms"] > 0 for trial in trials)
    (chosen,) = [trial for trial in trials if trial["chosen"]]
    assert (chosen["settings"], chosen["latency_ms"]) == (record["best"], record["latency_ms"])
    points = [(trial["validation_loss"], trial["latency_ms"]) for trial in trials]
    assert trials.index(chosen) in objectives.front(points)
    (plot,) = record["findings"][1]["plots"]
    assert plot["kind"] == "front"
    assert plot["points"][plot["chosen"]] == (chosen["latency_ms"], chosen["validation_loss"])
    table = record["findings"][0]["tables"][0]
    assert table["columns"][-1] == "price"
    for name, count, epochs, score, loss, seconds, price in table["rows"]:
        own = [trial for trial in trials if trial["settings"]["model.name"] == name]
        assert count == len(own)
        assert epochs == sum(trial["epochs"] for trial in own)
        lowest = min(own, key=lambda trial: trial["validation_loss"])
        assert score == pytest.approx(lowest["score"], abs=1e-4)
        assert loss == pytest.approx(lowest["validation_loss"], abs=1e-4)
        assert price == pytest.approx(seconds, abs=0.06)  # 3,600 an hour is one a second


def test_what_matters_is_told_of_the_trials_of_an_architecture():
    narrow = space.Space(
        ("mlp",),
        False,
        {"model.width": Range(integer=(1, 99)), "train.clip": Range(uniform=(0.1, 2.0))},
        (),
    )
    trials = [
        {
            "settings": {"model.width": width, "train.clip": 0.1 + (width * 37 % 19) / 10},
            "state": "complete",
            "validation_loss": width / 100,
            "score": 0.5,
            "epochs": 1 + width % 2,
            "seconds": 1.0,
        }
        for width in range(1, 99, 4)
    ]
    chosen = trials[3]
    side, mattered, budget = search_findings.findings(
        narrow, trials, Tune(), chosen=chosen, price_per_hour=None
    )
    (plot,) = side["plots"]
    assert plot["axes"] == ["width", "clip", "validation loss"]
    assert plot["rows"][plot["chosen"]] == [*chosen["settings"].values(), chosen["validation_loss"]]
    assert len(plot["rows"]) == 25
    assert [row[0] for row in mattered["tables"][0]["rows"]] == ["model.width", "train.clip"]
    assert budget["tables"][0]["rows"] == [[2, 25, 50, 25.0]]
