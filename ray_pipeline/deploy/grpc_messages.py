"""The Open Inference Protocol's messages over gRPC, as its requests and answers over HTTP.

What a message has in `raw_input_contents` is what stands behind the JSON in the protocol's binary
form (tensors.py), so that one becomes the other without a look at the elements.
https://github.com/open-inference/open-inference-protocol/blob/main/specification/protocol/open_inference_grpc.proto
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import msgspec
from google.protobuf.message import Message

from ray_pipeline.data.media.extras import library
from ray_pipeline.deploy import asgi, tensors
from ray_pipeline.deploy.asgi import Header, Response

EXTRA = "grpc"
_LISTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    **{"INT64": "int64_contents", "UINT64": "uint64_contents"},
    **{"FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents"},
}
"""By datatype the list that its elements stand in where they are not raw bytes."""


def messages() -> Any:
    """The module of the protocol's messages. Raises DataError: the extra is not installed."""
    return library("tritonclient.grpc.service_pb2", EXTRA)


def registered(servicer: Any, server: Any) -> None:
    """Register the protocol's calls with a server, as Ray Serve's proxies and replicas do.

    Where no replica is known to HAProxy, as before the first of an endpoint, Serve's own proxy
    takes a request and hands it to a replica pickled. The messages' classes say that they are of a
    module `grpc_service_pb2`, which is nowhere to be found.
    """
    sys.modules.setdefault("grpc_service_pb2", messages())
    services = library("tritonclient.grpc.service_pb2_grpc", EXTRA)
    services.add_GRPCInferenceServiceServicer_to_server(servicer, server)


def request(asked: Any) -> tuple[bytes, list[Header]]:
    """The body and the headers of `ModelInferRequest` over HTTP, whose outputs are wanted as bytes.

    Raises:
        RequestError: 422, its elements are not as the protocol has them.
    """
    contents = _contents(asked)
    inputs = [
        {
            "name": tensor.name,
            "shape": list(tensor.shape),
            "datatype": tensor.datatype,
            "parameters": {"binary_data_size": len(content)},
        }
        for tensor, content in zip(asked.inputs, contents, strict=True)
    ]
    document = {"inputs": inputs, "parameters": {"binary_data_output": True}}
    if asked.id:
        document["id"] = asked.id
    if asked.outputs:
        document["outputs"] = [{"name": output.name} for output in asked.outputs]
    head = asgi.encoded(document)
    return head + b"".join(contents), [(tensors.HEADER, b"%d" % len(head))]


def answer(response: Response) -> Message:
    """The `ModelInferResponse` of an answer that is predictions."""
    head, after = tensors.split(response.body, response.headers)
    document = msgspec.json.decode(head)
    made = messages().ModelInferResponse(
        model_name=document["model_name"],
        model_version=document["model_version"],
        id=document.get("id", ""),
    )
    for name, number in document.get("parameters", {}).items():
        made.parameters[name].int64_param = number
    for tensor in document["outputs"]:
        made.outputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
        size = tensor["parameters"]["binary_data_size"]
        made.raw_output_contents.append(bytes(after[:size]))
        after = after[size:]
    told: Message = made
    return told


def metadata(document: dict[str, Any]) -> Message:
    """The `ModelMetadataResponse` that says what `inference.metadata` does."""
    told: Message = messages().ModelMetadataResponse(**document)
    return told


def _contents(asked: Any) -> Sequence[bytes]:
    """The elements of each input as bytes."""
    listed = [tensor.HasField("contents") for tensor in asked.inputs]
    if not asked.raw_input_contents:
        return [_listed(tensor, f"inputs[{at}]") for at, tensor in enumerate(asked.inputs)]
    if any(listed):
        place = f"inputs[{listed.index(True)}].contents"
        raise tensors.invalid("expected raw_input_contents for all inputs, or for none", place)
    if len(asked.raw_input_contents) != len(asked.inputs):
        what = f"expected one for each of the {len(asked.inputs)} inputs"
        raise tensors.invalid(what, "raw_input_contents")
    raw: Sequence[bytes] = asked.raw_input_contents
    return raw


def _listed(tensor: Any, place: str) -> bytes:
    if tensor.datatype not in _LISTS:
        what = f"expected one of {', '.join(_LISTS)}; others come in raw_input_contents"
        raise tensors.invalid(what, f"{place}.datatype")
    elements = list(getattr(tensor.contents, _LISTS[tensor.datatype]))
    if tensor.datatype == "BYTES":
        return tensors.packed(elements)
    try:
        return tensors.encoded(tensor.datatype, elements)
    except OverflowError as error:
        raise tensors.invalid(f"expected {tensor.datatype}: {error}", f"{place}.contents") from None
