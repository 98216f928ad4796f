"""One job, from small pictures in a table to an endpoint that is sent pictures."""

from __future__ import annotations

import base64
import io
import json

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

JOB = """
name: shapes
storage: storage
data:
  source: pictures.parquet
  label: shape
  columns: {{picture: image}}
  features:
    columns:
      picture: {{size: [8, 8], channels: 1}}
model: {{name: cnn, width: 16, depth: 1, dropout: 0}}
train: {{epochs: 6, batch_size: 32, learning_rate: 0.02, augment: {{flip: true, shift: 0.15}}}}
evaluate: {{bootstrap: 0, gates: {{accuracy: {{min: 0.95}}}}}}
compress: {{int8: never}}
serve: {{port: {port}, replicas: {{min: 1, max: 1}}, cpus: 0.2}}
"""


def picture(shape: str, seed: int, form: str = "PNG") -> bytes:
    """A bar on noise, 10 × 12 pixels: the job makes them smaller."""
    drawn = np.random.default_rng(seed)
    pixels = drawn.integers(0, 60, (10, 12), np.uint8)
    at = drawn.integers(3, 7)
    if shape == "lying":
        pixels[at : at + 2] = 255
    else:
        pixels[:, at : at + 2] = 255
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, form)
        return file.getvalue()


@pytest.fixture(scope="module")
def ran(tmp_path_factory, site):
    """The job's result, its folder, and where it answers."""
    folder = tmp_path_factory.mktemp("shapes")
    shapes = ["lying", "standing"] * 200
    pictures = [picture(shape, seed) for seed, shape in enumerate(shapes)]
    pictures[7] = pictures[7][:40]  # cut off
    pq.write_table(pa.table({"picture": pictures, "shape": shapes}), folder / "pictures.parquet")
    (folder / "job.yaml").write_text(JOB.format(port=site.port))
    broken = "data.clean.max_quarantined=0.01"
    printed = site.command(folder, "run", "job.yaml", "--set", broken, "--json")
    return json.loads(printed.splitlines()[-1]), folder, site


def asked(ran, *contents: bytes | None) -> httpx.Response:
    rows = [{"picture": c and base64.b64encode(c).decode()} for c in contents]
    result, _, site = ran
    return httpx.post(result["endpoint"], json={"rows": rows}, headers={"X-API-Key": site.key})


def test_the_broken_picture_is_set_aside_and_the_rest_learned_from(ran):
    stages = {stage["name"]: stage for stage in ran[0]["stages"]}
    assert stages["clean"]["rows_quarantined"] == 1
    assert ran[0]["metrics"]["accuracy"] >= 0.95


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP"])
def test_the_endpoint_is_sent_pictures(ran, form):
    answer = asked(ran, picture("lying", 900, form), picture("standing", 901, form))
    assert answer.status_code == 200, answer.text
    assert [row["label"] for row in answer.json()["predictions"]] == ["lying", "standing"]


def test_a_broken_picture_is_refused_by_its_row(ran):
    answer = asked(ran, picture("lying", 900), picture("lying", 901)[:40])
    assert answer.status_code == 422
    assert answer.json()["error"]["where"] == "rows[1].picture"
    assert asked(ran, None).status_code == 200


def test_the_example_that_is_shown_is_answered(ran):
    root = ran[0]["endpoint"].removesuffix("/predict")
    described = httpx.get(f"{root}/openapi.json").json()
    schemas = described["components"]["schemas"]
    (example,) = schemas["Row"]["properties"]["picture"]["examples"]
    assert asked(ran, base64.b64decode(example)).status_code == 200
    assert 'type="file"' in httpx.get(f"{root}/").text


def test_files_are_predicted_in_bulk_as_the_endpoint_does(ran):
    result, folder, site = ran
    wanted = ["lying", "standing", "standing"]
    contents = [picture(shape, 800 + i) for i, shape in enumerate(wanted)]
    table = pa.table({"picture": [*contents, b"no picture"]})
    pq.write_table(table, folder / "new.parquet")
    site.command(folder, "predict", result["bundle"], "new.parquet", "-o", "out.parquet")
    found = pq.read_table(folder / "out.parquet")
    assert found["prediction"].to_pylist() == wanted
    answers = asked(ran, *contents).json()["predictions"]
    chances = [answer["probability"] for answer in answers]
    assert np.allclose(found["probability"].to_numpy(), chances, atol=1e-5)
    aside = pq.read_table(folder / "out.parquet.quarantine.parquet")
    assert aside["reason"].to_pylist() == ["not an image"]
