"""The images of requests, as the pixels that a bundle's graph reads."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from ray_pipeline.bundle import Manifest
from ray_pipeline.data.media import images
from ray_pipeline.data.media.pixels import Pixels, drawn, plain
from ray_pipeline.data.statistics import ImageStatistics
from ray_pipeline.errors import RequestError

REQUEST_PIXELS = 50_000_000
"""All images of a request together may have so many: a few kilobytes can declare gigabytes."""


def image_of(manifest: Manifest) -> ImageStatistics | None:
    """What the network knows of its image column, if it reads one."""
    found = (manifest.model.get("inputs") or {}).get("image")
    return ImageStatistics.model_validate(found) if found else None


def requested(texts: Sequence[str | None], image: ImageStatistics) -> list[Pixels]:
    """The pixels [H, W, C] of a request's images, each in base64 or None.

    Raises:
        RequestError: 422 no base64 or no image, and which row; 413 too many pixels.
    """
    found, total = [], 0
    for index, text in enumerate(texts):
        where = f"rows[{index}].{image.name}"
        if text is None:
            found.append(plain(image.filler, image.shape))
            continue
        try:
            opened = images.opened(_bytes(text, where))
            total += opened.width * opened.height
            if total > REQUEST_PIXELS:
                raise RequestError(
                    f"the images have more than {REQUEST_PIXELS:,} pixels together",
                    status=413,
                    code="too_large",
                    where=where,
                )
            found.append(drawn(opened, image.shape))
        except images.Unreadable as error:
            raise _unusable(str(error), where) from None
    return found


def _bytes(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:  # binascii's is one
        raise _unusable("not base64", where) from None


def _unusable(what: str, where: str) -> RequestError:
    expected = "an image file (JPEG, PNG, WebP, …) in base64"
    return RequestError(what, status=422, code="invalid_request", where=where, expected=expected)
