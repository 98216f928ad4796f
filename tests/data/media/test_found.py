"""Which files there are, and what they are labelled."""

from __future__ import annotations

import fsspec
import pytest
from media_files import encoded, picture, rows_of

from ray_pipeline.errors import DataError


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for number, name in enumerate(["cat/1.png", "cat/deep/2.png", "dog/3.PNG", "4.png"]):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(number), "PNG"))
    for name in ("notes.md", ".hidden.png", "_tmp/5.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def labels_of(url, kind="images", **options):
    return {row["path"]: row["label"] for row in rows_of(url, kind, **options)}


def test_a_folder_names_its_files_class(photos):
    found = {"4.png": "4", "cat/1.png": "cat", "cat/deep/2.png": "deep", "dog/3.PNG": "dog"}
    assert labels_of(photos) == found
    assert labels_of(photos / "cat" / "1.png") == {"1.png": "1"}
    assert labels_of(f"{photos}/*/*.*") == {
        "cat/1.png": "cat",
        "dog/3.PNG": "dog",
        "_tmp/5.png": "_tmp",
    }


def test_any_fsspec_file_system(photos):
    memory = fsspec.filesystem("memory")
    memory.pipe("/photos/cat/1.png", (photos / "cat" / "1.png").read_bytes())
    assert labels_of("memory://photos", "images", thumbnail=1) == {"cat/1.png": "cat"}


def test_a_table_of_labels(photos, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("label,path,size\nA,cat/1.png,3\nB,4.png,4\nB,gone.png,5\n")
    rows = {row["path"]: row for row in rows_of(photos, "images", labels=str(table))}
    assert {name: (row["label"], row["size"]) for name, row in rows.items()} == {
        "cat/1.png": ("A", "3"),
        "4.png": ("B", "4"),
        "gone.png": ("B", "5"),
        "cat/deep/2.png": (None, None),
        "dog/3.PNG": (None, None),
    }
    assert rows["gone.png"]["_error"] == "there is no such file"
    assert rows["4.png"]["_error"] is None


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("path,label\na.png,1\na.png,2\n", "stands twice"),
        ("path,label\na.png\n", "row 2 has 1 fields"),
        ("path\na.png\n", "too few columns"),
        ("path,label,label\na.png,1,1\n", "two columns"),
        ('path,label\n"a.png,1\n', "cannot be read"),
    ],
)
def test_a_table_that_cannot_be_used(photos, tmp_path, table, message):
    path = tmp_path / "labels.csv"
    path.write_text(table)
    with pytest.raises(DataError, match=message) as raised:
        rows_of(photos, "images", labels=str(path))
    assert raised.value.where == str(path)


def test_nothing_to_read(tmp_path):
    with pytest.raises(DataError, match="there are no images files") as raised:
        rows_of(tmp_path, "images")
    assert ".jpg" in raised.value.expected
    with pytest.raises(DataError, match="no such file"):
        rows_of(tmp_path, "images", labels=str(tmp_path / "labels.csv"))
