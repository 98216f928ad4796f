"""The Open Inference Protocol (KServe's version 2), JSON form: tensors in, tensors out.

Each feature is an input tensor of its own, of shape [N] or [N, 1]:
https://github.com/open-inference/open-inference-protocol
"""

from __future__ import annotations

from typing import Any

from ray_pipeline.bundle import Manifest
from ray_pipeline.deploy.protocol import Protocol, Rows, decoded
from ray_pipeline.errors import RequestError

DATATYPES = {
    **{"integer": "INT64", "number": "FP64", "boolean": "BOOL"},
    **{"category": "BYTES", "date": "BYTES", "text": "BYTES"},
    "image": "BYTES",  # in base64
}


def request(body: bytes, protocol: Protocol) -> tuple[dict[str, Any], Rows]:
    """A request and its rows.

    Raises:
        RequestError: 400 not JSON; 413 too many rows; 422 anything else, and where.
    """
    document = decoded(body)
    if not isinstance(document, dict) or not isinstance(document.get("inputs"), list):
        raise _invalid('expected {"inputs": [{"name", "shape", "datatype", "data"}]}', "inputs")
    columns: dict[str, list[Any]] = {}
    count = None
    for index, tensor in enumerate(document["inputs"]):
        place = f"inputs[{index}]"
        if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
            raise _invalid("expected an object with a name", place)
        data = _data(tensor, place)
        if count is not None and len(data) != count:
            raise _invalid(f"expected {count} values as before, found {len(data)}", place)
        if tensor["name"] in columns:
            raise _invalid(f"the input {tensor['name']!r} stands twice", place)
        columns[tensor["name"]], count = data, len(data)
    return document, protocol.rows_from(columns, count or 0)


def answer(request: dict[str, Any], outputs: list[Any], manifest: Manifest) -> dict[str, Any]:
    """The response to a request, from the model's output for each row."""
    response: dict[str, Any] = {"model_name": manifest.name, "model_version": manifest.version}
    if "id" in request:
        response["id"] = request["id"]
    count = len(outputs)
    if manifest.classes is None:
        response["outputs"] = [_tensor("value", "FP32", [count], outputs)]
        return response
    labels = [manifest.classes[row.index(max(row))] for row in outputs]
    flat = [probability for row in outputs for probability in row]
    response["outputs"] = [
        _tensor("label", "BYTES", [count], labels),
        _tensor("probabilities", "FP32", [count, len(manifest.classes)], flat),
    ]
    return response


def metadata(manifest: Manifest) -> dict[str, Any]:
    """What the protocol says of a model: its inputs and outputs."""
    inputs = [
        {"name": column.name, "datatype": DATATYPES[column.kind], "shape": [-1]}
        for column in manifest.schema.features
    ]
    if manifest.classes is None:
        outputs = [{"name": "value", "datatype": "FP32", "shape": [-1]}]
    else:
        outputs = [
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(manifest.classes)]},
        ]
    return {
        "name": manifest.name,
        "versions": [manifest.version],
        "platform": "onnxruntime_onnx",
        "inputs": inputs,
        "outputs": outputs,
    }


def _data(tensor: dict[str, Any], place: str) -> list[Any]:
    data, shape = tensor.get("data"), tensor.get("shape")
    if not isinstance(data, list):
        raise _invalid("expected a list", f"{place}.data")
    if data and all(isinstance(item, list) and len(item) == 1 for item in data):
        data = [item[0] for item in data]  # [N, 1], nested
    if shape not in ([len(data)], [len(data), 1]):
        raise _invalid(f"expected [{len(data)}], the length of the data", f"{place}.shape")
    return data


def _tensor(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def _invalid(what: str, where: str) -> RequestError:
    return RequestError(what, status=422, code="invalid_request", where=where)
