"""What an embedding learns from a batch, alone and among workers, and which wrong passages it is
given."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_encoder
import tiny_pairs
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from upath import UPath
from worker_group import by_workers

from ray_pipeline.data import features as prepared
from ray_pipeline.data.compiled import compiled_arrow
from ray_pipeline.data.encoders import pairs, tokens
from ray_pipeline.data.matrices import matrices
from ray_pipeline.data.statistics import LabelStatistics, Statistics
from ray_pipeline.errors import JobError
from ray_pipeline.job import Features, Model, Train
from ray_pipeline.job.features import ColumnFeatures
from ray_pipeline.job.model import Contrastive, Lora
from ray_pipeline.model import contrastive, loop, negatives, strategy, zoo
from ray_pipeline.model import retrieval_judgement as judged
from ray_pipeline.model.feed import MemoryFeed, Place
from ray_pipeline.schema import Column, Schema

CPU = torch.device("cpu")
SCHEMA = Schema(
    columns=(
        Column(name="question", kind="text"),
        Column(name="answer", kind="text", role="label"),
    )
)
FULL = Model(name="embedding")
LORA = Model(name="embedding", lora=Lora(rank=4))
TRAIN = Train(batch_size=16, learning_rate=1e-2, epochs=1, weight_decay=0.01)
BLOCKS = TRAIN.model_copy(update={"checkpointing": True})
CASES = {
    "ddp": (FULL, TRAIN),
    "zero2": (LORA, TRAIN),
    "zero3 classes": (Model(name="encoder", lora=Lora(rank=4), dropout=0.0), BLOCKS),
}
"""What two workers train, by strategy; the last reads one text and names a class."""


def table(count, seed=0):
    questions, passages = tiny_pairs.asked(count, seed)
    return pa.table({"question": questions, "answer": passages})


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_pairs.saved(tmp_path_factory.mktemp("base"))


def features(base, other=None):
    columns = {"question": base, "answer": other or base}
    return Features(
        columns={
            name: ColumnFeatures(text="tokens", encoder=encoder, longest=16)
            for name, encoder in columns.items()
        }
    )


@pytest.fixture(scope="module")
def statistics(base):
    column = pairs.fitted(features(base), SCHEMA)
    label = pairs.label_of("answer")
    return Statistics(rows=64, numbers=(), categories=(), pairs=column, label=label)


@pytest.fixture(scope="module")
def classes(base):
    settings = ColumnFeatures(text="tokens", encoder=base, longest=16)
    label = LabelStatistics(name="good", classes=("no", "yes"), counts=(40, 24))
    read = tokens.fitted("review", settings)
    return Statistics(rows=64, numbers=(), categories=(), tokens=read, label=label)


def ready(statistics, count, seed=0):
    return matrices(compiled_arrow(statistics)(table(count, seed)))


def built(statistics, model=FULL):
    """A network that does the same twice: the tiny BERT's dropout is left out."""
    torch.manual_seed(0)
    network = zoo.build(model, loop.inputs(statistics)).eval()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


def rows(statistics, count=12):
    found = ready(statistics, count)
    return [torch.from_numpy(found[name]).long() for name in ("question", "passage")]


def test_a_text_is_the_normalised_mean_of_what_transformers_makes_of_its_tokens(statistics, base):
    from transformers import AutoTokenizer, BertModel

    tokenizer, model = AutoTokenizer.from_pretrained(base), BertModel.from_pretrained(base).eval()
    texts = tiny_pairs.asked(5)[0]
    found = judged.embedding(built(statistics), statistics)(texts)
    for text, vector in zip(texts, found, strict=True):
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state
        np.testing.assert_allclose(vector, normalize(hidden.mean(1))[0], atol=1e-6)


def test_the_loss_is_the_cross_entropy_of_similarities_over_the_temperature(statistics):
    network = built(
        statistics, FULL.model_copy(update={"contrastive": Contrastive(temperature=0.2)})
    )
    questions, passages = rows(statistics)
    with torch.no_grad():
        found = network(questions, passages)
        similar = network.vectors(questions) @ network.vectors(passages).T
    for row in range(len(questions)):
        wrong = [at for at in range(len(passages)) if not torch.equal(passages[at], passages[row])]
        logits = similar[row, [row, *wrong]][None] / 0.2
        torch.testing.assert_close(found[row, 0], cross_entropy(logits, torch.tensor([0])))
        assert bool(found[row, 1]) == bool((logits[0, 0] >= logits[0]).all())
    assert len(passages.unique(dim=0)) < len(passages)  # the same passage again is no wrong one


def test_a_given_wrong_passage_is_one_more_for_all(statistics):
    network = built(statistics)
    questions, passages = rows(statistics)
    with torch.no_grad():
        repeated = network(questions, passages, passages)[:, 0]
        similar = (network.vectors(questions) @ network.vectors(passages).T) / 0.05
    # A question's own passage among the wrong ones does not count, those of others count twice.
    same = (passages[:, None] == passages[None]).all(2)
    others = similar.masked_fill(same, -torch.inf)
    expected = torch.logsumexp(torch.cat([similar.diag()[:, None], others, others], 1), 1)
    torch.testing.assert_close(repeated, expected - similar.diag(), atol=1e-4, rtol=1e-4)


texts = st.lists(st.integers(0, 30_000), max_size=6)


@given(st.lists(texts, min_size=1, max_size=8), st.integers(0, 3))
def test_texts_have_the_same_mark_if_they_are_the_same(lists, padding):
    width = max(map(len, lists)) + padding
    padded = torch.full((len(lists), width), -1)
    for row, text in enumerate(lists):
        padded[row, : len(text)] = torch.tensor(text)
    found = contrastive.marks(padded).tolist()
    alone = [contrastive.marks(torch.tensor([text], dtype=torch.int64)).item() for text in lists]
    assert found == alone
    for first, mark in zip(lists, found, strict=True):
        for second, other in zip(lists, found, strict=True):
            assert (mark == other) == (first == second)


def test_lora_trains_little_and_merges_into_the_same_vectors(statistics):
    network = built(statistics, LORA)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora" in name for name in trained)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:  # zeros at the start
            torch.nn.init.normal_(parameter, std=0.1)
    questions, _ = rows(statistics)
    with torch.no_grad():
        before = network.vectors(questions)
        merged = zoo.plain(network)
        assert not any("lora" in name for name in merged.state_dict())
        torch.testing.assert_close(merged.vectors(questions), before)


def test_the_nearest_of_the_wrong_passages_is_taken(statistics):
    network, found = built(statistics), ready(statistics, 40)
    chosen, (own, wrong) = negatives.nearest_wrong(network, found)
    questions, passages = rows(statistics, 40)
    with torch.no_grad():
        similar = (network.vectors(questions) @ network.vectors(passages).T).numpy()
    np.testing.assert_allclose(own, similar.diagonal(), atol=1e-5)
    np.testing.assert_allclose(wrong, similar[np.arange(40), chosen], atol=1e-5)
    for row in range(40):
        allowed = [s for s in similar[row] if s < 0.95 * similar[row, row] - 1e-6]
        if allowed:
            assert wrong[row] == pytest.approx(max(allowed), abs=1e-5)
            assert not torch.equal(passages[chosen[row]], passages[row])
        else:
            assert wrong[row] == pytest.approx(similar[row].min(), abs=1e-5)


def test_rows_keep_their_places_when_wrong_passages_are_added(statistics, tmp_path):
    root = UPath(tmp_path)
    for side, counts in {"train": (10, 7), "validation": (5,)}.items():
        (root / "features" / side).mkdir(parents=True)
        for number, count in enumerate(counts):
            made = compiled_arrow(statistics)(table(count, number))
            pq.write_table(made, str(root / "features" / side / f"{number}.parquet"))
    (root / "features/statistics.json").write_text(statistics.model_dump_json())
    record = negatives.write(root / "features", FULL, out=root / "out")
    assert record["rows_in"] == record["rows_out"] == 22
    assert prepared.load(root / "out") == statistics
    before, after = (prepared.read_matrix(root / f / "train") for f in ("features", "out"))
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values)
    passages = {tuple(row[row >= 0]) for row in before["passage"]}
    assert {tuple(row[row >= 0]) for row in after["negative"]} <= passages
    assert "negative" not in prepared.read_matrix(root / "out/validation")


def test_a_question_is_answered_by_each_of_its_passages(statistics, tmp_path):
    sides = {
        "train": [("a", "one"), ("b", "two")],
        "test": [("c", "three"), ("d", "two"), ("c", "four")],
    }
    for side, found in sides.items():
        (tmp_path / side).mkdir()
        columns = dict(
            zip(("question", "answer"), map(list, zip(*found, strict=True)), strict=True)
        )
        pq.write_table(pa.table(columns), tmp_path / side / "0.parquet")
    sought = judged.searched(UPath(tmp_path), "test", statistics)
    assert sought.questions == ["c", "d"]
    assert sought.passages == ["one", "two", "three", "four"]
    assert sought.answers == [[2, 3], [1]]
    corners = {"c": 2, "d": 0, **{text: at for at, text in enumerate(sought.passages)}}
    figures = judged.by_question(
        sought, lambda texts: np.eye(4, dtype=np.float32)[[corners[t] for t in texts]]
    )
    np.testing.assert_allclose(figures[:, 0], [0.5, 0])  # recall at 1: one of two, none of one
    np.testing.assert_allclose(
        figures[:, 3], [1, 0.5]
    )  # reciprocal ranks; of equals the first first


def test_pairs_have_one_question_and_one_encoder(base, tmp_path):
    more = Schema(columns=(*SCHEMA.columns, Column(name="chapter", kind="category")))
    with pytest.raises(JobError, match="2 features"):
        prepared.check(features(base), more)
    with pytest.raises(JobError, match="two encoders"):
        prepared.check(features(base, str(tmp_path)), SCHEMA)
    prepared.check(features(base), SCHEMA)


def given_rows(statistics, count, seed):
    """Prepared rows, of pairs or of reviews with their classes."""
    if statistics.pairs is not None:
        return ready(statistics, count, seed)
    texts, labels = tiny_encoder.reviews(count, seed)
    return matrices(compiled_arrow(statistics)(pa.table({"review": texts, "good": labels})))


def learned(statistics, name, model, settings, place):
    """The losses of an epoch, and the weights after it."""
    sides = given_rows(statistics, 64, 0), given_rows(statistics, 31, 1)
    feed = MemoryFeed(*sides, settings.batch_size, place)
    network = built(statistics, model)
    engine = strategy.prepared(network, settings, name.split()[0], CPU, feed.share)
    loss = loop.train_epoch(engine, feed, settings, statistics, 0)
    return loss, engine.weights()


def by_every_strategy(statistics):
    place = Place(dist.get_rank(), dist.get_world_size(), CPU, TRAIN.seed)
    of_pairs, of_classes = map(Statistics.model_validate_json, statistics)
    return {
        name: learned(of_classes if "classes" in name else of_pairs, name, *case, place)
        for name, case in CASES.items()
    }


@pytest.fixture(scope="module")
def shared(statistics, classes, tmp_path_factory):
    """What two workers come to, by strategy."""
    both = [each.model_dump_json() for each in (statistics, classes)]
    return by_workers(2, tmp_path_factory.mktemp("workers"), by_every_strategy, both)


@pytest.mark.parametrize("case", CASES)
def test_workers_learn_what_one_worker_does(case, shared, statistics, classes):
    """Questions are held against the passages of all workers: a batch is the same batch."""
    model, _ = CASES[case]
    of_case = classes if "classes" in case else statistics
    loss, weights = learned(of_case, "ddp", model, TRAIN, Place(0, 1, CPU, TRAIN.seed))
    found, own = shared[case]
    assert found == pytest.approx(loss, abs=1e-4)
    assert own.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_allclose(own[name], value, atol=2e-3, err_msg=name)


def test_zero3_does_not_compute_the_blocks_of_two_texts_again(statistics):
    with pytest.raises(JobError, match="zero3"):
        strategy.prepared(built(statistics), BLOCKS, "zero3", CPU, 16)


def test_a_part_of_a_batch_has_its_own_wrong_passages(statistics):
    """`accumulate` makes the task easier: fewer passages to confuse a question with."""
    network = built(statistics)
    questions, passages = rows(statistics)
    with torch.no_grad():
        whole = network(questions, passages)[:, 0]
        halves = [
            network(q, p)[:, 0] for q, p in zip(questions.chunk(2), passages.chunk(2), strict=True)
        ]
    assert (torch.cat(halves) <= whole + 1e-6).all()
