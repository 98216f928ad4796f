from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_encoder
import torch
from upath import UPath

from ray_pipeline import bundle
from ray_pipeline.data.compiled import compiled_arrow
from ray_pipeline.data.encoders import tokens
from ray_pipeline.data.matrices import matrices
from ray_pipeline.data.statistics import LabelStatistics, Statistics
from ray_pipeline.deploy import export, runtime
from ray_pipeline.errors import JobError
from ray_pipeline.job import Compress, Model, Train
from ray_pipeline.job.features import ColumnFeatures
from ray_pipeline.job.model import Lora
from ray_pipeline.model import batches, loop, predictions, train, zoo
from ray_pipeline.model.feed import MemoryFeed, Place
from ray_pipeline.schema import Column, Schema

ENCODER = Model(name="encoder", dropout=0.0)
SCHEMA = Schema(
    columns=(
        Column(name="review", kind="text"),
        Column(name="good", kind="category", role="label"),
    )
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_encoder.saved(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def statistics(base):
    settings = ColumnFeatures(text="tokens", encoder=base, longest=16)
    return Statistics(
        rows=400,
        numbers=(),
        categories=(),
        tokens=tokens.fitted("review", settings),
        label=LabelStatistics(name="good", classes=("no", "yes"), counts=(220, 180)),
    )


def table(count, seed=0):
    texts, labels = tiny_encoder.reviews(count, seed)
    return pa.table({"review": texts, "good": labels})


def built(statistics, model=ENCODER):
    torch.manual_seed(0)
    return zoo.build(model, loop.inputs(statistics)).eval()


def test_a_text_is_the_mean_of_what_transformers_makes_of_its_tokens(statistics, base):
    from transformers import AutoTokenizer, BertModel

    texts, _ = tiny_encoder.reviews(20)
    network = built(statistics)
    found = predictions.answering(network, statistics)(pa.table({"review": texts}))
    tokenizer, model = AutoTokenizer.from_pretrained(base), BertModel.from_pretrained(base).eval()
    for text, row in zip(texts, found, strict=True):
        alone = tokenizer(text, truncation=True, max_length=16, return_tensors="pt")
        with torch.no_grad():
            logits = network.head(model(**alone).last_hidden_state.mean(1))
        np.testing.assert_allclose(row, logits.softmax(1)[0], atol=1e-6)


def test_a_student_keeps_layers_from_first_to_last(statistics):
    whole, student = built(statistics), built(statistics, ENCODER.model_copy(update={"layers": 2}))
    kept = student.backbone.encoder.layer
    assert len(kept) == 2
    for mine, theirs in zip(kept, (0, 2), strict=True):
        expected = whole.backbone.encoder.layer[theirs].state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in mine.state_dict().items())
    with pytest.raises(JobError, match="4 layers"):
        built(statistics, ENCODER.model_copy(update={"layers": 4}))


def test_lora_trains_little_and_merges_into_the_same_network(statistics):
    network = built(statistics, ENCODER.model_copy(update={"lora": Lora(rank=2)}))
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert all("lora" in name or name.startswith("head") for name in trained)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:  # zeros at the start
            torch.nn.init.normal_(parameter, std=0.1)
    rows = torch.tensor([[2, 4, 5, 3], [2, 3, -1, -1]])
    with torch.no_grad():
        before = network(rows)
        merged = zoo.plain(network)
        assert not any("lora" in name for name in merged.state_dict())
        torch.testing.assert_close(merged(rows), before)
        assert not torch.allclose(built(statistics)(rows), before, atol=1e-3)


def test_other_networks_say_that_they_do_not_read_tokens(statistics):
    with pytest.raises(JobError, match="does not read"):
        zoo.build(Model(), loop.inputs(statistics))
    with pytest.raises(JobError, match="no tokens"):
        zoo.build(ENCODER, zoo.Inputs(numbers=2, categories=(), outputs=2))


def test_batches_are_of_like_lengths_and_hold_each_row_once():
    length = torch.randint(1, 100, (1003,), generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    order = batches.bucketed(torch.randperm(1003, generator=generator), length, 10, generator)
    assert len(order) == 1000
    assert len(order.unique()) == 1000
    rows = length[order].view(100, 10)
    padding = (rows.max(1).values[:, None] - rows).float().mean()
    assert padding < 2  # of about 50, at random
    assert not torch.equal(rows.max(1).values.sort().values, rows.max(1).values)


def test_two_workers_share_each_batch_of_texts_of_one(statistics):
    ready = matrices(compiled_arrow(statistics)(table(100)))

    def feed(rank, world):
        return MemoryFeed(ready, ready, 20, Place(rank, world, torch.device("cpu"), 3)).training(1)

    def texts(*parts):
        return sorted(
            tuple(row[row >= 0].tolist()) for part in parts for row in part.inputs["tokens"]
        )

    for whole, left, right in zip(feed(0, 1), feed(0, 2), feed(1, 2), strict=True):
        assert texts(whole) == texts(left, right)
        assert (whole.inputs["tokens"] >= 0).any(0).all()  # no column of padding alone


@pytest.fixture(scope="module")
def trained(statistics, tmp_path_factory, ray_cluster):
    """A folder with rows, prepared rows and the encoder that was trained on them."""
    root = UPath(tmp_path_factory.mktemp("encoder"))
    transform = compiled_arrow(statistics)
    for seed, (side, count) in enumerate({"train": 400, "validation": 100}.items()):
        for folder in ("split", "features"):
            (root / folder / side).mkdir(parents=True)
        rows = table(count, seed)
        pq.write_table(rows, str(root / "split" / side / "0.parquet"))
        pq.write_table(transform(rows), str(root / "features" / side / "0.parquet"))
    (root / "features/statistics.json").write_text(statistics.model_dump_json())
    for folder in ("trained", "work", "judged", "export-v1"):
        (root / folder).mkdir()
    (root / "judged/metrics.json").write_text(json.dumps({"accuracy": 0.9, "groups": {}}))
    settings = Train(
        workers=0, feed="memory", epochs=6, batch_size=20, learning_rate=5e-3, patience=6
    )
    record = train.write(
        root / "features",
        ENCODER,
        settings,
        root / "trained",
        work=root / "work",
        progress=lambda event: None,
    )
    return root, record


def test_it_learns_and_its_bundle_reads_texts(trained, statistics):
    root, record = trained
    assert record["score"] > 0.85
    inputs = [root / name for name in ("trained", "features", "split", "judged")]
    settings = Compress(int8="never")
    export.write(*inputs, SCHEMA, "reviews", settings, {}, out=root / "export-v1")
    opened = bundle.opened(root / "export-v1/bundle")
    assert "tokenizer.json" in opened.manifest.files
    rows = table(70, seed=9).drop_columns("good")
    rows = pa.concat_tables([rows, pa.table({"review": pa.array([None, ""], pa.string())})])
    columns = runtime.columns_from_table(rows, SCHEMA)
    found = runtime.Predictor(opened).predict(columns)
    network = train.load(root / "trained")
    expected = predictions.answering(network, statistics)(rows)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    one = {"review": np.array(["good tea"], object)}
    assert runtime.Predictor(opened).predict(one).shape == (1, 2)
