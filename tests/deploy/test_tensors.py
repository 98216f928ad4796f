"""The binary tensor extension, against Triton's own client and against bytes that lie."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import struct

import http_servers
import numpy as np
import pytest
import tritonclient.http
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor

from ray_pipeline.deploy import inference, tensors
from ray_pipeline.deploy.example import example_row
from ray_pipeline.errors import RequestError
from ray_pipeline.job import Serve

DTYPES = (np.int8, np.int64, np.uint16, np.uint64, np.float16, np.float32, np.float64, np.bool_)


def read(array, image=False):
    """What we read of an array that the client has written."""
    given = tritonclient.http.InferInput("x", array.shape, np_to_triton_dtype(array.dtype))
    given.set_data_from_numpy(array)
    described = json.loads(json.dumps(given._get_tensor()))
    return tensors.values(
        described, memoryview(given._get_binary_data() or b""), "inputs[0]", 99, image
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_are_read_as_the_client_wrote_them(dtype):
    array = np.arange(-2, 3).astype(dtype)
    for shaped in (array, array[:, None]):
        found, rest = read(shaped)
        assert found == array.tolist()
        assert not len(rest)


@given(st.lists(st.text(max_size=5), max_size=9))
def test_texts_are_read_and_written_as_the_client_does(texts):
    array = np.array([text.encode() for text in texts], object)
    assert read(array)[0] == texts
    assert tensors.encoded("BYTES", texts) == (
        serialize_byte_tensor(array).item() if texts else b""
    )


def test_no_value_and_images():
    assert read(np.array([1.5, np.nan]))[0] == [1.5, None]
    assert read(np.array([b"\x89PNG"], object), image=True)[0] == ["iVBORw=="]


def refused(tensor, after=b""):
    with pytest.raises(RequestError) as caught:
        tensors.values(tensor, memoryview(after), "inputs[0]", 5, False)
    return caught.value.status


@pytest.mark.parametrize(
    ("change", "after", "status"),
    [
        ({"shape": [6]}, b"", 413),
        ({"shape": [10**12]}, b"", 413),
        ({"shape": [-1]}, b"", 422),
        ({"shape": [1, 2]}, b"", 422),
        ({"shape": "1"}, b"", 422),
        ({"shape": [True]}, b"", 422),
        ({"datatype": "FP8"}, b"", 422),
        ({"parameters": {"binary_data_size": 4}}, b"", 422),
        ({"parameters": {"binary_data_size": -1}}, b"1234", 422),
        ({"parameters": {"binary_data_size": "4"}}, b"1234", 422),
        ({"parameters": {"binary_data_size": 3}}, b"1234", 422),
        ({"parameters": {"binary_data_size": 4}, "data": [1]}, b"1234", 422),
        ({"parameters": {"binary_data_size": 4}}, struct.pack("<f", np.inf), 422),
        ({"parameters": 5}, b"", 422),
        ({"datatype": "BYTES", "parameters": {"binary_data_size": 3}}, b"123", 422),
        ({"datatype": "BYTES", "parameters": {"binary_data_size": 4}}, b"\xff" * 4, 422),
        ({"datatype": "BYTES", "parameters": {"binary_data_size": 5}}, b"\1\0\0\0\xff", 422),
        ({"datatype": "BYTES", "parameters": {"binary_data_size": 0}}, b"", 422),
    ],
)
def test_tensors_that_lie_about_themselves(change, after, status):
    assert refused({"shape": [1], "datatype": "FP32", **change}, after) == status


def infer(app, body, length=None):
    headers = [(b"x-api-key", http_servers.KEY.encode())]
    if length is not None:
        headers.append((tensors.HEADER, str(length).encode()))
    return asyncio.run(app.infer(body, headers))


@pytest.fixture(scope="module")
def app(classifier):
    return http_servers.endpoint(classifier.bundle, Serve(guard="flag"))


@pytest.fixture(scope="module")
def document(classifier):
    row = example_row(classifier.bundle)
    return {
        "inputs": [
            {"name": name, "shape": [1], "datatype": "BYTES", "data": [value]}
            for name, value in row.items()
        ]
    }


def test_outputs_are_those_that_were_asked_for(app, document):
    asked = {**document, "outputs": [{"name": "label", "parameters": {"binary_data": True}}]}
    answer = infer(app, json.dumps(asked).encode())
    length = int(dict(answer.headers)[tensors.HEADER])
    (label,) = json.loads(answer.body[:length])["outputs"]
    assert (label["name"], "data" in label) == ("label", False)
    assert label["parameters"]["binary_data_size"] == len(answer.body) - length
    every = json.loads(infer(app, json.dumps(document).encode()).body)
    assert [output["name"] for output in every["outputs"]] == ["label", "probabilities"]
    assert every["outputs"][0]["data"] == [answer.body[length + 4 :].decode()]


def test_flagged_rows_are_counted(app, document):
    first, *others = document["inputs"]
    assert first["name"] == "age"
    strange = {"inputs": [{**first, "data": [1000]}, *others]}
    answer = json.loads(infer(app, json.dumps(strange).encode()).body)
    assert answer["parameters"] == {"flagged_rows": 1}


@pytest.mark.parametrize(
    ("change", "length", "status"),
    [
        ({"outputs": [{"name": "other"}]}, None, 422),
        ({"outputs": {}}, None, 422),
        ({"outputs": [{"name": "label", "parameters": {"binary_data": 1}}]}, None, 422),
        ({"parameters": []}, None, 200),
        ({"parameters": [1]}, None, 422),
        ({"id": 5}, None, 422),
        ({}, "x", 400),
        ({}, 10**9, 400),
        ({}, 10, 400),
    ],
)
def test_requests_that_are_wrong(app, document, change, length, status):
    assert infer(app, json.dumps({**document, **change}).encode(), length).status == status


def test_vectors_are_one_tensor(classifier):
    manifest = dataclasses.replace(classifier.bundle.manifest, task="retrieval", classes=None)
    (told,) = inference.metadata(manifest)["outputs"]
    asked = inference.Request(None, [], {told["name"]: False})
    predictions = [{"vector": [0.6, 0.8, 0.0]}, {"vector": [0.0, 0.0, 1.0]}]
    (made,) = json.loads(inference.answer(asked, predictions, manifest).body)["outputs"]
    assert (made["name"], made["shape"]) == ("vector", [2, 3])
    assert made["data"] == [0.6, 0.8, 0.0, 0.0, 0.0, 1.0]


def test_errors_are_texts_as_the_protocol_has_them(app, document):
    document = {**document, "outputs": [{"name": "other"}]}
    told = json.loads(infer(app, json.dumps(document).encode()).body)
    assert told["error"] == "outputs[0].name: expected one of label, probabilities"
    assert (told["code"], told["where"]) == ("invalid_request", "outputs[0].name")


def test_bytes_that_no_input_takes(app, document):
    head = json.dumps(document).encode()
    assert infer(app, head + b"more", len(head)).status == 422


@given(st.binary(max_size=300), st.integers(0, 300))
def test_no_bytes_at_all_crash_it(app, body, length):
    assert infer(app, body, length).status in (400, 413, 422)
