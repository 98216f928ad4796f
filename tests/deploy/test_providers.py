"""Execution providers: what they are asked with, which of them may serve, and in what order."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pydantic
import pytest
from onnx import numpy_helper
from small_bundles import Exported, raw_rows
from upath import UPath

from ray_pipeline import bundle
from ray_pipeline.data import feature_graph
from ray_pipeline.data import features as prepared
from ray_pipeline.data.statistics import (
    ImageStatistics,
    LabelStatistics,
    Statistics,
    TokenStatistics,
)
from ray_pipeline.deploy import (
    accelerated,
    calibrate,
    engines,
    graph,
    halves,
    measure,
    parity,
    probe,
    providers,
    runtime,
)
from ray_pipeline.errors import ClusterError, GateRefused
from ray_pipeline.job import Providers, Serve
from ray_pipeline.model import train

DOCUMENTED = {
    *("trt_fp16_enable", "trt_int8_enable", "trt_int8_calibration_table_name"),
    *("trt_int8_use_native_calibration_table", "trt_layer_norm_fp32_fallback"),
    *("trt_engine_cache_enable", "trt_engine_cache_path", "trt_timing_cache_enable"),
    *("trt_timing_cache_path", "trt_dump_ep_context_model", "trt_ep_context_file_path"),
    *("trt_ep_context_embed_mode", "trt_profile_min_shapes", "trt_profile_opt_shapes"),
    "trt_profile_max_shapes",
}
"""Those in use, as they stand in libonnxruntime_providers_tensorrt.so of onnxruntime-gpu 1.31.1 and
in https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html: the provider
refuses a name that it does not know."""

PROFILE = providers.Profile(
    {"numbers": (1, 14), "categories": (1, 9)},
    {"numbers": (8, 14), "categories": (8, 9)},
    {"numbers": (1000, 14), "categories": (1000, 9)},
)
CPU = Providers(order=("cpu",))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_is_asked_by_its_documented_options(precision, tmp_path):
    found = providers.tensorrt_options(PROFILE, precision, tmp_path, tmp_path / "x.onnx")
    assert found.keys() <= DOCUMENTED
    assert found["trt_fp16_enable"] == (precision != "fp32")
    assert found.get("trt_int8_enable", False) == (precision == "int8")
    if precision == "int8":
        assert found.keys() == DOCUMENTED
        table = found["trt_int8_calibration_table_name"]
        assert Path(found["trt_engine_cache_path"], table).parent == tmp_path
    assert found["trt_ep_context_file_path"] == str(tmp_path / "x.onnx")
    assert found["trt_profile_min_shapes"] == "numbers:1x14,categories:1x9"
    assert found["trt_profile_opt_shapes"] == "numbers:8x14,categories:8x9"
    assert found["trt_profile_max_shapes"] == "numbers:1000x14,categories:1000x9"


def statistics(**parts) -> Statistics:
    label = LabelStatistics(name="y", classes=("a", "b"), counts=(1, 1))
    return Statistics(rows=9, numbers=(), categories=(), label=label, **parts)


def test_shapes_follow_the_batches_of_the_endpoint(classifier):
    found = engines.profile(classifier.statistics, usual=8, most=1000)
    width = classifier.statistics.number_width
    assert found.least == {"numbers": (1, width), "categories": (1, 2)}
    assert (found.usual["numbers"][0], found.most["numbers"][0], found.rows) == (8, 1000, 1000)
    assert engines.profile(classifier.statistics, usual=8, most=4).usual["numbers"] == (4, width)


def test_long_texts_and_large_images_go_few_at_a_time():
    tokens = TokenStatistics(name="t", base="b", tokenizer="{}", longest=128)
    found = engines.profile(statistics(tokens=tokens), usual=8, most=1000)
    shapes = {"least": (1, 2), "usual": (8, 64), "most": (32, 128)}
    assert {name: getattr(found, name)["tokens"] for name in shapes} == shapes
    image = ImageStatistics(
        name="i", missing=0, height=224, width=224, channels=3, mean=(0,) * 3, deviation=(1,) * 3
    )
    found = engines.profile(statistics(image=image), usual=8, most=1000)
    assert (found.least, found.usual) == ({"image": (1, 224, 224, 3)}, {"image": (8, 224, 224, 3)})
    assert found.rows * 224 * 224 <= providers.PIXELS < (found.rows + 1) * 224 * 224


def test_the_order_is_the_jobs():
    assert Serve().gpus == 0
    assert Providers().tried == ("tensorrt", "cuda", "cpu")
    assert Providers(order=("cuda", "cpu")).tried == ("cuda", "cpu")
    for order in [(), ("cpu", "cpu"), ("openvino",)]:
        with pytest.raises(pydantic.ValidationError):
            Providers(order=order)


@pytest.fixture(scope="module")
def model(classifier):
    """The classifier's network and feature graph, apart."""
    statistics = prepared.load(classifier.root / "features")
    reading = feature_graph.onnx_graph(statistics)
    network = train.load(classifier.root / "trained")
    plain = graph.network_graph(network, statistics, graph.opset_of(reading))
    return graph.apart(reading, plain, statistics.raw)


@pytest.fixture(scope="module")
def validated(classifier):
    made: Exported = classifier
    network = train.load(made.root / "trained")
    return measure.first(made.root / "split/validation", made.schema, network, made.statistics)


def run_of(model, most=7):
    assert model.reading
    opened = (providers.session(model.reading), providers.session(model.network))
    return halves.predicting(*opened, model.raw, most)


def test_two_graphs_predict_what_the_trained_network_does(model, validated):
    columns, truth = validated
    assert len(truth) == 256
    for most in (1000, 100):
        np.testing.assert_allclose(run_of(model, most)(columns), truth, atol=1e-5)
    assert {value.name for value in onnx.load_from_string(model.network).graph.input} == {
        "numbers",
        "categories",
    }


def test_an_input_of_no_columns_is_made_inside(classifier):
    """The network is then given one table, and the profile names no other."""
    without = classifier.statistics.model_copy(update={"categories": ()})
    assert engines.profile(without, 8, 9).least.keys() == {"numbers"}


def lossy(model, deviation=0.5):
    """The network with noise in its weights."""
    network = onnx.load_from_string(model.network)
    rng = np.random.default_rng(0)
    for tensor in network.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim == 2:
            noisy = values + rng.normal(0, deviation, values.shape).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(noisy, tensor.name))
    return dataclasses.replace(model, network=network.SerializeToString())


def test_a_provider_that_loses_too_much_is_refused_with_the_numbers(model, validated):
    columns, truth = validated
    right = parity.judged("cpu", run_of(model)(columns), truth, 1.0, CPU)
    assert right.passed
    assert (right.why, right.rows, right.label_agreement) == ("", 256, 1.0)
    wrong = parity.judged("cpu", run_of(lossy(model))(columns), truth, 1.0, CPU)
    assert not wrong.passed
    assert wrong.max_difference > 0.01
    assert f"differs by {wrong.max_difference:.3g}, and may by 0.01" in wrong.why
    assert "of labels agree, and 99.00% must" in wrong.why
    assert parity.judged(
        "cpu",
        run_of(lossy(model))(columns),
        truth,
        1.0,
        Providers(max_difference=1.1, min_agreement=0),
    ).passed


def test_outputs_that_are_no_numbers_never_pass():
    truth = np.array([1.0, 2.0])
    generous = Providers(max_difference=1e9)
    assert parity.judged("cuda", np.array([1.0, 3.0]), truth, 1.0, generous).passed
    assert not parity.judged("cuda", np.array([1.0, np.nan]), truth, 1.0, generous).passed
    assert not parity.judged("cuda", np.array([1.0]), truth, 1.0, generous).passed


def test_values_are_measured_in_deviations_of_the_label():
    truth, found = np.array([100.0, 200.0]), np.array([101.0, 200.0])
    assert parity.parity(found, truth, 50.0)["max_difference"] == pytest.approx(0.02)


def test_the_table_of_ranges_is_what_the_network_computes(model, classifier, tmp_path):
    from onnxruntime.quantization.CalTableFlatBuffers.TrtTable import TrtTable

    batches = list(measure.calibration(classifier.root / "features"))
    table = TrtTable.GetRootAsTrtTable(calibrate.table(model.network, batches), 0)
    found = {
        table.Dict(index).Key().decode(): float(table.Dict(index).Value())
        for index in range(table.DictLength())
    }
    largest = max(np.abs(batch["numbers"]).max() for batch in batches)
    assert found["numbers"] == pytest.approx(float(largest))
    names = {
        name for node in onnx.load_from_string(model.network).graph.node for name in node.input
    }
    assert len(names & found.keys()) > 3


def work(model, classifier, validated, settings):
    columns, truth = validated
    shapes = engines.profile(classifier.statistics, 8, 100)
    return engines.Work(model, (), columns, truth, 1.0, settings, shapes, None)


def test_providers_that_are_not_here_are_passed_over_and_told(
    model, classifier, validated, tmp_path
):
    asked = work(model, classifier, validated, Providers())
    made = engines.built(asked)
    assert [(one.provider, one.passed) for one in made.tried] == [
        ("tensorrt", False),
        ("cuda", False),
    ]
    assert all("built without it" in one.why for one in made.tried)
    record = engines._written(classifier.bundle, asked, made, UPath(tmp_path / "engines-v2"))
    assert record["provider"] == "cpu"
    assert record["findings"][0]["tables"][0]["rows"][0][:2] == ["tensorrt", False]
    written = bundle.opened(tmp_path / "engines-v2/bundle")
    assert written.manifest.files.keys() == classifier.bundle.manifest.files.keys()
    assert [one["provider"] for one in written.manifest.accelerated["providers"]] == [
        "tensorrt",
        "cuda",
    ]


def test_a_job_that_forbids_the_cpu_is_refused(model, classifier, validated, tmp_path):
    asked = work(model, classifier, validated, Providers(order=("cuda",)))
    with pytest.raises(GateRefused, match="cuda: the provider cuda is not here"):
        engines._written(classifier.bundle, asked, engines.built(asked), UPath(tmp_path))
    with pytest.raises(ClusterError, match="no provider can serve this bundle here: cuda"):
        runtime.Predictor(classifier.bundle, providers=Providers(order=("cuda",)))


@pytest.fixture
def for_gpus(model, classifier, validated, tmp_path):
    """A bundle as it is written where CUDA passes."""
    asked = work(model, classifier, validated, Providers())
    passed = parity.Tried("cuda", True, "")
    made = engines.Built((parity.Tried("tensorrt", False, "not here"), passed), None, "a GPU")
    engines._written(classifier.bundle, asked, made, UPath(tmp_path / "engines-v2"))
    return bundle.opened(tmp_path / "engines-v2/bundle")


@pytest.fixture
def cuda_on_the_cpu(monkeypatch):
    """What is asked of CUDA is done by the CPU, whose kernels compute the same function."""
    monkeypatch.setitem(providers.NAMES, "cuda", "CPUExecutionProvider")
    monkeypatch.setitem(providers.BEHIND, "cuda", ())


def test_the_first_that_agrees_with_the_probe_serves(for_gpus, validated, cuda_on_the_cpu):
    predictor = runtime.Predictor(for_gpus, providers=Providers())
    assert predictor.by.provider == "cuda"
    assert [(one.provider, one.why) for one in predictor.by.refused] == [
        ("tensorrt", "the bundle has no gpu/network.tensorrt.onnx")
    ]
    columns, truth = validated
    np.testing.assert_allclose(predictor.predict(columns), truth, atol=1e-5)


def test_one_that_computes_otherwise_here_does_not_serve(for_gpus, model, cuda_on_the_cpu):
    files = {name: (for_gpus.path / name).read_bytes() for name in for_gpus.manifest.files}
    files[accelerated.NETWORK] = lossy(model).network
    bundle.write(UPath(for_gpus.path), for_gpus.manifest, files)
    predictor = runtime.Predictor(bundle.opened(for_gpus.path), providers=Providers())
    assert predictor.by.provider == "cpu"
    assert "differs by" in predictor.by.refused[1].why
    assert predictor.by.refused[1].rows == probe.COUNT


def test_an_engine_is_checked_as_every_file_of_a_bundle_is(for_gpus):
    path = for_gpus.path / accelerated.NETWORK
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(bundle.BundleError, match="truncated or altered"):
        bundle.opened(for_gpus.path)


@pytest.mark.parametrize("fixture", ["classifier", "regressor"])
def test_the_probe_is_what_the_trained_network_says(fixture, request):
    made: Exported = request.getfixturevalue(fixture)
    found = probe.of(made.bundle)
    assert len(found.outputs) == probe.COUNT
    rows = json.loads((made.bundle.path / probe.FILE).read_text())["rows"]
    ages = [row["age"] for row in rows if row["age"] is not None]
    assert len(set(ages)) > probe.COUNT // 2
    assert {row["ville"] for row in rows} == {*made.statistics.categories[0].values, None}
    told = parity.judged(
        "cpu",
        runtime.Predictor(made.bundle).of_clean(found.columns),
        found.outputs,
        found.deviation,
        Providers(max_difference=0.1, min_agreement=0.8),
    )
    assert told.passed, told


def test_the_stage_writes_a_bundle_that_says_what_was_tried(
    classifier, tmp_path, ray_cluster, monkeypatch
):
    """The task is placed on a node without a GPU: it looks, and tells what it found."""
    assert engines.gpus() == []
    monkeypatch.setattr(engines, "GPUS", 0)
    (tmp_path / "engines-v2").mkdir()
    record = engines.write(
        classifier.root / "export-v1",
        classifier.root / "trained",
        classifier.root / "features",
        classifier.root / "split",
        classifier.schema,
        Providers(precision="int8"),
        8,
        100,
        out=UPath(tmp_path / "engines-v2"),
    )
    assert (record["rows_in"], record["rows"], record["provider"]) == (256, 100, "cpu")
    told = bundle.opened(tmp_path / "engines-v2/bundle").manifest
    assert told.version == "v2"
    assert onnxruntime.__version__ in told.accelerated["providers"][0]["why"]


def test_raw_rows_have_the_gaps_that_the_probe_has(classifier):
    rows = probe.rows_of(classifier.statistics, classifier.schema)
    assert any(None in row.values() for row in rows)
    assert rows[0].keys() == raw_rows(1).keys()
