"""One job, from pairs of questions and passages in a file to an encoder of sentences."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_pairs
import torch
from torch.nn.functional import normalize
from upath import UPath

from ray_pipeline import bundle, jobfile, pipeline
from ray_pipeline.data.encoders import pretrained, tokens
from ray_pipeline.deploy import batch, predictions, pyfunc, runtime
from ray_pipeline.errors import JobError
from ray_pipeline.job.features import ColumnFeatures
from ray_pipeline.model import plan

JOB = """
name: finder
storage: storage
data:
  source: faq.jsonl
  label: answer
  columns: {question: text, answer: text, chapter: {kind: category, role: ignore}}
  split: {by: [question], validation: 0.2, test: 0.2}
  features:
    columns:
      question: {text: tokens, encoder: base, longest: 16}
      answer: {text: tokens, encoder: base, longest: 12}
model:
  name: embedding
  contrastive: {hard_negatives: true}
train: {workers: 0, epochs: 10, batch_size: 12, learning_rate: 0.01, patience: 10}
evaluate: {bootstrap: 200, gates: {mrr: {min: 0.4}, mrr_change: {min: 0.05}}}
compress: {int8: auto, fp16: auto}
"""


class Quiet:
    def __getattr__(self, name: str):
        return lambda *arguments, **settings: None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finder")
    tiny_pairs.saved(folder / "base")
    rows = [
        {"question": question, "answer": answer, "chapter": "food"}
        for question, answer in zip(*tiny_pairs.asked(160), strict=True)
    ]
    rows[3]["answer"] = None
    (folder / "faq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "job.yaml").write_text(JOB)
    return folder


@pytest.fixture(scope="module")
def ran(folder, ray_cluster):
    return pipeline.run(jobfile.read(folder / "job.yaml", []), Quiet(), until="export")


@pytest.fixture(scope="module")
def opened(ran, folder):
    return bundle.opened(next((folder / "storage/finder/stages").glob("export-*")) / "bundle")


def test_it_finds_better_than_before(ran):
    metrics = ran["metrics"]
    before = metrics["baseline"]["mrr"]
    low, high = metrics["intervals"]["mrr_change"]
    assert low < metrics["mrr"] - before < high
    assert low > 0
    assert metrics["mrr_change"] == pytest.approx(metrics["mrr"] - before)
    assert metrics["about"]["passages"] == 21  # pairs of six topics
    stages = {stage["name"]: stage["record"] for stage in ran["stages"]}
    others = [pair for at, pair in enumerate(zip(*tiny_pairs.asked(160), strict=True)) if at != 3]
    twice = len(others) - len(set(others))
    assert stages["clean"]["rows_quarantined"] == twice + 1  # a question without a passage
    negatives = stages["negatives"]["similarity"]
    assert negatives["wrong"] < negatives["own"]
    assert "Passages found" in UPath(ran["report"]).read_text()


def test_a_text_becomes_a_vector_of_length_one(opened):
    assert opened.manifest.task == "retrieval"
    predictor = runtime.Predictor(opened)
    columns = {"question": np.array(["the tea", "", "good food with a long long taste"], object)}
    vectors = predictor.predict(columns)
    assert vectors.shape == (3, 16)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 1], atol=1e-2)
    answers = [
        predictions.prediction_maker(opened.manifest)(v) for v in predictions.plain_numbers(vectors)
    ]
    assert set(answers[0]) == {"vector"}
    assert len(answers[0]["vector"]) == 16
    by_column = pyfunc.predictions(vectors, opened.manifest)
    np.testing.assert_allclose(by_column["vector"], vectors)


def test_its_folder_is_an_encoder_of_features(opened):
    """A column with `text: embedding` is given the vectors that the endpoint answers."""
    settings = ColumnFeatures(text="embedding", encoder=str(opened.path / "encoder"), longest=16)
    column = tokens.fitted("question", settings)
    network = pretrained.backbone(column.base).eval()

    def run(columns):
        with torch.no_grad():
            pooled = pretrained.pooled_mean(network, torch.from_numpy(columns["question"]))
        return normalize(pooled, dim=1).numpy()

    texts = {"question": np.array(["the tea", "milk taste was"], object)}
    found = tokens.reading(run, [column])(texts)
    vectors = runtime.Predictor(opened).predict(texts)
    form = opened.manifest.parity["form"]
    np.testing.assert_allclose(found, vectors, atol=1e-5 if form == "fp32" else 0.1)


def test_files_get_a_vector_for_each_row(opened, folder):
    pq.write_table(pa.table({"question": ["the tea", "milk"]}), folder / "ask.parquet")
    batch.predicted(str(opened.path), str(folder / "ask.parquet"), str(folder / "out.parquet"))
    found = pq.read_table(folder / "out.parquet")["prediction"].to_pylist()
    assert [len(vector) for vector in found] == [16, 16]


def test_each_form_has_its_score(opened):
    table = {row["name"]: row for row in opened.manifest.compression}
    assert list(table) == ["fp32", "int8", "fp16"]
    assert all(0 < row["score"] <= 1 for row in table.values())
    assert opened.manifest.parity["forms"]["fp32"]["max_difference"] < 1e-5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["model.name=language"], "for the text that it is found by"),
        (["model.name=mlp"], "goes together with `language`"),
        (["train.strategy=zero3", "train.checkpointing=true"], "zero3 cannot compute blocks again"),
        (["compress.prune.share=0.5"], "writes or finds texts"),
        (["evaluate.groups=[question]"], "writes or finds texts"),
    ],
)
def test_what_pairs_are_not_for_is_refused_at_once(folder, changes, said):
    with pytest.raises(JobError, match=said):
        jobfile.read(folder / "job.yaml", changes)


def test_its_training_can_be_planned(ran, folder):
    made = plan.of(jobfile.read(folder / "job.yaml", []))
    assert made is not None
    assert made.shape.trained > made.shape.frozen == 0
