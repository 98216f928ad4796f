"""Small documents, images and videos, and the rows that are read of them."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from ray_pipeline.data.connectors import connector
from ray_pipeline.job import Data, Source


def rows_of(url: Path | str, kind: str = "auto", **options: Any) -> list[dict[str, Any]]:
    """All rows of all pieces in order, without Ray."""
    data = Data(source=Source(url=str(url), **options), label="label", format=kind)
    found = connector(data.source, data)
    names = found.names(data.source, data)
    tables = [
        table
        for piece in found.pieces(data.source, data)
        for table in found.tables(piece, data, names)
    ]
    assert all(table.column_names[: len(names)] == names for table in tables)
    return [row for table in tables for row in table.to_pylist()]


def picture(seed: int, width: int = 32, height: int = 24) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, form: str = "JPEG") -> bytes:
    with io.BytesIO() as buffer:
        image.save(buffer, form)
        return buffer.getvalue()


def video_in(
    path: Path, frames: int, codec: str = "libx264", gop: int = 12, rate: int = 25, **options: str
) -> Path:
    """A video whose frames say their number, by a bar that is so many pixels long and moves."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 160, 64, "yuv420p"
        stream.time_base = Fraction(1, rate)
        stream.codec_context.gop_size = gop
        stream.options = options
        for number in range(frames):
            pixels = np.zeros((64, 160, 3), np.uint8)
            pixels[:, number % 160] = 255
            pixels[number % 64, :] = 200
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def plain_frames(path: Path) -> list[tuple[float, bytes]]:
    """Each frame's time and pixels, by a plain PyAV loop."""
    with av.open(str(path)) as container:
        return [
            (frame.time, frame.to_ndarray(format="rgb24").tobytes())
            for frame in container.decode(video=0)
        ]
