"""Images in requests: read as training images are, refused by name, bounded."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from ray_pipeline.bundle import Manifest
from ray_pipeline.data.media.pixels import pixels
from ray_pipeline.data.statistics import ImageStatistics
from ray_pipeline.deploy import inference, openapi, pictures, runtime
from ray_pipeline.deploy.protocol import Protocol
from ray_pipeline.errors import DataError, RequestError
from ray_pipeline.job import Serve
from ray_pipeline.schema import Column, Schema

IMAGE = ImageStatistics(
    name="photo",
    missing=0,
    height=6,
    width=5,
    channels=3,
    mean=(10.2, 20.0, 30.7),
    deviation=(1.0, 1.0, 1.0),
)
SCHEMA = Schema(
    columns=(
        Column(name="age", kind="integer"),
        Column(name="photo", kind="image"),
        Column(name="what", kind="category", role="label"),
    )
)
PROTOCOL = Protocol(SCHEMA, 8, image=IMAGE)


def picture(width: int = 9, height: int = 7, form: str = "PNG", seed: int = 0) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    with io.BytesIO() as file:
        Image.fromarray(noise).save(file, form)
        return file.getvalue()


def row(content: bytes | None) -> dict:
    return {"age": 3, "photo": content and base64.b64encode(content).decode()}


def body(*rows: dict) -> bytes:
    return json.dumps({"rows": rows}).encode()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_pixels_are_those_of_training(form):
    contents = [picture(form=form, seed=seed) for seed in range(3)]
    found = PROTOCOL.columns(PROTOCOL.rows(body(*map(row, contents))))
    assert found["photo"].dtype == np.uint8
    assert (found["photo"] == [pixels(content, (6, 5, 3)) for content in contents]).all()
    assert found["age"].tolist() == [3, 3, 3]


def test_null_is_the_mean_colour():
    found = PROTOCOL.columns(PROTOCOL.rows(body(row(None), row(picture()))))["photo"]
    assert (found[0] == [10, 20, 31]).all()


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        ("no base64!", "not base64"),
        ("é", "not base64"),
        ("", "not an image"),
        (base64.b64encode(b"hello").decode(), "not an image"),
        (base64.b64encode(picture(200, 200)[:-5000]).decode(), "the image is cut off or damaged"),
        (5, "expected an image file"),
        ([1], "expected an image file"),
    ],
)
def test_what_is_no_image_is_refused_by_its_row(photo, message):
    with pytest.raises(RequestError, match=message) as refused:
        PROTOCOL.rows(body(row(picture()), {"age": 1, "photo": photo}))
    assert (refused.value.status, refused.value.where) == (422, "rows[1].photo")


def test_a_few_bytes_that_declare_many_pixels_are_refused():
    with io.BytesIO() as file:
        Image.new("1", (6000, 6000)).save(file, "PNG")
        large = file.getvalue()
    assert len(large) < 10_000
    assert len(PROTOCOL.rows(body(row(large)))) == 1
    with pytest.raises(RequestError, match="more than 50,000,000 pixels") as refused:
        PROTOCOL.rows(body(row(large), row(large)))
    assert (refused.value.status, refused.value.where) == (413, "rows[1].photo")


def test_the_open_inference_protocol_takes_them_too():
    request = {
        "inputs": [
            {"name": "age", "shape": [1], "datatype": "INT64", "data": [3]},
            {
                "name": "photo",
                "shape": [1],
                "datatype": "BYTES",
                "data": [row(picture())["photo"]],
            },
        ]
    }
    _, rows = inference.request(json.dumps(request).encode(), PROTOCOL)
    assert (PROTOCOL.columns(rows)["photo"][0] == pixels(picture(), (6, 5, 3))).all()


def manifest(image: ImageStatistics | None = IMAGE) -> Manifest:
    inputs = {"image": image.model_dump(mode="json") if image else None}
    return Manifest(
        name="shop",
        version="1",
        created="2026-01-01",
        task="classification",
        schema=SCHEMA,
        classes=("a", "b"),
        model={"inputs": inputs},
    )


def test_files_in_bulk_are_decoded_alike():
    schema = Schema(columns=SCHEMA.columns[1:])
    table = pa.table({"photo": pa.array([picture(), None], pa.large_binary())})
    seen = pictures.image_of(manifest())
    found = runtime.columns_from_table(table, schema, seen)["photo"]
    assert (found[0] == pixels(picture(), (6, 5, 3))).all()
    assert (found[1] == [10, 20, 31]).all()
    with pytest.raises(DataError, match="not an image"):
        runtime.columns_from_table(pa.table({"photo": [b"hello"]}), schema, seen)
    assert pictures.image_of(manifest(None)) is None


def test_openapi_says_what_the_column_is():
    example = {"age": 3, "photo": "iVBORw0K"}
    described = json.loads(openapi.document("shop", manifest(), Serve(), example))
    column = described["components"]["schemas"]["Row"]["properties"]["photo"]
    assert column["type"] == ["string", "null"]
    assert (column["format"], column["contentEncoding"]) == ("byte", "base64")
    assert column["examples"] == ["iVBORw0K"]
