"""Jobs whose rows have several labels, from a file to an endpoint that answers with lists."""

from __future__ import annotations

import asyncio
import json

import httpx
import jsonschema
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_encoder
from sklearn.datasets import make_multilabel_classification
from sklearn.metrics import f1_score
from upath import UPath

from ray_pipeline import bundle, jobfile, path_rows, pipeline
from ray_pipeline.data.media.pixels import png
from ray_pipeline.deploy import batch, inference, pyfunc
from ray_pipeline.deploy.app import Endpoint
from ray_pipeline.deploy.counters import Counters
from ray_pipeline.deploy.pages import pages
from ray_pipeline.deploy.protocol import Protocol
from ray_pipeline.deploy.runtime import Predictor
from ray_pipeline.errors import JobError
from ray_pipeline.job import Serve

NAMES = ("art", "law", "music", "war")
JOB = """
name: topics
storage: storage
data:
  source: rows.csv
  label: topics
  missing: ["?"]
  columns: {topics: {kind: labels, separator: ";"}}
  balance: {classes: balanced}
model: {name: mlp, width: 32, depth: 1, dropout: 0}
train: {workers: 0, epochs: 8, batch_size: 64, learning_rate: 0.02, mixup: 0.2, smoothing: 0.02}
evaluate:
  folds: 3
  baseline: linear
  bootstrap: 200
  slices: {high: {column: n0, above: 3}}
  robustness: {rows: 50, steps: 2}
  importance: {rows: 100, repeats: 1}
  gates: {f1_micro: {min: 0.6}, folds.f1_micro.mean: {min: 0.55}, classes.art.recall: {min: 0.3}}
compress: {prune: {epochs: 1}, distill: {model: {width: 16}, epochs: 2}, max_drop: 0.5}
"""


class Quiet:
    def __getattr__(self, name: str):
        return lambda *arguments, **settings: None


def rows(count: int = 700) -> tuple[pd.DataFrame, np.ndarray]:
    """Counts of six words in texts on some of four topics; on none, too."""
    words, topics = make_multilabel_classification(
        count, n_features=6, n_classes=4, n_labels=2, allow_unlabeled=True, random_state=4
    )
    columns = {f"n{index}": words[:, index] for index in range(6)}
    return pd.DataFrame(columns), topics


def joined(topics: np.ndarray, separator: str = ";") -> list[str]:
    rng = np.random.default_rng(0)
    return [
        separator.join(rng.permutation([NAMES[k] for k in np.flatnonzero(row)])) for row in topics
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("topics")
    table, topics = rows()
    table["topics"] = joined(topics)
    table.loc[5, "topics"] = "?"
    table.to_csv(folder / "rows.csv", index=False)
    (folder / "job.yaml").write_text(JOB)
    return folder


def run(folder, *settings: str, until: str = "export"):
    return pipeline.run(jobfile.read(folder / "job.yaml", list(settings)), Quiet(), until=until)


@pytest.fixture(scope="module")
def ran(folder, ray_cluster):
    return run(folder)


@pytest.fixture(scope="module")
def opened(ran, folder):
    return bundle.opened(next((folder / "storage/topics/stages").glob("export-*")) / "bundle")


def stages(record) -> dict[str, dict]:
    return {stage["name"]: stage["record"] for stage in record["stages"]}


def test_an_empty_label_is_none_of_them_and_a_missing_one_sets_the_row_aside(ran):
    found = stages(ran)["clean"]
    assert found["quarantine"]["topics: missing label"] == 1
    _, topics = rows()
    counts = dict(found["columns"]["topics"]["top"])
    assert set(counts) == set(NAMES)
    assert 0 < counts["art"] <= topics[:, 0].sum()


def test_metrics_are_those_of_the_predictions_that_were_written(ran, folder):
    metrics = ran["metrics"]
    (path,) = (folder / "storage/topics/stages").glob("evaluate-*/predictions.parquet")
    found = pq.read_table(path)
    true, said = (
        np.array([[name in row for name in NAMES] for row in found[key].to_pylist()])
        for key in ("label", "predicted")
    )
    for average in ("micro", "macro"):
        wanted = f1_score(true, said, average=average)
        assert metrics[f"f1_{average}"] == pytest.approx(wanted)
    low, high = metrics["intervals"]["f1_micro"]
    assert low <= metrics["f1_micro"] <= high
    assert set(metrics["classes"]) == set(NAMES)
    assert metrics["classes"]["law"]["f1_low"] < metrics["classes"]["law"]["f1_high"]
    assert metrics["baseline"]["is"] == "a logistic regression for each label"
    assert metrics["slices"]["high"]["f1_micro"] > 0
    assert metrics["robustness"]["pgd"]["0.2"]["score"] <= metrics["robustness"]["score"]
    assert metrics["importance"]
    page = UPath(ran["report"]).read_text()
    assert "Label by label" in page
    assert "Cross-validation" in page


def test_smaller_networks_learn_several_labels_too(ran):
    table = stages(ran)["compress"]["networks"]
    assert {row["name"] for row in table} == {"trained", "pruned", "student"}
    assert all(row["score"] > 0.5 for row in table)


def test_folds_hold_out_each_row_once(ran):
    found = stages(ran)
    split = found["split"]["rows"]
    assert found["folds"]["rows_out"] == split["train"] + split["validation"]
    folds = ran["metrics"]["folds"]["f1_micro"]
    assert len(set(folds["values"])) == 3
    assert folds["mean"] == pytest.approx(np.mean(folds["values"]))
    assert folds["deviation"] == pytest.approx(np.std(folds["values"], ddof=1))
    trained = ran["metrics"]["folds"]["loss"]["split"]
    assert trained == pytest.approx(found["train"]["validation_loss"])


class Served:
    """The endpoint's app, and a client of it."""

    def __init__(self, opened) -> None:
        settings = Serve(auth="none", guard="off")
        self.endpoint = Endpoint(
            "topics",
            Predictor(opened),
            settings,
            gate=None,
            pages=pages("topics", opened, settings),
            counters=Counters(),
            started=lambda: None,
            stopped=lambda: None,
        )

    def ask(self, method: str, path: str, **more) -> httpx.Response:
        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(self.endpoint)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **more)

        return asyncio.run(asked())


def test_the_endpoint_answers_with_all_labels_of_a_row(opened):
    table, topics = rows()
    served, some = Served(opened), table.head(300)
    sent = {"rows": some.to_dict("records")[:100]}
    answer = served.ask("POST", "/topics/predict", json=sent)
    assert answer.status_code == 200, answer.text
    predictions = answer.json()["predictions"]
    at = dict(zip(opened.manifest.classes, opened.manifest.thresholds, strict=True))
    for prediction in predictions:
        shares = prediction["probabilities"]
        assert prediction["labels"] == [name for name in NAMES if shares[name] >= at[name]]
    said = [[name in each["labels"] for name in NAMES] for each in predictions]
    assert f1_score(topics[:100], said, average="micro") > 0.6
    document = served.ask("GET", "/topics/openapi.json").json()
    for prediction in predictions:
        jsonschema.validate(prediction, document["components"]["schemas"]["Prediction"])
    assert "All that the row has of" in served.ask("GET", "/topics/docs").text
    assert "multilabel" in served.ask("GET", "/topics/").text


def test_the_protocol_of_tensors_and_mlflow_say_the_same(opened):
    table, _ = rows()
    some = table.head(20)
    manifest = opened.manifest
    by_column = pyfunc.BundleModel(str(opened.path)).predict(some)
    inputs = [
        {"name": name, "shape": [20], "datatype": "FP64", "data": some[name].tolist()}
        for name in some
    ]
    read = inference.request(
        json.dumps({"inputs": inputs}).encode(), [], Protocol(manifest.schema, 100), manifest
    )
    served = Served(opened)
    predictions = asyncio.run(served.endpoint._predictions.of(read.rows)).predictions
    answer = json.loads(inference.answer(read, predictions, manifest).body)
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert outputs["labels"]["shape"] == outputs["probabilities"]["shape"] == [20, 4]
    assert outputs["labels"]["datatype"] == "BOOL"
    hot = np.array(outputs["labels"]["data"]).reshape(20, 4)
    for row, names in zip(hot, by_column["labels"], strict=True):
        assert [name for name, has in zip(NAMES, row, strict=True) if has] == names
    shares = [list(each.values()) for each in by_column["probabilities"]]
    found = np.array(outputs["probabilities"]["data"]).reshape(20, 4)
    np.testing.assert_allclose(found, shares, atol=1e-6)


def test_files_are_predicted_in_bulk(opened, folder):
    table, topics = rows()
    table["topics"] = joined(topics)
    table.head(50).to_csv(folder / "new.csv", index=False)
    for name in ("out.parquet", "out.csv"):
        told = batch.predicted(str(opened.path), str(folder / "new.csv"), str(folder / name))
        assert told["rows_out"] == 50
    found = pq.read_table(folder / "out.parquet")
    wanted = pyfunc.BundleModel(str(opened.path)).predict(table.head(50))
    assert found["prediction"].to_pylist() == wanted["labels"].tolist()
    as_json = pd.read_csv(folder / "out.csv")["prediction"].map(json.loads)
    assert as_json.tolist() == found["prediction"].to_pylist()


def test_the_next_model_is_searched_and_compared_with_this(ran, opened, folder):
    found = run(
        folder,
        f"evaluate.champion={opened.path}",
        "evaluate.folds=0",
        "evaluate.thresholds=half",
        "evaluate.gates={}",
        "compress={int8: never}",
        "model.name=resnet",
        "tune={trials: 2, space: {train.learning_rate: {choice: [0.01, 0.02]}}}",
        until="champion",
    )
    champion = found["metrics"]["champion"]
    low, high = champion["intervals"]["f1_micro"]
    own = found["metrics"]["f1_micro"]
    assert low <= own - champion["theirs"]["f1_micro"] <= high
    assert champion["theirs"]["f1_micro"] == pytest.approx(ran["metrics"]["f1_micro"], abs=0.05)
    assert set(found["metrics"]["thresholds"].values()) == {0.5}


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        (["model.name=trees"], "model.name"),
        (["evaluate.groups=[n0]"], "evaluate.groups"),
        (["evaluate.positive=art"], "evaluate.positive"),
        (["data.balance={by: [n0]}"], "data.balance"),
        (["label={unvoted: unlabelled}"], "label"),
        (["evaluate.gates={accuracy: {min: 0.5}}"], "evaluate.gates"),
    ],
)
def test_what_speaks_of_one_label_is_refused(folder, settings, where):
    job = jobfile.read(folder / "job.yaml", settings)
    with pytest.raises(JobError) as raised:
        path_rows.checked(job, job.data)
    assert raised.value.where == where


def test_texts_have_several_labels_in_lists(tmp_path, ray_cluster):
    """A list column needs no kind; rare labels are left out; an encoder reads the texts."""
    base = tiny_encoder.saved(tmp_path / "base")
    rng = np.random.default_rng(0)
    texts, lists = [], []
    for number in range(160):
        good, tea = rng.random(2) < 0.5
        texts.append(f"the {'tea' if tea else 'food'} is {'good' if good else 'bad'}")
        lists.append([*["good"] * int(good), *["tea"] * int(tea), *["odd"] * (number == 3)])
    numbers = rng.random(160)
    pq.write_table(pa.table({"said": texts, "n": numbers, "is": lists}), tmp_path / "rows.parquet")
    (tmp_path / "job.yaml").write_text(f"""
name: said
storage: storage
data:
  source: rows.parquet
  label: is
  columns: {{said: text, is: {{kind: labels, min_rows: 3}}}}
  features: {{columns: {{said: {{text: tokens, encoder: {base}, longest: 8}}}}}}
model: {{name: encoder}}
train: {{workers: 0, epochs: 6, batch_size: 16, learning_rate: 0.02}}
evaluate: {{bootstrap: 0, importance: {{rows: 0}}}}
""")
    record = run(tmp_path, until="evaluate")
    assert stages(record)["features"]["labels_left_out"] == 1
    assert set(record["metrics"]["classes"]) == {"good", "tea"}
    assert record["metrics"]["f1_micro"] > 0.9


def test_pictures_have_several_labels(tmp_path, ray_cluster):
    """A bright left half, a bright upper half, both or neither; mixed with each other."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 60, (240, 8, 8, 1), np.uint8)
    has = rng.random((240, 2)) < 0.5
    pixels[has[:, 0], :, :4] += 120
    pixels[has[:, 1], :4] += 70
    names = ["|".join(np.array(["left", "up"])[row]) for row in has]
    table = {"picture": [png(each) for each in pixels], "bright": names}
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    (tmp_path / "job.yaml").write_text("""
name: bright
storage: storage
data:
  source: rows.parquet
  label: bright
  columns: {picture: image, bright: labels}
  features: {columns: {picture: {size: [8, 8], channels: 1}}}
model: {name: cnn, width: 16, depth: 1, dropout: 0}
train: {workers: 0, epochs: 6, batch_size: 32, learning_rate: 0.02, mixup: 0.2}
evaluate: {bootstrap: 0}
""")
    record = run(tmp_path, until="evaluate")
    assert record["metrics"]["f1_micro"] > 0.9


def test_a_transformer_over_columns_learns_them(ran, folder):
    record = run(
        folder,
        *("model={name: ft_transformer, width: 16, depth: 1, heads: 2}", "evaluate.folds=0"),
        *("evaluate.gates={}", "compress={int8: never}", "train.mixup=0"),
        until="evaluate",
    )
    assert record["metrics"]["mean_average_precision"] > 0.6
