"""The Open Inference Protocol over gRPC, by Triton's own client, through HAProxy to a replica."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc
import numpy as np
import pytest
import tritonclient.grpc
from sites import Site
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

from ray_pipeline import __version__
from ray_pipeline.deploy import grpc_calls, grpc_messages
from ray_pipeline.deploy.example import example_row
from ray_pipeline.deploy.inference import DATATYPES
from ray_pipeline.deploy.ports import free_ports
from ray_pipeline.errors import JobError

TO = {"application": "model"}
KINDS = {"BYTES": object, "INT64": np.int64, "FP64": np.float64, "BOOL": np.bool_}
LISTS = {
    "BYTES": "bytes_contents",
    "INT64": "int64_contents",
    "FP64": "fp64_contents",
    "BOOL": "bool_contents",
}


@pytest.fixture(scope="module")
def live(tmp_path_factory, classifier):
    """A cluster of its own: Serve listens for gRPC from its start, or never."""
    made = Site(tmp_path_factory.mktemp("grpc"))
    made.up()
    try:
        made.grpc = free_ports(1)[0]
        made.deploy(classifier.bundle, grpc=made.grpc, max_rows=10)
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def client(live):
    made = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{live.grpc}")
    yield made
    made.close()


@pytest.fixture(scope="module")
def rows(classifier):
    row = example_row(classifier.bundle)
    return [row, {**row, "age": 70, "ville": "東京"}]


def inputs_of(rows, schema):
    made = []
    for column in schema.features:
        datatype = DATATYPES[column.kind]
        values = np.array([row[column.name] for row in rows], KINDS[datatype])
        given = tritonclient.grpc.InferInput(column.name, [len(rows)], datatype)
        made.append(given.set_data_from_numpy(values))
    return made


def as_lists(rows, schema):
    """The same rows as a message whose elements stand in lists, which no client of Triton sends."""
    asked = messages.ModelInferRequest(model_name="model", id="7")
    for column in schema.features:
        datatype = DATATYPES[column.kind]
        tensor = asked.inputs.add(name=column.name, datatype=datatype, shape=[len(rows), 1])
        values = [row[column.name] for row in rows]
        said = [value.encode() for value in values] if datatype == "BYTES" else values
        getattr(tensor.contents, LISTS[datatype]).extend(said)
    return asked


def called(live, asked, **metadata):
    """What ModelInfer answers, without a client between."""
    told = {**TO, "x-api-key": live.key, **metadata}
    with grpc.insecure_channel(f"127.0.0.1:{live.grpc}") as channel:
        ask = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=messages.ModelInferRequest.SerializeToString,
            response_deserializer=messages.ModelInferResponse.FromString,
        )
        return ask(asked, metadata=tuple(told.items()), timeout=30)


def test_a_client_learns_what_there_is(client, classifier):
    manifest = classifier.bundle.manifest
    assert client.is_server_live(headers=TO)
    assert client.is_server_ready(headers=TO)
    assert client.is_model_ready("model", manifest.version, headers=TO)
    assert not client.is_model_ready("model", "other", headers=TO)
    assert not client.is_model_ready("nothing", headers=TO)
    assert client.get_server_metadata(headers=TO).version == __version__
    told = client.get_model_metadata("model", headers=TO)
    assert [one.name for one in told.inputs] == [c.name for c in manifest.schema.features]
    assert [one.name for one in told.outputs] == ["label", "probabilities"]
    with pytest.raises(InferenceServerException, match="no model nothing is here"):
        client.get_model_metadata("nothing", headers=TO)


def test_it_predicts_what_http_does(live, client, classifier, rows):
    answer = client.infer(
        "model",
        inputs_of(rows, classifier.bundle.manifest.schema),
        outputs=[tritonclient.grpc.InferRequestedOutput(n) for n in ("probabilities", "label")],
        request_id="7",
        headers={**TO, "x-api-key": live.key},
    )
    expected = [live.predict(row).json()["predictions"][0] for row in rows]
    assert answer.get_response().id == "7"
    np.testing.assert_allclose(
        answer.as_numpy("probabilities"),
        [list(one["probabilities"].values()) for one in expected],
        atol=1e-6,
    )
    labels = [label.decode() for label in answer.as_numpy("label")]
    assert labels == [one["label"] for one in expected]


def test_elements_may_stand_in_lists(live, client, classifier, rows):
    schema = classifier.bundle.manifest.schema
    raw = client.infer("model", inputs_of(rows, schema), headers={**TO, "x-api-key": live.key})
    listed = called(live, as_lists(rows, schema))
    assert listed.id == "7"
    assert listed.raw_output_contents == raw.get_response().raw_output_contents


def raw_beside_lists(asked):
    asked.raw_input_contents.append(b"")


def too_few_raw(asked):
    asked.inputs[0].ClearField("contents")
    del asked.inputs[1:]
    asked.inputs[0].name = "age"
    asked.raw_input_contents.extend([b"", b""])


def of_no_datatype(asked):
    asked.inputs[0].datatype = "FP16"


def of_another_version(asked):
    asked.model_version = "other"


def of_many_rows(asked):
    for tensor in asked.inputs:
        tensor.shape[0] = 11


@pytest.mark.parametrize(
    ("spoil", "code", "details"),
    [
        (raw_beside_lists, "INVALID_ARGUMENT", r"inputs\[0\]\.contents: .* or for none"),
        (too_few_raw, "INVALID_ARGUMENT", "raw_input_contents: expected one for each of the 1"),
        (of_no_datatype, "INVALID_ARGUMENT", r"inputs\[0\]\.datatype: expected one of BOOL"),
        (of_another_version, "NOT_FOUND", "model_name: no model model other is here; expected"),
        (of_many_rows, "INVALID_ARGUMENT", "expected at most 10 rows, found 11"),
    ],
)
def test_what_is_wrong_is_said(live, classifier, rows, spoil, code, details):
    asked = as_lists(rows, classifier.bundle.manifest.schema)
    spoil(asked)
    with pytest.raises(grpc.RpcError) as refused:
        called(live, asked)
    assert refused.value.code().name == code
    assert refused.match(details)


def test_who_has_no_key_is_refused(live, client, classifier, rows):
    inputs = inputs_of(rows, classifier.bundle.manifest.schema)
    with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
        client.infer("model", inputs, headers=TO)
    with pytest.raises(InferenceServerException, match="PERMISSION_DENIED"):
        client.infer("model", inputs, headers={**TO, "x-api-key": "rp_wrong"})
    with pytest.raises(InferenceServerException, match=r"Application metadata"):
        client.infer("model", inputs, headers={"x-api-key": live.key})


def test_messages_travel_between_processes():
    """As from Serve's own proxy to a replica."""
    servicer = service_pb2_grpc.GRPCInferenceServiceServicer()
    grpc_messages.registered(servicer, grpc.server(ThreadPoolExecutor(1)))
    asked = messages.ModelReadyRequest(name="model")
    assert pickle.loads(pickle.dumps(asked)) == asked


def test_a_port_that_serve_does_not_listen_on_is_refused(live, classifier):
    code, told = live.tried(classifier.bundle, grpc=live.grpc + 1, max_rows=11)
    assert code == 1
    assert told.startswith(f"ClusterError: this cluster's endpoints speak gRPC on port {live.grpc}")


def test_chatbots_are_not_asked_so(classifier):
    chat = replace(classifier.bundle.manifest, task="chat")
    with pytest.raises(JobError, match=r"serve\.grpc"):
        grpc_calls.check(replace(classifier.bundle, manifest=chat))
