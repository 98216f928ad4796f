"""Image files: their bytes as they are, or the thumbnail; and whether bytes are an image."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from upath import UPath

from ray_pipeline.data.media.documents import Found
from ray_pipeline.data.media.extras import library
from ray_pipeline.data.media.found import extension
from ray_pipeline.data.media.thumbnail import thumbnail
from ray_pipeline.job import Source

MAX_PIXELS = 100_000_000
"""Larger images are not decoded: a few kilobytes can declare gigabytes of pixels."""

_TOO_LARGE = "the image is too large"
_DAMAGED = "the image is cut off or damaged"
DAMAGE = (OSError, SyntaxError, ValueError, IndexError, EOFError, TypeError, struct.error)
"""What Pillow's decoders raise, by format, on bytes that are cut off or damaged."""
_EXTENSIONS = {
    ".jpg": {"JPEG", "MPO"},
    ".jpeg": {"JPEG", "MPO"},
    ".png": {"PNG"},
    ".gif": {"GIF"},
    ".bmp": {"BMP"},
    ".webp": {"WEBP"},
    ".tif": {"TIFF"},
    ".tiff": {"TIFF"},
    ".ppm": {"PPM"},
    ".pgm": {"PPM"},
}
FORMATS = tuple(sorted(set().union(*_EXTENSIONS.values()) - {"MPO"}))
"""What is decoded; MPO begins as a JPEG. Pillow knows others, of which some start programs."""
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I"})
"""Kinds of pixels that become grey or colours; of sixteen bits there are several spellings."""


class Unreadable(Exception):
    """The bytes are no image that can be used; the message says why."""


def image_rows(path: UPath, source: Source) -> Iterator[Found]:
    """One row a file: `width`, `height` in pixels, and `image` or the thumbnail's numbers."""
    content = path.read_bytes()
    try:
        # Cleaning reads the pixels of whole images, wherever they come from.
        image = decoded(content) if source.thumbnail else opened(content)
    except Unreadable as error:
        yield 1, str(error)
        return
    if image.format not in _EXTENSIONS.get(extension(path.name), {image.format}):
        yield 1, f"the extension is wrong, found {image.format}"
        return
    shown: dict[str, Any] = {"image": content}
    if source.thumbnail:
        shown = thumbnail(image, source.thumbnail)
    yield 1, {"width": image.width, "height": image.height, **shown}


def opened(content: bytes) -> Any:
    """The Pillow image, its header read, its pixels not yet. Raises Unreadable."""
    pillow = library("PIL.Image", "media")
    try:
        image = pillow.open(io.BytesIO(content), formats=FORMATS)
    except pillow.UnidentifiedImageError:
        raise Unreadable("not an image") from None
    except pillow.DecompressionBombError as error:
        raise Unreadable(f"{_TOO_LARGE}, found '{error}'") from None
    except DAMAGE as error:
        raise Unreadable(f"{_DAMAGED}, found '{error}'") from None
    if image.width * image.height > MAX_PIXELS:
        raise Unreadable(f"{_TOO_LARGE}, found {image.width} × {image.height} pixels")
    if image.mode not in _MODES and not image.mode.startswith("I;16"):
        raise Unreadable(f"the image's colours are not known, found {image.mode}")
    return image


def decoded(content: bytes) -> Any:
    """The Pillow image (the first, of several) with its pixels read. Raises Unreadable."""
    return loaded(opened(content))


def loaded(image: Any) -> Any:
    """An opened image with its pixels read. Raises Unreadable."""
    try:
        image.load()
    except DAMAGE as error:
        raise Unreadable(f"{_DAMAGED}, found '{error}'") from None
    return image


def faults(images: pa.ChunkedArray) -> pa.Array:
    """Why each of `images` (bytes) cannot be decoded, null for those that can, and for null."""
    return pa.array([fault(image.as_py()) for image in images], pa.string())


def fault(content: bytes | None) -> str | None:
    """Why an image cannot be decoded, None if it can."""
    if content is None:
        return None
    try:
        image = opened(content)
        # A JPEG is read whole but drawn small, which takes a third of the time.
        image.draft(image.mode, (image.width // 8, image.height // 8))
        loaded(image)
    except Unreadable as error:
        return str(error)
    return None
