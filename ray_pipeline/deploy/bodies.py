"""Requests that are no JSON: an image or a text as it is, or a form with one field a column."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from email.message import Message
from typing import Any

import msgspec

from ray_pipeline.data.media.extras import library
from ray_pipeline.errors import RequestError
from ray_pipeline.schema import TEXTS, Schema

Row = dict[str, Any]
Headers = Sequence[tuple[bytes, bytes]]

_FORM, _TEXT, _BYTES = "multipart/form-data", "text/plain", "application/octet-stream"


def reading(schema: Schema) -> Callable[[bytes, Headers], Row | None] | None:
    """A function from a body and its headers to the row in it, yet to be checked; None of it means
    that the body is JSON. None instead of a function where the model takes nothing else.

    The function raises RequestError: 400 for a text that is not UTF-8, or a broken form.
    """
    kinds = {column.name: column.kind for column in schema.features}
    image = next((name for name, kind in kinds.items() if kind == "image"), None)
    text = next(iter(kinds)) if [*kinds.values()] == ["text"] else None
    if image is None and text is None:
        return None

    def row(body: bytes, headers: Headers) -> Row | None:
        told = _content_type(headers)
        kind = told.partition(";")[0].strip().lower()
        if text is not None and kind == _TEXT:
            return {text: _decoded(body, "body")}
        if image is not None and (kind == _BYTES or kind.startswith("image/")):
            return {image: base64.b64encode(body).decode()}
        if image is not None and kind == _FORM:
            return _fields(body, _boundary(told), kinds)
        return None

    return row


def described(schema: Schema) -> dict[str, Any]:
    """The same for OpenAPI: by media type, what the body is."""
    kinds = [column.kind for column in schema.features]
    if kinds == ["text"]:
        return {_TEXT: {"schema": {"type": "string"}}}
    if "image" not in kinds:
        return {}
    binary = {"type": "string", "contentMediaType": _BYTES}
    properties = {
        column.name: binary if column.kind == "image" else {"type": "string"}
        for column in schema.features
    }
    form = {"type": "object", "required": list(properties), "properties": properties}
    whole = {"image/*": {"schema": binary}} if kinds == ["image"] else {}
    return {**whole, _FORM: {"schema": form}}


def _content_type(headers: Headers) -> str:
    found = next((value for name, value in headers if name == b"content-type"), b"")
    # An address or a line break in it is nobody's media type.
    return found.decode("latin-1").replace("\r", " ").replace("\n", " ")


def _boundary(content_type: str) -> bytes:
    told = Message()
    told["content-type"] = content_type
    return str(told.get_param("boundary", "")).encode("latin-1", "replace")


def _fields(body: bytes, boundary: bytes, kinds: Mapping[str, str]) -> Row:
    """A form's fields: files as base64, other columns as the kind that they have."""
    multipart = library("python_multipart", "media")
    found: Row = {}

    def add(name: bytes | None, value: Any) -> None:
        column = _decoded(name or b"", "body")
        if column in found:
            raise _malformed(f"the field {column!r} stands twice; a form is one row")
        found[column] = value

    def field(given: Any) -> None:
        name = _decoded(given.field_name or b"", "body")
        add(given.field_name, _value(_decoded(given.value or b"", name), kinds.get(name, "text")))

    def file(given: Any) -> None:
        given.file_object.seek(0)
        add(given.field_name, base64.b64encode(given.file_object.read()).decode())

    # The body is in memory already, and within the endpoint's bound: nothing is put on disk.
    limits = {"MAX_MEMORY_FILE_SIZE": len(body) + 1}
    try:
        parser = multipart.FormParser(_FORM, field, file, boundary=boundary, config=limits)
        parser.write(body)
        parser.finalize()
    except multipart.exceptions.FormParserError as error:
        raise _malformed(str(error)) from error
    if not boundary or b"--" + boundary + b"--" not in body:
        raise _malformed("it ends too early")
    return found


def _value(text: str, kind: str) -> Any:
    """A field's text as a value; what does not fit stays a text, and is told when it is checked."""
    if kind in (*TEXTS, "image", "date"):
        return text or None
    try:
        return msgspec.json.decode(text) if text.strip() else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return text


def _decoded(content: bytes, where: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise RequestError(
            "the text is not UTF-8", status=400, code="not_text", where=where
        ) from None


def _malformed(what: str) -> RequestError:
    return RequestError(
        f"not a form: {what}",
        status=400,
        code="not_a_form",
        where="body",
        expected="multipart/form-data with a field for each column",
    )
