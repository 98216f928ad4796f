from __future__ import annotations

import re
import shutil

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_encoder
from upath import UPath

from ray_pipeline.chat import index
from ray_pipeline.data import feature_graph, features, onnx_export, onnx_session
from ray_pipeline.data.encoders import graphs, pretrained, sentences, tokens
from ray_pipeline.errors import JobError
from ray_pipeline.job import Chat, Data
from ray_pipeline.schema import Column, Schema

SCHEMA = Schema(
    columns=(
        Column(name="review", kind="text"),
        Column(name="stars", kind="integer"),
        Column(name="good", kind="category", role="label"),
    )
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_encoder.saved(tmp_path_factory.mktemp("base"))


def by_transformers(base, texts):
    """Each text alone: the mean of its hidden states, of length 1."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModel.from_pretrained(base).eval()
    found = []
    for text in texts:
        inputs = tokenizer(text, truncation=True, max_length=16, return_tensors="pt")
        with torch.no_grad():
            mean = model(**inputs).last_hidden_state.mean(1)[0]
        found.append((mean / mean.norm()).numpy())
    return np.array(found)


def test_the_pool_the_graph_and_transformers_agree(base, tmp_path, ray_cluster):
    texts, labels = tiny_encoder.reviews(90)
    texts[5] = ""
    split, out = UPath(tmp_path / "split"), UPath(tmp_path / "features")
    for side, rows in {"train": slice(0, 60), "validation": slice(60, 90)}.items():
        (split / side).mkdir(parents=True)
        count = len(texts[rows])
        columns = {"review": texts[rows], "stars": list(range(count)), "good": labels[rows]}
        table = pa.table(columns, schema=SCHEMA.arrow())
        for part, start in enumerate(range(0, count, 30)):
            pq.write_table(table.slice(start, 30), str(split / side / f"{part}.parquet"))
    out.mkdir()
    settings = {"columns": {"review": {"text": "embedding", "encoder": base, "longest": 16}}}
    data = Data(source="unused", label="good", features=settings)
    features.write(split, data, SCHEMA, out=out)
    expected = by_transformers(base, texts)
    made = features.read_matrix(out / "train")["numbers"]
    np.testing.assert_allclose(made[:, -16:], expected[:60], atol=1e-5)
    assert not (out / "vectors").exists()
    statistics = features.load(out)
    graph = feature_graph.onnx_graph(statistics).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    run = tokens.reading(lambda columns: session.run(None, columns)[0], statistics.sentences)
    raw = {"review": np.array(texts[60:], object), "stars": np.arange(30.0)}
    held_out = features.read_matrix(out / "validation")["numbers"]
    np.testing.assert_allclose(run(raw), held_out, atol=1e-5)


def test_rows_without_vectors_have_them_made(base):
    settings = {"text": "embedding", "encoder": base, "longest": 16}
    column = sentences.fitted("review", features.Features(columns={"r": settings}).of("r"))
    texts = ["good tea", "bad bad food", "", "milk"]
    found = sentences.encoding(column)(pa.table({"review": [*texts, None]}))
    np.testing.assert_allclose(found[:4], by_transformers(base, texts), atol=1e-5)
    np.testing.assert_array_equal(found[4], found[2])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def operations(graph):
    return {node.op_type for node in onnx.load(str(graph)).graph.node}


def test_attention_is_written_plainly_and_trained_as_it_was(base):
    import torch

    backbone = pretrained.backbone(base)
    before = backbone.config._attn_implementation
    example = {"tokens": torch.zeros(2, 8, dtype=torch.int64)}

    class Pooled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = backbone

        def forward(self, *inputs):
            return pretrained.pooled_mean(self.backbone, *inputs)

    onnx_export.graph_of(Pooled(), example, graphs.OPSET)
    assert before == "sdpa" == backbone.config._attn_implementation
    assert {"Softmax", "LayerNormalization"} <= operations(sentences.graph_of(base))
    assert "IsNaN" not in operations(sentences.graph_of(base))


@pytest.mark.parametrize("left_out", [(), onnx_session.SLOWER_ON_CPU], ids=["all", "ours"])
def test_layer_norms_stay_what_is_fast(base, tmp_path, left_out):
    """ONNX Runtime passes over names of optimizers that it does not know."""
    settings = onnx_session.settings(1)
    settings.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(
        str(sentences.graph_of(base)),
        settings,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=left_out,
    )
    made = operations(settings.optimized_model_filepath)
    assert ("SkipLayerNormalization" in made) == (not left_out)


def test_what_is_written_of_an_encoder_is_of_its_files(base, tmp_path):
    copy = shutil.copytree(base, tmp_path / "copy")
    assert sentences.graph_of(str(copy)) == sentences.graph_of(base)
    assert tokens.digest_of(str(copy)) != tokens.digest_of(base), "a record names the folder"
    (copy / "tokenizer_config.json").unlink()
    assert tokens.content_digest(str(copy)) != tokens.content_digest(base)


@pytest.mark.parametrize("missing", ["tokenizer.json", "model.safetensors"])
def test_an_encoder_that_cannot_be_loaded_is_said_where_the_job_names_it(base, tmp_path, missing):
    copy = shutil.copytree(base, tmp_path / "copy", ignore=shutil.ignore_patterns(missing))
    settings = Chat(encoder=str(copy))
    with pytest.raises(JobError, match=re.escape(str(copy))) as raised:
        index.encoder_of(settings)
    assert raised.value.where == "chat.encoder"
