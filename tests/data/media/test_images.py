"""Images of every condition, against Pillow's own reading."""

from __future__ import annotations

import struct
import zlib

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_files import encoded, picture, rows_of

from ray_pipeline.data.media import images


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_bytes_as_found_and_size(tmp_path, form):
    content = encoded(picture(1), form)
    name = {"JPEG": "a.jpg", "TIFF": "a.tif"}.get(form, f"a.{form.lower()}")
    (tmp_path / name).write_bytes(content)
    (row,) = rows_of(tmp_path, "images")
    assert (row["image"], row["width"], row["height"]) == (content, 32, 24)
    assert row["_error"] is None


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_an_image_cut_in_half_is_a_fault(form):
    content = encoded(picture(1, 200, 200), form)
    cut = content[: len(content) // 2]
    whole, half, nothing = images.faults(pa.chunked_array([[content, cut, None]])).to_pylist()
    assert whole is None
    assert nothing is None
    assert half.startswith(("the image is cut off or damaged, found '", "not an image"))


def test_a_jpeg_without_its_last_bytes_is_a_fault():
    content = encoded(picture(1, 200, 200))
    (fault,) = images.faults(pa.chunked_array([[content[:-100]]])).to_pylist()
    assert fault.startswith("the image is cut off or damaged")


def test_what_is_no_image_says_so(tmp_path):
    (tmp_path / "text.jpg").write_bytes(b"hello")
    (tmp_path / "zero.jpg").write_bytes(b"")
    (tmp_path / "wrong.jpg").write_bytes(encoded(picture(1), "PNG"))
    (tmp_path / "bomb.png").write_bytes(bomb())
    found = {row["path"]: row["_error"] for row in rows_of(tmp_path, "images")}
    assert found["text.jpg"] == "not an image"
    assert found["zero.jpg"] == "the file is empty"
    assert found["wrong.jpg"] == "the extension is wrong, found PNG"
    assert found["bomb.png"].startswith("the image is too large, found ")


def bomb() -> bytes:
    """A PNG of a few bytes that declares 60,000 × 60,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        sum_ = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", sum_)

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damage_is_a_fault_or_an_image(data):
    """Never another exception, whatever the bytes."""
    form = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"]))
    content = bytearray(encoded(picture(2), form))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(content[: data.draw(st.integers(1, len(content)))])
    (fault,) = images.faults(pa.chunked_array([pa.array([cut], pa.binary())])).to_pylist()
    assert fault is None or fault.startswith(("not an image", "the image is"))
