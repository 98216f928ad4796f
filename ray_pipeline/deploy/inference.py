"""The Open Inference Protocol (KServe's version 2): tensors in, tensors out.

Each feature is an input tensor of its own, of shape [N] or [N, 1], in JSON or in the binary form
(tensors.py): https://github.com/open-inference/open-inference-protocol
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray_pipeline.bundle import Manifest
from ray_pipeline.deploy import asgi, tensors
from ray_pipeline.deploy.asgi import Header, Response
from ray_pipeline.deploy.protocol import Protocol, Rows, decoded
from ray_pipeline.deploy.tensors import invalid

PATH = "/v2/models/NAME/infer"
DATATYPES = {
    **{"integer": "INT64", "number": "FP64", "boolean": "BOOL"},
    **{"category": "BYTES", "date": "BYTES", "text": "BYTES"},
    "image": "BYTES",  # in base64; as they are in the binary form
}


@dataclass(frozen=True)
class Request:
    """A request that was read: its id, its rows, and by output whether it is wanted as bytes."""

    id: str | None
    rows: Rows
    outputs: dict[str, bool]


def request(body: bytes, headers: list[Header], protocol: Protocol, manifest: Manifest) -> Request:
    """A request and its rows.

    Raises:
        RequestError: 400 not JSON; 413 too many rows; 422 anything else, and where.
    """
    head, after = tensors.split(body, headers)
    document = decoded(head)
    if not isinstance(document, dict) or not isinstance(document.get("inputs"), list):
        raise invalid('expected {"inputs": [{"name", "shape", "datatype", "data"}]}', "inputs")
    if not isinstance(document.get("id", ""), str):
        raise invalid("expected a text", "id")
    images = {column.name for column in protocol.features if column.kind == "image"}
    columns: dict[str, list[Any]] = {}
    count = None
    for index, tensor in enumerate(document["inputs"]):
        place = f"inputs[{index}]"
        if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
            raise invalid("expected an object with a name", place)
        name = tensor["name"]
        data, after = tensors.values(tensor, after, place, protocol.max_rows, name in images)
        if count is not None and len(data) != count:
            raise invalid(f"expected {count} values as before, found {len(data)}", place)
        if name in columns:
            raise invalid(f"the input {name!r} stands twice", place)
        columns[name], count = data, len(data)
    if len(after):
        raise invalid(f"{len(after)} bytes are left that no input takes", "inputs")
    wanted = _wanted(document, [output["name"] for output in _outputs(manifest)])
    return Request(document.get("id"), protocol.rows_from(columns, count or 0), wanted)


def answer(
    request: Request, predictions: list[dict[str, Any]], manifest: Manifest, flagged: int = 0
) -> Response:
    """The response to a request, from the prediction for each row; `flagged` rows are unlike the
    training rows."""
    width = len(predictions[0].get("vector", ()))
    made = [
        tensor | {"data": _data(tensor["name"], predictions, manifest)}
        for tensor in _outputs(manifest, len(predictions), width)
        if tensor["name"] in request.outputs
    ]
    after = [_moved_out(tensor) for tensor in made if request.outputs[tensor["name"]]]
    document = {
        "model_name": manifest.name,
        "model_version": manifest.version,
        **({"id": request.id} if request.id is not None else {}),
        **({"parameters": {"flagged_rows": flagged}} if flagged else {}),
        "outputs": made,
    }
    head = asgi.encoded(document)
    if not after:
        return Response(200, head, rows=len(predictions))
    headers = (
        (b"content-type", b"application/octet-stream"),
        (tensors.HEADER, b"%d" % len(head)),
        *asgi.PLAIN_HEADERS,
    )
    return Response(200, head + b"".join(after), headers, rows=len(predictions))


CHAT = "ray_pipeline_chat"
"""The platform of what is asked through OpenAI's protocol, not this one."""


def metadata(manifest: Manifest) -> dict[str, Any]:
    """What the protocol says of a model: its inputs and outputs."""
    if manifest.task == "chat":
        about = {"name": manifest.name, "versions": [manifest.version], "platform": CHAT}
        return {**about, "inputs": [], "outputs": []}
    inputs = [
        {"name": column.name, "datatype": DATATYPES[column.kind], "shape": [-1]}
        for column in manifest.schema.features
    ]
    return {
        "name": manifest.name,
        "versions": [manifest.version],
        "platform": "onnxruntime_onnx",
        "inputs": inputs,
        "outputs": _outputs(manifest),
    }


def _outputs(manifest: Manifest, rows: int = -1, width: int = -1) -> list[dict[str, Any]]:
    """The tensors of an answer; `width` is that of a vector."""
    if manifest.task == "retrieval":
        return [{"name": "vector", "datatype": "FP32", "shape": [rows, width]}]
    if manifest.classes is None:
        return [{"name": "value", "datatype": "FP32", "shape": [rows]}]
    by_class = [rows, len(manifest.classes)]
    probabilities = {"name": "probabilities", "datatype": "FP32", "shape": by_class}
    if manifest.thresholds is not None:  # a tensor holds no lists of different lengths
        return [{"name": "labels", "datatype": "BOOL", "shape": by_class}, probabilities]
    return [{"name": "label", "datatype": "BYTES", "shape": [rows]}, probabilities]


def _data(name: str, predictions: list[dict[str, Any]], manifest: Manifest) -> list[Any]:
    if name == "vector":
        return [number for one in predictions for number in one[name]]
    classes = manifest.classes or ()
    if name == "labels":
        return [label in one["labels"] for one in predictions for label in classes]
    if name != "probabilities":
        return [one[name] for one in predictions]
    return [one["probabilities"][label] for one in predictions for label in classes]


def _moved_out(tensor: dict[str, Any]) -> bytes:
    """The tensor's data as bytes; in the tensor their number stands instead."""
    content = tensors.encoded(tensor["datatype"], tensor.pop("data"))
    tensor["parameters"] = {"binary_data_size": len(content)}
    return content


def _wanted(document: dict[str, Any], known: list[str]) -> dict[str, bool]:
    """By output that is asked for (all, if none is named) whether it is wanted as bytes."""
    whole = _flag(document, "binary_data_output", "parameters", False)
    asked = document.get("outputs")
    if asked is None:
        return dict.fromkeys(known, whole)
    if not isinstance(asked, list):
        raise invalid("expected a list", "outputs")
    wanted = {}
    for index, output in enumerate(asked):
        place = f"outputs[{index}]"
        name = output.get("name") if isinstance(output, dict) else None
        if name not in known:
            raise invalid(f"expected one of {', '.join(known)}", f"{place}.name")
        wanted[name] = _flag(output, "binary_data", f"{place}.parameters", whole)
    return wanted or dict.fromkeys(known, whole)


def _flag(holder: dict[str, Any], name: str, place: str, default: bool) -> bool:
    parameters = holder.get("parameters") or {}
    found = parameters.get(name, default) if isinstance(parameters, dict) else None
    if not isinstance(found, bool):
        raise invalid("expected true or false", f"{place}.{name}")
    return found
