"""Every form in fewer bits of an encoder and of a CNN: it loads, and says about the same."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_encoder
import torch
from torch.nn.utils import parametrize

from ray_pipeline.data import feature_graph
from ray_pipeline.data.encoders import tokens
from ray_pipeline.data.statistics import ImageStatistics, LabelStatistics, Statistics
from ray_pipeline.deploy import forms, graph, measure
from ray_pipeline.job import Compress, Distill, Model, Prune, Train
from ray_pipeline.job.features import ColumnFeatures
from ray_pipeline.model import compress, distill, loop, prune, strategy, zoo
from ray_pipeline.model.feed import Rows
from ray_pipeline.model.losses import part_loss

NAMES = ("int8", "int8_static", "int4", "fp16")
EVERY = Compress(**dict.fromkeys(NAMES, "auto"))
ROWS = 64
MODELS = {
    "encoder": Model(name="encoder", dropout=0.0),
    "cnn": Model(name="cnn", width=32, depth=2, dropout=0.0),
}
STUDENTS = {"encoder": {"layers": 1}, "cnn": {"width": 16}}


@pytest.fixture(scope="module")
def statistics(tmp_path_factory):
    """By kind of model, what its rows are like."""
    label = LabelStatistics(name="good", classes=("no", "yes"), counts=(30, 34))
    base = tiny_encoder.saved(tmp_path_factory.mktemp("base"))
    read = tokens.fitted("review", ColumnFeatures(text="tokens", encoder=base, longest=16))
    image = ImageStatistics(
        **{"name": "photo", "missing": 0, "height": 12, "width": 12, "channels": 1},
        mean=(120.0,),
        deviation=(70.0,),
    )
    known = Statistics(rows=ROWS, numbers=(), categories=(), label=label)
    return {
        "encoder": known.model_copy(update={"tokens": read}),
        "cnn": known.model_copy(update={"image": image}),
    }


def rows(kind, seed=0):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 2, (ROWS,), generator=generator)
    if kind == "cnn":
        image = torch.randint(0, 256, (ROWS, 12, 12, 1), generator=generator, dtype=torch.uint8)
        return Rows({"image": image // (1 + label[:, None, None, None].byte())}, label)
    words = torch.randint(4, 14, (ROWS, 10), generator=generator)
    return Rows({"tokens": torch.where(label[:, None] > 0, words, words // 2 + 2)}, label)


def built(statistics, kind, **changed):
    torch.manual_seed(0)
    return zoo.build(MODELS[kind].model_copy(update=changed), loop.inputs(statistics[kind]))


def trained(network, statistics, kind, taught=None, steps=3):
    engine = strategy.prepared(network, Train(learning_rate=0.01), "ddp", torch.device("cpu"), ROWS)
    batch = rows(kind)
    for _ in range(steps):
        engine.step([batch], part_loss(batch, statistics[kind], taught))
    return network.eval()


@pytest.fixture(scope="module", params=list(MODELS))
def made(request, statistics):
    """A network that was pruned 2:4 and trained on, the truth, and its forms."""
    kind = request.param
    network, known = trained(built(statistics, kind), statistics, kind), statistics[kind]
    for layer, mask in prune.masks(network, Prune(pattern="2:4")):
        parametrize.register_parametrization(layer, "weight", prune.Masked(mask))
    trained(network, statistics, kind)
    zeros = prune.settled(network)
    reading = feature_graph.onnx_graph(known)
    plain = graph.network_graph(network, known, graph.opset_of(reading))
    given = {name: part.numpy() for name, part in rows(kind).inputs.items()}
    calibration = [{name: part[:32] for name, part in given.items()}]
    found = forms.made(
        plain, EVERY, lambda: iter(calibration), lambda form: measure.whole(form, reading, known)
    )
    none = forms.made(
        plain,
        Compress(int8="never", int8_static="auto"),
        lambda: iter(()),
        lambda form: measure.whole(form, reading, known),
    )
    truth = graph.torch_outputs(network, known)(given)
    columns = {column: given[name] for name, column in known.raw.items()}
    return kind, network, zeros, found, none, truth, columns


@pytest.mark.parametrize("name", ["fp32", *NAMES])
def test_each_form_says_about_the_same(made, name):
    kind, _, _, found, _, truth, columns = made
    assert found.failed == {}
    outputs = found.predict[name](columns)
    assert outputs.dtype == np.float32
    assert outputs.shape == truth.shape == (ROWS, 2)
    tolerance = {"fp32": 1e-5, "fp16": 0.01}.get(name, 0.15)
    assert np.abs(outputs - truth).max() < tolerance
    changed = np.abs(outputs - truth).max() > 1e-6
    # The tiny convolutions leave nothing for 4 bits but the head.
    assert changed == (name != "fp32")
    smaller = len(found.content[name]) < len(found.content["fp32"])
    # Of tiny networks the scales weigh more than the weights, and 4 bits are of products alone.
    assert smaller or name in ("fp32", "int8", "int8_static") or (kind, name) == ("cnn", "int4")


def test_zeros_of_two_in_four_stay(made):
    _, network, zeros, _, _, _, _ = made
    layers = [m for m in network.modules() if isinstance(m, prune.LAYERS)]
    fours = [layer.weight for layer in layers if layer.weight.shape[1] % 4 == 0]
    assert len(fours) > 2
    for weight in fours:
        by_input = weight.movedim(1, -1).reshape(-1, 4)
        assert ((by_input == 0).sum(1) >= 2).all()
    assert 0.2 < zeros < 0.51


def test_a_form_that_cannot_be_had_is_a_row_with_its_reason(made):
    """No batch to calibrate on: the quantizer refuses, and what there is goes on."""
    _, _, _, _, none, truth, columns = made
    assert list(none.content) == list(none.predict) == ["fp32"]
    assert set(none.failed) == {"int8_static"}
    np.testing.assert_allclose(none.predict["fp32"](columns), truth, atol=1e-5)
    latency = compress.Latency(1.0, 2.0, 32)
    labels = truth.argmax(1)
    plain = compress.candidate("fp32", none.content["fp32"], latency, truth, labels)
    table = compress.chosen([plain], 0.01, failed=none.failed)
    assert [row["name"] for row in table] == ["fp32", "int8_static"]
    assert table[0]["chosen"]
    assert not table[1]["chosen"]
    assert table[1]["score"] is table[1]["bytes"] is None
    assert table[1]["why"].startswith("cannot be had: ")
    finding = compress.finding("Its forms", "", table)
    assert len(finding["tables"][0]["rows"]) == 2
    assert [len(plot["dots"]) for plot in finding["plots"]] == [1, 1]


@pytest.mark.parametrize("kind", MODELS)
def test_a_student_learns_from_its_teacher(statistics, kind):
    teacher = trained(built(statistics, kind), statistics, kind, steps=6)
    student = built(statistics, kind, **STUDENTS[kind])
    copied = distill.inherit(student, teacher.state_dict())
    assert copied
    settings, batch = Distill(model=STUDENTS[kind]), rows(kind)

    def apart():
        with torch.no_grad():
            said = (network.eval()(**batch.inputs) for network in (student, teacher))
            return float(distill.soft_loss(*said, settings.temperature).mean())

    def taught(part, logits, loss):
        with torch.no_grad():
            said = teacher(**part.inputs)
        return distill.soft_loss(logits, said, settings.temperature).mean() + 0 * loss

    before = apart()
    trained(student, statistics, kind, taught, steps=8)
    assert apart() < before
    count = [sum(p.numel() for p in network.parameters()) for network in (student, teacher)]
    assert count[0] < count[1]
