"""Drift of texts and images: the vectors that a bundle keeps, and a look that compares them."""

from __future__ import annotations

import base64
import json

import http_servers
import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import wide_bundles
from torch import nn
from upath import UPath
from wide_bundles import FOOD, TOOLS

from ray_pipeline.data import feature_graph
from ray_pipeline.data.compiled import compiled_arrow
from ray_pipeline.deploy import graph, log_files, measure, vectors
from ray_pipeline.deploy.counters import Counters
from ray_pipeline.deploy.request_log import RequestLog
from ray_pipeline.job import Log, Serve
from ray_pipeline.job.watch import Drift
from ray_pipeline.model import quantize, train
from ray_pipeline.model.feed import matrices
from ray_pipeline.ui import pages
from ray_pipeline.watch import drift, judge, look, replay

WHOLE = Log(sample=1, texts="whole", images="pixels")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return wide_bundles.of_texts(UPath(tmp_path_factory.mktemp("texts")))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return wide_bundles.of_images(UPath(tmp_path_factory.mktemp("images")))


@pytest.fixture(params=["texts", "images"])
def made(request):
    return request.getfixturevalue(request.param)


def logged(made, folder, values, log=WHOLE):
    """The folder in which a replica has logged requests with these values of the one column."""
    predictions = http_servers.endpoint(made.bundle, Serve())._predictions
    manifest, counters = made.bundle.manifest, Counters()
    kept = RequestLog(folder, log, manifest, predictions.columns, counters)
    name = made.schema.names[0]
    for value in values:
        sent = base64.b64encode(value).decode() if isinstance(value, bytes) else value
        rows = predictions.protocol.checked([{name: sent}])
        made_of = [{"label": "a", "probability": 0.9}]
        assert kept.offered(rows, made_of, len(sent))
    kept.stop()
    assert counters.taken()["logged"] == len(values)
    return folder


def seen(made, folder, values, log=WHOLE, **settings):
    return look.looked(logged(made, folder, values, log), made.bundle, Drift(**settings), log)


def on_vectors(found):
    return [one for one in found.findings if one.column == drift.VECTORS]


def test_a_vector_is_what_the_last_layer_reads(made):
    network = train.load(made.root / "trained").eval()
    last = [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1]
    read = []
    last.register_forward_pre_hook(lambda _, given: read.append(given[0].detach().numpy()))
    table = pq.read_table(str(made.root / "split/validation/0.parquet"))
    ready = matrices(compiled_arrow(made.statistics)(table))
    with torch.inference_mode():
        network(**{name: torch.tensor(ready[name]) for name in made.statistics.inputs})
    kept = vectors.known(made.bundle)
    places = np.linspace(0, 599, vectors.ROWS).astype(int)
    wanted = vectors.projected(read[0])[places]
    assert kept.shape == wanted.shape == (vectors.ROWS, wanted.shape[1])
    np.testing.assert_allclose(kept, wanted, rtol=2e-3, atol=2e-3)
    assert np.ptp(kept, axis=0).max() > 0.1


@pytest.mark.parametrize("fewer", [quantize.dynamic_int8, quantize.int4, quantize.fp16])
def test_fewer_bits_leave_the_vectors_about_as_they_are(texts, fewer):
    features = feature_graph.onnx_graph(texts.statistics)
    network = train.load(texts.root / "trained").eval()
    plain = graph.network_graph(network, texts.statistics, graph.opset_of(features))
    small = measure.whole(fewer(plain), features, texts.statistics)
    columns = {"review": np.array(wide_bundles.reviews(np.random.default_rng(3), 200), object)}
    found = vectors.reading(small, ())(columns)
    wanted = vectors.reading_of(texts.bundle)(columns)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).mean() < 0.05 * np.ptp(wanted)


def test_a_table_has_columns_that_are_compared_and_no_vectors(classifier):
    assert vectors.known(classifier.bundle) is None
    assert vectors.reading_of(classifier.bundle) is not None, "though it had some"


def test_a_graph_without_a_layer_has_none():
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows"])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows"])
    graph = helper.make_graph([helper.make_node("Exp", ["x"], ["y"])], "exp", [value], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    assert onnxruntime.InferenceSession(model.SerializeToString())
    assert vectors.hidden(model.SerializeToString()) is None


def test_projected_vectors_are_about_as_far_apart():
    rng = np.random.default_rng(0)
    wide = rng.normal(0, 1, (40, 3000)).astype(np.float32)
    wide[20:] += 0.5
    narrow = vectors.projected(wide)
    assert narrow.shape == (40, vectors.WIDTH)
    ratios = [
        np.linalg.norm(narrow[a] - narrow[b]) / np.linalg.norm(wide[a] - wide[b])
        for a in range(20)
        for b in range(20, 40)
    ]
    assert 0.6 < min(ratios) < max(ratios) < 1.4
    assert vectors.projected(wide[:, :64]).tolist() == wide[:, :64].tolist()


def test_texts_about_something_else_are_drift_and_others_are_not(texts, tmp_path):
    rng = np.random.default_rng(5)
    same = seen(texts, UPath(tmp_path / "same"), wide_bundles.reviews(rng, 500))
    (one,) = on_vectors(same)
    assert not one.alarms(Drift())
    assert {f.column for f in same.findings} == {"review", drift.PREDICTIONS, drift.VECTORS}
    other = seen(texts, UPath(tmp_path / "other"), wide_bundles.reviews(rng, 500, TOOLS))
    (one,) = on_vectors(other)
    assert one.alarms(Drift())
    assert one in other.alarms
    kept = other.record()
    assert Drift().max_mmd in [alarm["bound"] for alarm in kept["alarms"]]
    (shown,) = [c for c in pages._columns({"look": kept}) if c["name"] == drift.VECTORS]
    assert (shown["alarm"], shown["chart"]) == (True, None)


def test_inverted_images_are_drift_and_others_are_not(images, tmp_path):
    rng = np.random.default_rng(6)
    same = seen(images, UPath(tmp_path / "same"), wide_bundles.photos(rng, 500))
    assert [one.alarms(Drift()) for one in on_vectors(same)] == [False]
    other = seen(images, UPath(tmp_path / "other"), wide_bundles.photos(rng, 500, inverted=True))
    assert [one.alarms(Drift()) for one in on_vectors(other)] == [True]


@pytest.mark.parametrize("how", ["length", "mask"])
def test_texts_that_are_not_kept_whole_are_not_compared(texts, tmp_path, how):
    log = Log(sample=1, texts=how)
    values = wide_bundles.reviews(np.random.default_rng(7), 500, TOOLS)
    assert on_vectors(seen(texts, UPath(tmp_path), values, log)) == []


def test_of_images_nothing_is_kept_unless_asked_for(images, tmp_path):
    values = wide_bundles.photos(np.random.default_rng(8), 60)
    for name, log in (
        ("none", Log(sample=1)),
        ("masked", WHOLE.model_copy(update={"mask": ("photo",)})),
    ):
        folder = logged(images, UPath(tmp_path / name), values, log)
        table = log_files.newest(folder / log_files.REQUESTS, 100)
        assert replay.inputs(table).column_names == []
        assert replay.columns(table, images.bundle.manifest, log.mask) is None


def test_pixels_count_for_what_may_wait(images, tmp_path, monkeypatch):
    from ray_pipeline.deploy import request_log

    monkeypatch.setattr(request_log, "MOST_BYTES", 10 * 8 * 6)
    predictions = http_servers.endpoint(images.bundle, Serve())._predictions
    counters = Counters()
    log = RequestLog(UPath(tmp_path), WHOLE, images.bundle.manifest, predictions.columns, counters)
    photo = base64.b64encode(wide_bundles.photos(np.random.default_rng(0), 1)[0]).decode()
    rows = predictions.protocol.checked([{"photo": photo}])
    kept = [log.offered(rows, [{"label": "a", "probability": 0.9}], 1) for _ in range(12)]
    assert sum(number is not None for number in kept) == 9
    assert counters.taken()["log_left_out"] == 3


def test_what_was_logged_is_read_as_the_model_read_it(made, tmp_path):
    """By the model of before too, which is judged on it."""
    name = made.schema.names[0]
    rng = np.random.default_rng(9)
    values = wide_bundles.reviews(rng, 60) if name == "review" else wide_bundles.photos(rng, 60)
    folder = logged(made, UPath(tmp_path), values)
    table = log_files.newest(folder / log_files.REQUESTS, 100)
    predictions = http_servers.endpoint(made.bundle, Serve())._predictions
    sent = [base64.b64encode(v).decode() if isinstance(v, bytes) else v for v in values]
    asked = predictions.columns(predictions.protocol.checked([{name: one} for one in sent]))
    found = replay.columns(table, made.bundle.manifest, ())
    assert found.keys() == asked.keys()
    assert (found[name] == asked[name]).all()
    classes = made.bundle.manifest.classes
    outputs = predictions._predictor.of_clean(asked)
    assert judge._predicted(made.bundle, found) == [classes[best] for best in outputs.argmax(1)]


def test_a_log_that_was_kept_otherwise_before_is_no_obstacle(texts, tmp_path):
    rng = np.random.default_rng(10)
    logged(texts, UPath(tmp_path), wide_bundles.reviews(rng, 300), Log(sample=1))
    logged(texts, UPath(tmp_path), wide_bundles.reviews(rng, 120))
    found = log_files.newest(UPath(tmp_path) / log_files.REQUESTS, 1000)
    assert len(found) == 120
    assert replay.inputs(found)["review"].type == pa.string()


def test_the_sample_is_small(made):
    files = made.bundle.path
    assert (files / vectors.FILE).stat().st_size < 90_000
    kept = json.loads((files / vectors.FILE).read_text())
    assert kept.keys() == {"width", "float16"}
    assert FOOD[0] not in (files / vectors.FILE).read_text()
