"""Requests that are no JSON."""

from __future__ import annotations

import base64
import contextlib
import io
import json

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ray_pipeline.deploy import bodies
from ray_pipeline.errors import RequestError
from ray_pipeline.schema import Column, Schema

LABEL = Column(name="what", kind="category", role="label")
TABLE = Schema(columns=(Column(name="age", kind="integer"), LABEL))
TEXT = Schema(columns=(Column(name="review", kind="text"), LABEL))
PHOTO = Column(name="photo", kind="image")
BESIDE = Schema(
    columns=(
        PHOTO,
        Column(name="age", kind="integer"),
        Column(name="new", kind="boolean"),
        Column(name="town", kind="category"),
        Column(name="day", kind="date"),
        LABEL,
    )
)
ALONE = Schema(columns=(PHOTO, LABEL))


def picture() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    with io.BytesIO() as file:
        Image.fromarray(noise).save(file, "PNG")
        return file.getvalue()


def read(schema: Schema, body: bytes, content_type: str):
    found = bodies.reading(schema)
    assert found is not None
    return found(body, [(b"host", b"here"), (b"content-type", content_type.encode("latin-1"))])


def posted(**parts):
    """The body and content type that a client makes of a form."""
    request = httpx.Request("POST", "http://here/", **parts)
    return request.read(), request.headers["content-type"]


def test_a_table_takes_nothing_but_json():
    assert bodies.reading(TABLE) is None


@pytest.mark.parametrize("schema", [TEXT, ALONE, BESIDE])
@pytest.mark.parametrize(
    "content_type", ["application/json", "application/x-www-form-urlencoded", "", "nonsense"]
)
def test_json_is_json_whatever_a_client_calls_it(schema, content_type):
    assert read(schema, b'{"rows": []}', content_type) is None
    assert bodies.reading(schema)(b"{}", []) is None


def test_a_text_is_a_row():
    assert read(TEXT, "tästy".encode(), "text/plain; charset=utf-8") == {"review": "tästy"}
    with pytest.raises(RequestError, match="not UTF-8"):
        read(TEXT, b"\xff", "text/plain")


@pytest.mark.parametrize("content_type", ["image/png", "IMAGE/JPEG", "application/octet-stream"])
def test_an_image_is_a_row(content_type):
    found = read(ALONE, picture(), content_type)
    assert base64.b64decode(found["photo"]) == picture()


def test_a_form_is_a_row_of_the_columns_kinds():
    fields = {"age": "3", "new": "true", "town": "5", "day": "2026-01-02"}
    found = read(BESIDE, *posted(data=fields, files={"photo": ("a.png", picture(), "image/png")}))
    assert base64.b64decode(found.pop("photo")) == picture()
    assert found == {"age": 3, "new": True, "town": "5", "day": "2026-01-02"}
    empty = read(BESIDE, *posted(data={"age": "", "town": ""}, files={"photo": picture()}))
    assert (empty["age"], empty["town"]) == (None, None)
    wrong = read(BESIDE, *posted(data={"age": "old"}, files={"photo": picture()}))
    assert wrong["age"] == "old"  # the schema's check says what was expected


def test_a_form_that_is_none_is_refused():
    body, content_type = posted(files={"photo": picture()})
    for broken in (body[:-9], b"", b"hello"):
        with pytest.raises(RequestError, match="not a form") as refused:
            read(ALONE, broken, content_type)
        assert refused.value.status == 400
    with pytest.raises(RequestError, match="not a form"):
        read(ALONE, body, "multipart/form-data")
    twice, content_type = posted(files=[("photo", picture()), ("photo", picture())])
    with pytest.raises(RequestError, match="stands twice"):
        read(ALONE, twice, content_type)


@given(st.binary(max_size=300), st.text(max_size=80))
def test_any_bytes_are_read_or_refused(body, told):
    for content_type in (told, "multipart/form-data; boundary=" + told, "text/plain;" + told):
        header = [(b"content-type", content_type.encode("latin-1", "replace"))]
        for schema in (TEXT, BESIDE):
            with contextlib.suppress(RequestError):
                row = bodies.reading(schema)(body, header)
                assert row is None or isinstance(row, dict)


def test_openapi_says_what_it_takes():
    assert bodies.described(TABLE) == {}
    assert bodies.described(TEXT).keys() == {"text/plain"}
    assert bodies.described(ALONE).keys() == {"image/*", "multipart/form-data"}
    form = bodies.described(BESIDE)["multipart/form-data"]["schema"]
    assert form["required"] == ["photo", "age", "new", "town", "day"]
    json.dumps(form)
