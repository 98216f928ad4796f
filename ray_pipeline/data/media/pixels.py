"""Encoded images to pixels of one size: for training rows and for requests alike."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_pipeline.data.media import images
from ray_pipeline.data.media.extras import library

Pixels = NDArray[np.uint8]
Shape = tuple[int, int, int]
"""Height, width and channels: 1 for grey, 3 for red, green and blue."""

_SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def pixels(content: bytes, shape: Shape) -> Pixels:
    """An encoded image as [H, W, C]; of several images in one file, the first.

    Raises:
        Unreadable: the bytes are no image that can be used.
    """
    return drawn(images.opened(content), shape)


def drawn(image: Any, shape: Shape) -> Pixels:
    """An opened Pillow image as [H, W, C]: upright, stretched to `shape`, without transparency.

    A large JPEG is drawn at down to an eighth of its size, but no smaller than twice `shape`,
    before it is shrunk: that takes a third of the time.

    Raises:
        Unreadable: its pixels cannot be read.
    """
    pillow = library("PIL.Image", "media")
    height, width, channels = shape
    mode = "L" if channels == 1 else "RGB"
    side = 2 * max(height, width)  # of either side: the image may be lying
    image.draft(mode, (side, side))
    image = _eight_bits(_upright(images.loaded(image))).convert(mode)
    if image.size != (width, height):
        image = image.resize((width, height), pillow.Resampling.BILINEAR)
    return np.asarray(image, np.uint8).reshape(shape)


def stacked(contents: Iterable[bytes | None], shape: Shape, filler: Iterable[int]) -> Pixels:
    """Encoded images as [N, H, W, C]; one that is absent has the colour `filler` all over.

    Raises:
        Unreadable: one of them is no image that can be used.
    """
    absent = plain(filler, shape)
    found = [absent if content is None else pixels(content, shape) for content in contents]
    return np.stack(found) if found else np.empty((0, *shape), np.uint8)


def plain(colour: Iterable[int], shape: Shape) -> Pixels:
    """An image [H, W, C] of one colour."""
    return np.broadcast_to(np.array(list(colour), np.uint8), shape)


def png(picture: Pixels) -> bytes:
    """Pixels [H, W, C] as a PNG file."""
    pillow = library("PIL.Image", "media")
    with io.BytesIO() as buffer:
        planes = picture[:, :, 0] if picture.shape[2] == 1 else picture
        pillow.fromarray(np.ascontiguousarray(planes)).save(buffer, "PNG", optimize=True)
        return buffer.getvalue()


def _upright(image: Any) -> Any:
    """The image turned as its camera noted it was held."""
    try:
        return library("PIL.ImageOps", "media").exif_transpose(image)
    except images.DAMAGE:
        return image  # the note is damaged, its pixels are not


def _eight_bits(image: Any) -> Any:
    """Pillow would clip sixteen bits to eight, not scale them."""
    if image.mode not in _SIXTEEN_BITS:
        return image
    values = np.asarray(image).astype(np.int64) >> 8
    return library("PIL.Image", "media").fromarray(values.clip(0, 255).astype(np.uint8))
