"""Tensors of the Open Inference Protocol: as JSON lists, and as bytes behind the JSON.

The binary form is the extension `binary_tensor_data`: a header `Inference-Header-Content-Length`
says how long the JSON is; each tensor that has `binary_data_size` among its parameters takes that
many of the bytes after it, in order. Numbers are little-endian; an element of BYTES is its length
in four bytes, then itself.
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ray_pipeline.errors import RequestError

HEADER = b"inference-header-content-length"
BINARY = "binary_tensor_data"
_DTYPES = {
    "BOOL": "?",
    **{f"INT{8 * size}": f"<i{size}" for size in (1, 2, 4, 8)},
    **{f"UINT{8 * size}": f"<u{size}" for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": f"<f{size}" for size in (2, 4, 8)},
}
DATATYPES = (*_DTYPES, "BYTES")


def split(body: bytes, headers: Any) -> tuple[bytes, memoryview]:
    """The JSON of a request and the bytes after it.

    Raises:
        RequestError: 400, the header is no length within the body.
    """
    given = next((value for name, value in headers if name == HEADER), None)
    if given is None:
        return body, memoryview(b"")
    if not given.isdigit() or len(given) > 15 or int(given) > len(body):
        raise RequestError(
            "not the length of the JSON in the body",
            status=400,
            code="bad_length",
            where="Inference-Header-Content-Length",
        )
    length = int(given)
    return body[:length], memoryview(body)[length:]


def values(
    tensor: dict[str, Any], after: memoryview, place: str, max_rows: int, image: bool
) -> tuple[list[Any], memoryview]:
    """A tensor's elements, of shape [N] or [N, 1], and the bytes that are left for others.

    Numbers that are NaN are None; the bytes of an image are in base64, as they would be in JSON.

    Raises:
        RequestError: 422, and where; 413, more than `max_rows`.
    """
    count = _count(tensor.get("shape"), place, max_rows)
    datatype = tensor.get("datatype")
    if datatype not in DATATYPES:
        raise invalid(f"expected one of {', '.join(DATATYPES)}", f"{place}.datatype")
    parameters = tensor.get("parameters") or {}
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is None:
        return _listed(tensor.get("data"), count, place), after
    if "data" in tensor:
        raise invalid("expected either data or binary_data_size", place)
    if type(size) is not int or not 0 <= size <= len(after):
        raise invalid(
            f"expected a number of bytes, of {len(after)} that are left",
            f"{place}.parameters.binary_data_size",
        )
    content, rest = after[:size], after[size:]
    if datatype == "BYTES":
        elements = list(_elements(content, place))
        if len(elements) != count:
            raise invalid(f"expected {count} elements, found {len(elements)}", place)
        return [_text(element, place, image) for element in elements], rest
    return _numbers(content, _DTYPES[datatype], count, place), rest


def encoded(datatype: str, data: list[Any]) -> bytes:
    """The elements of a tensor as bytes."""
    if datatype != "BYTES":
        return np.array(data, _DTYPES[datatype]).tobytes()
    return packed(text.encode() for text in data)


def packed(elements: Iterable[bytes]) -> bytes:
    """Elements of BYTES, each behind its length."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def invalid(what: str, where: str) -> RequestError:
    """The 422 for JSON that is no such request."""
    return RequestError(what, status=422, code="invalid_request", where=where)


def _count(shape: Any, place: str, max_rows: int) -> int:
    whole = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not whole or len(shape) not in (1, 2) or shape[1:] not in ([], [1]):
        raise invalid("expected [N] or [N, 1]", f"{place}.shape")
    count: int = shape[0]
    if count > max_rows:
        raise RequestError(
            f"expected at most {max_rows} rows, found {count}",
            status=413,
            code="too_many_rows",
            where=f"{place}.shape",
        )
    return count


def _listed(data: Any, count: int, place: str) -> list[Any]:
    if not isinstance(data, list):
        raise invalid("expected a list", f"{place}.data")
    if data and all(isinstance(item, list) and len(item) == 1 for item in data):
        data = [item[0] for item in data]  # [N, 1], nested
    if len(data) != count:
        raise invalid(f"expected [{len(data)}], the length of the data", f"{place}.shape")
    return list(data)


def _numbers(content: memoryview, dtype: str, count: int, place: str) -> list[Any]:
    size = np.dtype(dtype).itemsize
    if len(content) != count * size:
        raise invalid(f"expected {count * size} bytes, found {len(content)}", place)
    found = np.frombuffer(content, dtype)
    if found.dtype.kind != "f":
        return list(found.tolist())
    if np.isinf(found).any():
        raise invalid("expected finite numbers, or NaN for no value", place)
    return [None if value != value else value for value in found.tolist()]  # noqa: PLR0124 - NaN


def _elements(content: memoryview, place: str) -> Iterator[memoryview]:
    start = 0
    while start < len(content):
        if start + 4 > len(content):
            raise invalid("an element's length is cut off", place)
        (length,) = struct.unpack_from("<I", content, start)
        start += 4
        if start + length > len(content):
            raise invalid("an element is longer than the bytes that are left", place)
        yield content[start : start + length]
        start += length


def _text(element: memoryview, place: str, image: bool) -> str:
    if image:
        return base64.b64encode(element).decode()
    try:
        return bytes(element).decode()
    except UnicodeDecodeError:
        raise invalid("expected UTF-8", place) from None
