"""Images in requests: read as training images are, refused by name, bounded."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import io
import json

import httpx
import numpy as np
import pyarrow as pa
import pytest
import small_bundles
import yaml
from PIL import Image
from upath import UPath

from ray_pipeline.bundle import Manifest
from ray_pipeline.data import collect
from ray_pipeline.data.media.pixels import pixels
from ray_pipeline.data.statistics import (
    ImageStatistics,
    LabelStatistics,
    NumberStatistics,
    Statistics,
)
from ray_pipeline.deploy import (
    batch,
    inference,
    openapi,
    pages,
    pictures,
    probe,
    runtime,
    sinks,
)
from ray_pipeline.deploy.app import Endpoint
from ray_pipeline.deploy.counters import Counters
from ray_pipeline.deploy.example import example_row
from ray_pipeline.deploy.protocol import Protocol
from ray_pipeline.deploy.pyfunc import BundleModel
from ray_pipeline.errors import DataError, RequestError
from ray_pipeline.job import Model, Serve, Source
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
    found = inference.request(json.dumps(request).encode(), [], PROTOCOL, manifest())
    assert (PROTOCOL.columns(found.rows)["photo"][0] == pixels(picture(), (6, 5, 3))).all()


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


@pytest.fixture(scope="module", params=[False, True], ids=["alone", "beside a number"])
def exported(request, tmp_path_factory):
    """The bundle of a network with fresh weights that reads images, its rows, and the record."""
    root = UPath(tmp_path_factory.mktemp("pictures"))
    beside = request.param
    age = {"missing": 0, "mean": 40, "deviation": 9, "median": 40, "minimum": 0, "maximum": 99}
    statistics = Statistics(
        rows=40,
        numbers=(NumberStatistics(name="age", **age),) if beside else (),
        categories=(),
        image=IMAGE,
        label=LabelStatistics(name="what", classes=("a", "b"), counts=(20, 20)),
    )
    schema = Schema(columns=SCHEMA.columns if beside else SCHEMA.columns[1:])
    values = {
        "age": list(range(40)),
        "photo": [*(picture(seed=seed) for seed in range(39)), None],
        "what": ["a", "b"] * 20,
    }
    rows = pa.table({name: values[name] for name in schema.names}, schema=schema.arrow())
    network = Model(name="cnn", width=16, depth=1)
    made = small_bundles.exported_of(root, schema, statistics, rows, network)
    return made.bundle, rows, made.record


def test_the_graph_is_the_network_from_files_on(exported):
    opened, rows, record = exported
    assert record["parity"]["rows"] == 40
    assert record["parity"]["max_difference"] < 1e-5
    schema = opened.manifest.schema
    seen = pictures.image_of(opened.manifest)
    predictor = runtime.Predictor(opened)
    in_bulk = predictor.predict(runtime.columns_from_table(rows, schema, seen))
    protocol = Protocol(schema, 100, image=seen)
    photos = enumerate(rows["photo"].to_pylist())
    sent = [{**row(content), "age": age} for age, content in photos]
    if "age" not in schema.names:
        sent = [{"photo": each["photo"]} for each in sent]
    asked = predictor.predict(protocol.columns(protocol.rows(body(*sent))))
    assert np.allclose(asked, in_bulk, atol=1e-6)
    assert len({*map(tuple, in_bulk.tolist())}) > 30


def test_images_go_through_the_graph_a_few_at_a_time(exported, monkeypatch):
    opened, rows, _ = exported
    seen = pictures.image_of(opened.manifest)
    columns = runtime.columns_from_table(rows, opened.manifest.schema, seen)
    whole = runtime.Predictor(opened).predict(columns)
    monkeypatch.setattr(runtime, "PIXELS", 7 * 30)
    assert np.allclose(runtime.Predictor(opened).predict(columns), whole, atol=1e-6)
    none = {name: values[:0] for name, values in columns.items()}
    assert runtime.Predictor(opened).predict(none).shape == (0, 2)


def test_mlflow_and_the_page_know_the_column(exported):
    opened, rows, _ = exported
    example = example_row(opened)
    assert pixels(base64.b64decode(example["photo"]), IMAGE.shape).tolist()[0][0] == [10, 20, 31]
    signature = yaml.safe_load((opened.path / "MLmodel").read_text())["signature"]["inputs"]
    types = {column["name"]: column["type"] for column in json.loads(signature)}
    assert types["photo"] == "binary"
    assert "pillow==" in (opened.path / "requirements.txt").read_text()
    found = BundleModel(str(opened.path)).predict(rows.to_pandas())
    assert set(found["label"]) <= {"a", "b"}
    page = pages.pages("shop", opened, Serve())["/shop/"].body.decode()
    assert f'data-value="{example["photo"]}"' in page


def test_a_folder_of_files_is_read_as_images(exported, tmp_path):
    manifest = exported[0].manifest
    columns = (Column(name="image", kind="image"), SCHEMA.columns[2])
    manifest = dataclasses.replace(manifest, schema=Schema(columns=columns))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(picture())
    data, schema, _ = batch.reading(Source(url=str(tmp_path)), manifest)
    assert data.format == "images"
    assert [column.name for column in schema.features] == ["image"]
    pieces, tables = collect.reading(data.source, data, schema)
    (table,) = (table for piece in pieces for table in tables(piece))
    assert table["image"].to_pylist() == [picture()]
    assert table["path"].to_pylist() == ["a/1.png"]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_texts_hold_images_in_base64(tmp_path, ending):
    target = UPath(tmp_path) / f"out.{ending}"
    with sinks.whole(target) as write:
        write(pa.table({"photo": [picture(), None], "n": [1, 2]}))
    wanted = base64.b64encode(picture()).decode()
    text = target.read_text()
    if ending == "csv":
        assert text.splitlines()[1:] == [f'"{wanted}",1', ",2"]
    else:
        assert [json.loads(line)["photo"] for line in text.splitlines()] == [wanted, None]


def test_an_endpoint_takes_an_image_in_every_way(exported):
    """In base64, as it is, and in a form: the same prediction; what is no image is refused."""
    opened, _, _ = exported
    app = Endpoint(
        "shop",
        runtime.Predictor(opened),
        Serve(auth="none"),
        gate=None,
        pages={},
        counters=Counters(),
        started=lambda: None,
        stopped=lambda: None,
    )

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            beside = "age" in [column.name for column in opened.manifest.schema.features]
            one = {"photo": base64.b64encode(picture()).decode(), **({"age": 3} if beside else {})}
            raw = {"content": picture(), "headers": {"content-type": "image/png"}}
            form = {"data": {"age": "3"} if beside else {}, "files": {"photo": picture()}}
            wrong = {**form, "files": {"photo": b"hello"}}
            bodies = ({"json": {"rows": [one]}}, form, raw, wrong)
            return [await client.post("/shop/predict", **body) for body in bodies]

    written, form, raw, wrong = asyncio.run(ask())
    assert written.status_code == form.status_code == 200
    assert form.json() == written.json()
    if len(opened.manifest.schema.features) == 1:
        assert raw.json() == written.json()
    else:  # an image alone has no age
        assert (raw.status_code, raw.json()["error"]["where"]) == (422, "rows[0].age")
    assert (wrong.status_code, wrong.json()["error"]["where"]) == (422, "rows[0].photo")


def test_the_probe_of_a_bundle_has_images(exported):
    opened, _, _ = exported
    asked = probe.of(opened)
    assert asked.columns["photo"].shape == (probe.COUNT, 6, 5, 3)
    assert len({image.tobytes() for image in asked.columns["photo"]}) > probe.COUNT // 2
    found = runtime.Predictor(opened).of_clean(asked.columns)
    np.testing.assert_allclose(found, asked.outputs, atol=1e-5)
