"""Images and frames through collecting, cleaning and splitting, in Ray."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from media_files import encoded, picture, rows_of, video_in
from upath import UPath

from ray_pipeline.data import clean, collect, features, parts, split
from ray_pipeline.data.media import spans
from ray_pipeline.errors import DataError
from ray_pipeline.job import Data, Source

pytestmark = pytest.mark.usefixtures("ray_cluster")


def folder(parent, name) -> UPath:
    path = UPath(parent) / name
    path.mkdir()
    return path


def rows_in(path: UPath):
    tables = [parts.read(file) for file in parts.files(path)]
    return [row for table in tables for row in table.to_pylist()]


def data_of(url, kind, **settings) -> Data:
    options = settings.pop("source", {})
    source = Source(url=str(url), **options)
    return Data(**{"source": source, "format": kind, "label": "label", **settings})


def test_images_reach_the_sides_of_the_split(tmp_path):
    photos, wanted = tmp_path / "photos", {}
    for number in range(60):
        path = photos / ("cat" if number % 2 else "dog") / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(number)))
        wanted[f"{path.parent.name}/{path.name}"] = path.read_bytes()
    for name, content in broken().items():
        (photos / "dog" / name).write_bytes(content)
    data = data_of(photos, "images", clean={"max_quarantined": 0.5})
    schema = collect.schema(data)
    assert [(c.name, c.role) for c in schema if c.role != "ignore"] == [
        ("label", "label"),
        ("image", "feature"),
    ]
    record = clean.write(data, schema, folder(tmp_path, "clean"))
    assert (record["rows_in"], record["rows_out"], record["rows_quarantined"]) == (63, 60, 3)
    assert set(record["quarantine"]) == {
        "the image is cut off or damaged",
        "the file is empty",
        "not an image",
    }
    aside = rows_in(UPath(tmp_path / "clean" / "quarantine"))
    assert {UPath(row["source"]).name for row in aside} == set(broken())

    split.write(UPath(tmp_path / "clean"), data, schema, folder(tmp_path, "split"))
    found = [row for side in split.SIDES for row in rows_in(UPath(tmp_path / "split" / side))]
    assert {row["path"]: row["image"] for row in found} == wanted
    assert all(row["label"] == row["path"].partition("/")[0] for row in found)
    assert len(found) == 60
    out = folder(tmp_path, "features")
    prepared = features.write(UPath(tmp_path / "split"), data, schema, out)
    pixels, held_out = (features.read_matrix(out / s)["image"] for s in ("train", "validation"))
    assert prepared["rows_out"] == len(pixels) + len(held_out)
    assert (pixels.dtype, pixels.ndim, pixels.shape[3]) == (np.uint8, 4, 3)


def broken() -> dict[str, bytes]:
    content = encoded(picture(99, 100, 100))
    return {"cut.jpg": content[: len(content) // 2], "empty.jpg": b"", "text.jpg": b"hello"}


def test_images_in_a_column_of_parquet(tmp_path):
    good, label = [encoded(picture(number)) for number in range(8)], ["a", "b"] * 5
    table = pa.table({"photo": [*good, good[0][:200], b"x"], "label": label})
    pq.write_table(table, tmp_path / "rows.parquet")
    data = data_of(
        tmp_path / "rows.parquet",
        "parquet",
        columns={"photo": "image"},
        clean={"max_quarantined": 0.5},
    )
    schema = collect.schema(data)
    record = clean.write(data, schema, folder(tmp_path, "clean"))
    assert (record["rows_out"], record["rows_quarantined"]) == (8, 2)
    assert {row["photo"] for row in rows_in(UPath(tmp_path / "clean" / "rows"))} == set(good)


def test_equal_images_fall_on_one_side(tmp_path):
    for number in range(40):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(number // 4), "PNG"))
    data = data_of(tmp_path / "photos", "images")
    schema = collect.schema(data)
    clean.write(data, schema, folder(tmp_path, "clean"))
    split.write(UPath(tmp_path / "clean"), data, schema, folder(tmp_path, "split"))
    sides = [
        {row["image"] for row in rows_in(UPath(tmp_path / "split" / side))} for side in split.SIDES
    ]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert len(set.union(*sides)) == 10


def test_tasks_share_a_long_video(tmp_path, monkeypatch):
    path = video_in(tmp_path / "long.mp4", 240, preset="veryfast")
    options = {"thumbnail": 2, "frames_per_second": 10, "segment_seconds": 2.0}
    whole = rows_of(path, **options)
    monkeypatch.setattr(spans, "SPAN_BYTES", path.stat().st_size // 5)
    data = data_of(path, "video", source=options)
    schema = collect.schema(data)
    pieces = collect.connector(data.source, data).pieces(data.source, data)
    assert len(pieces) > 2
    dataset = collect.rows(data.source, data, schema)
    rows = sorted(parts.executed(dataset.take_all), key=lambda row: row["_row"])
    assert rows == [{name: row[name] for name in rows[0]} for row in whole]
    assert len(rows) == 96


def test_the_rows_follow_the_files(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    data = data_of(tmp_path, "text")
    before = collect.fingerprint(data)
    assert collect.fingerprint(data) == before
    path.write_text("other")
    assert collect.fingerprint(data) != before


def test_kinds_of_a_table_of_labels(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.png").write_bytes(encoded(picture(1), "PNG"))
    (tmp_path / "labels.csv").write_text("file,label,weight\n1.png,3,0.5\n2.png,4,0.7\n")
    data = data_of(tmp_path / "photos", "images", source={"labels": str(tmp_path / "labels.csv")})
    kinds = {column.name: column.kind for column in collect.schema(data)}
    assert kinds["weight"] == "number"
    assert kinds["label"] == "category"  # few whole numbers are classes
    with pytest.raises(DataError, match="no column is called `nothing`"):
        collect.schema(data.model_copy(update={"label": "nothing"}))


def test_pictures_are_read_again_as_they_were(tmp_path):
    from PIL import Image

    path = video_in(tmp_path / "clip.mp4", 5)
    frame = rows_of(path)[3]
    assert Image.open(io.BytesIO(frame["image"])).size == (160, 64)
