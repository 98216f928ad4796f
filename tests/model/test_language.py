from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import tiny_language
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM
from worker_group import by_workers

from ray_pipeline.data.compiled import compiled_arrow
from ray_pipeline.data.encoders import chat
from ray_pipeline.data.matrices import PADDING, matrices
from ray_pipeline.data.statistics import Statistics
from ray_pipeline.job import Features, Model, Train
from ray_pipeline.job.features import ColumnFeatures
from ray_pipeline.job.model import Lora
from ray_pipeline.model import batches, language_metrics, loop, strategy, zoo
from ray_pipeline.model.feed import MemoryFeed, Place
from ray_pipeline.model.language_judgement import token_sums
from ray_pipeline.schema import Column, Schema

CPU = torch.device("cpu")
SCHEMA = Schema(
    columns=(
        Column(name="question", kind="text"),
        Column(name="answer", kind="text", role="label"),
    )
)
FULL = Model(name="language")
LORA = Model(name="language", lora=Lora(rank=4))
TRAIN = Train(batch_size=16, learning_rate=1e-2, epochs=1, weight_decay=0.01)
SHARED = {"ddp": LORA, "zero1": FULL, "zero2": LORA, "zero3": LORA}
"""What two workers train, by strategy."""


def rows(count, seed=0):
    questions, answers = tiny_language.asked(count, seed)
    answers[::5] = [f"{answer} {answer}" for answer in answers[::5]]  # of unlike lengths
    return pa.table({"question": questions, "answer": answers})


@pytest.fixture(scope="module")
def statistics(tmp_path_factory):
    base = tiny_language.saved(tmp_path_factory.mktemp("base"))
    settings = ColumnFeatures(text="tokens", encoder=base, longest=64)
    column = chat.fitted(Features(columns={"question": settings}), SCHEMA)
    label = chat.label_of("answer", chat.lengths(column, "answer", rows(64)))
    return Statistics(rows=64, numbers=(), categories=(), chat=column, label=label)


def prepared(statistics, count, seed=0):
    return matrices(compiled_arrow(statistics)(rows(count, seed)))


def built(statistics, model=FULL):
    torch.manual_seed(0)
    return zoo.build(model, loop.inputs(statistics)).eval()


def test_losses_and_hits_are_those_of_all_logits(statistics):
    ready = prepared(statistics, 20)
    inputs = batches.tensors(ready)
    stock = AutoModelForCausalLM.from_pretrained(statistics.chat.base).eval()
    with torch.no_grad():
        seen = inputs["tokens"] != PADDING
        logits = stock(inputs["tokens"].clamp(min=0), attention_mask=seen.long()).logits
    expected = language_metrics.token_sums(logits[:, :-1], inputs["targets"][:, 1:])
    np.testing.assert_allclose(token_sums(built(statistics), ready), expected, rtol=1e-5)


def test_the_loss_is_that_of_transformers_over_the_answers(statistics):
    ready = prepared(statistics, 4)
    network, inputs = built(statistics), batches.tensors(ready)
    labels = inputs["targets"].masked_fill(inputs["targets"] == PADDING, -100)
    seen = inputs["tokens"] != PADDING
    with torch.no_grad():
        whole = network.backbone(
            input_ids=inputs["tokens"].clamp(min=0), attention_mask=seen.long(), labels=labels
        )
    sums = token_sums(network, ready)
    assert sums[:, 0].sum() / sums[:, 2].sum() == pytest.approx(float(whole.loss), rel=1e-5)


def test_questions_alone_are_no_loss(statistics):
    network = built(statistics)
    tokens = torch.tensor([[5, 6, 7, PADDING]])
    found = network(tokens, torch.full_like(tokens, PADDING))
    assert found.tolist() == [[0.0, 0.0]]
    found.sum().backward()  # a worker whose rows have no answer takes part in the step


def test_lora_trains_little_and_merges_into_the_same_network(statistics):
    network = built(statistics, LORA)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora" in name for name in trained)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:  # zeros at the start
            torch.nn.init.normal_(parameter, std=0.1)
    ready = prepared(statistics, 8)
    before = token_sums(network, ready)
    merged = zoo.plain(network)
    assert not any("lora" in name for name in merged.state_dict())
    np.testing.assert_allclose(token_sums(merged, ready), before, rtol=1e-4)
    assert not np.allclose(token_sums(built(statistics), ready), before, rtol=1e-2)


def learned(statistics, name, model, place, settings=TRAIN):
    """The losses of an epoch, and the weights after it."""
    sides = prepared(statistics, 64), prepared(statistics, 31, 1)
    feed = MemoryFeed(*sides, settings.batch_size, place)
    network = built(statistics, model)
    engine = strategy.prepared(network, settings, name, CPU, feed.share)
    loss = loop.train_epoch(engine, feed, settings, statistics, 0)
    found = loop.validate(engine.model, feed, statistics, network)
    losses = [loss, found["validation_loss"], found["score"]]
    return losses, engine.weights()


def by_every_strategy(statistics):
    place = Place(dist.get_rank(), dist.get_world_size(), CPU, TRAIN.seed)
    statistics = Statistics.model_validate_json(statistics)
    return {name: learned(statistics, name, model, place) for name, model in SHARED.items()}


@pytest.fixture(scope="module")
def shared(statistics, tmp_path_factory):
    """What two workers come to, by strategy."""
    folder = tmp_path_factory.mktemp("workers")
    return by_workers(2, folder, by_every_strategy, statistics.model_dump_json())


@pytest.fixture(scope="module")
def alone(statistics):
    """What one worker comes to without and with LoRA, and with it in parts of a batch."""
    place, parts = Place(0, 1, CPU, TRAIN.seed), TRAIN.model_copy(update={"accumulate": 4})
    return {
        "full": learned(statistics, "ddp", FULL, place),
        "lora": learned(statistics, "ddp", LORA, place),
        "parts": learned(statistics, "ddp", LORA, place, parts),
    }


@pytest.mark.parametrize("case", [*SHARED, "parts"])
def test_workers_and_parts_learn_what_one_worker_does(alone, request, case):
    """Each token counts alike, however the rows are shared."""
    expected, weights = alone["full" if SHARED.get(case) == FULL else "lora"]
    found, own = alone[case] if case == "parts" else request.getfixturevalue("shared")[case]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert own.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_allclose(own[name], value, atol=2e-3, err_msg=name)
