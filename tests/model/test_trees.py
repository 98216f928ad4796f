from __future__ import annotations

import json
import shutil

import lightgbm
import numpy as np
import onnx
import onnxruntime
import prepared_rows
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import accuracy_score, log_loss
from upath import UPath

from ray_pipeline.data import features as prepared
from ray_pipeline.data import onnx_export
from ray_pipeline.deploy import graph
from ray_pipeline.errors import TrainingError
from ray_pipeline.job import Model, Train
from ray_pipeline.model import boosting, train, trees, worker, zoo

MODEL = Model.model_validate(
    {"name": "trees", "trees": {"rounds": 8, "learning_rate": 0.2, "leaves": 8, "columns": 1.0}}
)
SETTINGS = Train(workers=0, epochs=5, patience=2)
OUTPUTS = {"two classes": 2, "four classes": 4, "values": 1}


def example(outputs: int, rows: int = 500) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(outputs)
    numbers = generator.normal(size=(rows, 4)).astype(np.float32)
    categories = generator.integers(0, 6, size=(rows, 2))
    signal = numbers[:, 0] + np.sin(3 * numbers[:, 1]) + 1.5 * (categories[:, 0] % 3)
    if outputs == 1:
        return numbers, categories, signal.astype(np.float32)
    edges = np.quantile(signal, np.linspace(0, 1, outputs + 1)[1:-1])
    return numbers, categories, np.digitize(signal, edges)


def grown(outputs: int) -> tuple[lightgbm.Booster, zoo.Trees, np.ndarray, tuple[np.ndarray, ...]]:
    """LightGBM's model, the same as a network, the columns that LightGBM was given, the rows."""
    numbers, categories, label = example(outputs)
    ranks = trees.ranked(categories, label, (6, 6), outputs if outputs > 1 else None)
    columns = np.hstack([numbers, ranks[categories + np.array([0, 6])]])
    objective = {1: {"objective": "regression"}, 2: {"objective": "binary"}}.get(
        outputs, {"objective": "multiclass", "num_class": outputs}
    )
    booster = lightgbm.train(
        {**objective, "verbose": -1, "num_leaves": 9}, lightgbm.Dataset(columns, label), 25
    )
    network = zoo.build(MODEL, zoo.Inputs(numbers=4, categories=(6, 6), outputs=outputs))
    network.load_state_dict(trees.state_of(booster.dump_model(), ranks, outputs))
    return booster, network.eval(), columns, (numbers, categories)


def expected(booster: lightgbm.Booster, columns: np.ndarray, outputs: int) -> np.ndarray:
    raw = booster.predict(columns, raw_score=True)
    if outputs == 2:
        return np.stack([np.zeros(len(raw)), raw], axis=1)
    return raw.reshape(len(columns), -1)


@pytest.mark.parametrize("outputs", OUTPUTS.values(), ids=OUTPUTS)
def test_the_network_says_what_lightgbm_says_at_the_thresholds_too(outputs):
    booster, network, columns, (numbers, categories) = grown(outputs)
    # Each threshold as a value, in single precision: rounded up it would go the other way.
    cuts = network.threshold[network.feature == 0]
    cuts = cuts[cuts != 0].unique().numpy()
    numbers, categories = (
        np.vstack([part, np.repeat(part[:1], len(cuts), 0)]) for part in (numbers, categories)
    )
    columns = np.vstack([columns, np.repeat(columns[:1], len(cuts), 0)])
    numbers[-len(cuts) :, 0] = columns[-len(cuts) :, 0] = cuts
    assert len(cuts) > 5
    found = network(torch.from_numpy(numbers), torch.from_numpy(categories))
    np.testing.assert_allclose(found, expected(booster, columns, outputs), atol=2e-5)


class ByPlace(torch.nn.Module):
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.network(*inputs)


@pytest.mark.parametrize("outputs", OUTPUTS.values(), ids=OUTPUTS)
def test_in_onnx_it_is_one_node_for_all_trees(outputs):
    _, network, _, (numbers, categories) = grown(outputs)
    rows = {"numbers": torch.from_numpy(numbers), "categories": torch.from_numpy(categories)}
    model = onnx_export.graph_of(ByPlace(network), rows, opset=20)
    trees.complete(model.graph, network)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("TreeEnsembleRegressor") == 1
    assert len(kinds) < 6
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for count in (1, len(numbers)):
        feed = {"numbers": numbers[:count], "categories": categories[:count]}
        found = session.run(None, feed)[0]
        np.testing.assert_allclose(found, network(**rows)[:count], atol=1e-5)


def test_no_rows_give_no_logits():
    network = grown(4)[1]
    assert network(torch.empty(0, 4), torch.empty(0, 2, dtype=torch.int64)).shape == (0, 4)


def test_a_model_without_a_split_says_the_same_of_every_row():
    network = zoo.build(MODEL, zoo.Inputs(numbers=1, categories=(), outputs=2))
    rows = lightgbm.Dataset(np.zeros((60, 1)), np.arange(60) % 3 == 0)
    booster = lightgbm.train({"objective": "binary", "verbose": -1}, rows, 3)
    network.load_state_dict(trees.state_of(booster.dump_model(), np.empty(0, np.float32), 2))
    found = network(torch.zeros(2, 1), torch.empty(2, 0, dtype=torch.int64)).softmax(1)
    np.testing.assert_allclose(found[:, 1], 1 / 3, atol=1e-6)


@settings(deadline=None, max_examples=50)
@given(arrays(np.float64, 20, elements=st.floats(-1e30, 1e30)))
def test_a_rounded_threshold_parts_single_numbers_as_the_double_does(values):
    rounded = trees.rounded_down(values)
    near = values.astype(np.float32)
    for single in (near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, -near)):
        assert np.array_equal(single.astype(np.float64) <= values, single <= rounded)


def test_ranks_follow_the_label_and_little_is_believed_of_few_rows():
    categories = np.repeat([0, 1, 2, 3], [50, 50, 1, 50])[:, None]
    label = np.r_[np.arange(50) < 40, np.arange(50) < 5, [True], np.arange(50) < 20].astype(int)
    # Means 0.8, 0.1, 1.0 of one row alone, 0.4; index 4 was never seen.
    ranks = trees.ranked(categories, label, (5,), 2)
    assert ranks.argsort().tolist() == [1, 3, 4, 2, 0]
    values = trees.ranked(categories, label.astype(float), (5,), None)
    assert values.tolist() == ranks.tolist()


def test_ranks_of_many_classes_bring_the_like_together():
    categories = np.repeat(np.arange(4), 90)[:, None]
    label = np.r_[[0] * 60, [1] * 30, [2] * 90, [0] * 50, [1] * 40, [2] * 80, [1] * 10]
    ranks = trees.ranked(categories, label, (4,), 3)
    assert abs(ranks[0] - ranks[2]) == 1
    assert abs(ranks[1] - ranks[3]) == 1


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return prepared_rows.written(UPath(tmp_path_factory.mktemp("trees") / "features"))


def fitted(features, folder, settings=SETTINGS, model=MODEL):
    out, work = UPath(folder) / "out", UPath(folder) / "out" / "work"
    work.mkdir(parents=True)
    events: list[dict[str, object]] = []
    record = train.write(features, model, settings, out, work=work, progress=events.append)
    return record, out, events


def test_it_trains_as_networks_do(features, ray_cluster, tmp_path):
    record, out, events = fitted(features, tmp_path)
    history = json.loads((out / "history.json").read_text())
    assert events == history
    best = min(history, key=lambda epoch: epoch["validation_loss"])
    assert record["best_epoch"] == best["epoch"]
    assert record["trees"] == best["epoch"] * MODEL.trees.rounds
    held = prepared.read_matrix(features / "validation")
    network = train.load(out)
    rows = [torch.from_numpy(held[name].astype(kind)) for name, kind in KINDS.items()]
    chances = network(*rows).softmax(1).numpy()
    assert record["score"] == pytest.approx(accuracy_score(held["label"], chances.argmax(1)))
    assert record["validation_loss"] == pytest.approx(log_loss(held["label"], chances), abs=1e-5)
    assert record["score"] > 0.9


KINDS = {"numbers": np.float32, "categories": np.int64}


def test_a_regression_is_scored_by_r2(ray_cluster, tmp_path):
    features = prepared_rows.written(UPath(tmp_path / "rows"), task="regression")
    record, out, _ = fitted(features, tmp_path)
    statistics, held = prepared.load(features), prepared.read_matrix(features / "validation")
    values = graph.torch_outputs(train.load(out), statistics)(held)
    residual = ((held["label"] - values) ** 2).sum()
    r2 = 1 - residual / ((held["label"] - held["label"].mean()) ** 2).sum()
    assert record["score"] == pytest.approx(r2, abs=1e-4)
    assert record["score"] > 0.8


def test_it_stops_when_the_loss_no_longer_falls(features, ray_cluster, tmp_path):
    record, _, _ = fitted(features, tmp_path, SETTINGS.model_copy(update={"epochs": 40}))
    assert record["epochs"] == record["best_epoch"] + 2 < 40


def test_two_workers_grow_the_trees_of_all_rows(features, ray_cluster, tmp_path):
    """Each worker's rows are of one class: alone it could learn nothing of them."""
    rows = pq.ParquetDataset(str(features / "train")).read()
    classes = [rows.filter(pc.equal(rows["label"], label)) for label in (0, 1)]
    few = min(len(each) for each in classes)
    order = np.arange(2 * few).reshape(2, few).T.ravel()
    mixed = pa.concat_tables([each.slice(0, few) for each in classes]).take(pa.array(order))
    folder = UPath(tmp_path / "mixed")
    shutil.copytree(str(features), str(folder))
    shutil.rmtree(str(folder / "train"))
    (folder / "train").mkdir()
    pq.write_table(mixed, str(folder / "train" / "0.parquet"))
    record, _, events = fitted(
        folder, tmp_path, SETTINGS.model_copy(update={"workers": 2, "feed": "memory"})
    )
    assert record["workers"] == 2
    assert len(events) == record["epochs"]
    assert record["score"] > 0.85


def setup(features: UPath, feed: str) -> worker.Setup:
    return worker.Setup(
        model=MODEL,
        train=SETTINGS,
        statistics=prepared.load(features),
        features=features,
        feed=feed,
        data=train.matrices(features) if feed == "memory" else None,
        work=features,
        log_dir=None,
        report=print,
    )


@pytest.mark.parametrize("feed", ["memory", "stream"])
def test_workers_have_each_row_once_and_rank_categories_by_all(features, feed):
    everything = train.matrices(features)
    shares = [boosting._rows(setup(features, feed), rank, 3) for rank in range(3)]
    numbers = np.vstack([own["numbers"] for own, _, _ in shares])
    assert sorted(map(tuple, numbers)) == sorted(map(tuple, everything["train"]["numbers"]))
    for _, ranked, validation in shares:
        for name in ("categories", "label"):
            assert np.array_equal(ranked[name], everything["train"][name])
        assert np.array_equal(validation["numbers"], everything["validation"]["numbers"])


def test_more_workers_than_row_groups_is_an_error_on_each(tmp_path):
    rows = prepared_rows.written(UPath(tmp_path / "rows"), rows=30, files=1)
    for rank in range(2):
        with pytest.raises(TrainingError, match="1 row groups cannot be shared by 2 workers"):
            boosting._rows(setup(rows, "stream"), rank, 2)


def test_heavy_rows_count_for_more(ray_cluster, tmp_path):
    rows = prepared_rows.written(UPath(tmp_path / "rows"), weighted=True)
    statistics, held = prepared.load(rows), train.matrices(rows)
    ranks = boosting.ranks_of(statistics, held["train"])
    plain = {name: part for name, part in held["train"].items() if name != "weight"}
    seen = {}
    for name, training in (("weighted", held["train"]), ("plain", plain)):
        one = boosting.Boosting(
            MODEL,
            SETTINGS,
            statistics,
            training=training,
            validation=held["validation"],
            ranks=ranks,
        )
        seen[name] = one.epoch()["train_loss"], one.state(1)["value"]
    sums = held["train"]["weight"]
    assert sums.mean() != pytest.approx(1, abs=0.1)
    assert seen["weighted"][0] != pytest.approx(seen["plain"][0], rel=0.01)
    assert not torch.equal(seen["weighted"][1], seen["plain"][1])
