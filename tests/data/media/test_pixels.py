"""Pixels of one size, against Pillow's own steps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_files import encoded, picture
from PIL import Image, ImageOps

from ray_pipeline.data.media import images
from ray_pipeline.data.media.pixels import pixels, plain, png, stacked


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_of_the_size_is_as_it_was(channels):
    image = picture(3, 20, 10).convert("L" if channels == 1 else "RGB")
    found = pixels(encoded(image, "PNG"), (10, 20, channels))
    assert found.dtype == np.uint8
    assert (found == np.asarray(image).reshape(10, 20, channels)).all()


def test_other_sizes_are_stretched_as_pillow_does():
    image = picture(4, 50, 30)
    wanted = np.asarray(image.resize((12, 16), Image.Resampling.BILINEAR))
    assert (pixels(encoded(image, "PNG"), (16, 12, 3)) == wanted).all()


def test_a_large_jpeg_is_drawn_small_and_looks_the_same():
    shades = np.linspace(0, 255, 800).astype(np.uint8)
    image = Image.fromarray(np.broadcast_to(shades, (600, 800)).copy())
    wanted = np.asarray(image.resize((32, 24), Image.Resampling.BILINEAR), int)
    found = pixels(encoded(image), (24, 32, 1))[:, :, 0]
    assert np.abs(found - wanted).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_was_held_askew_is_turned(orientation):
    image = picture(5, 16, 16)
    exif = Image.Exif()
    exif[0x0112] = orientation
    from io import BytesIO

    buffer = BytesIO()
    image.save(buffer, "PNG", exif=exif)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(buffer.getvalue()))))
    assert (pixels(buffer.getvalue(), (16, 16, 3)) == wanted).all()


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    found = pixels(encoded(Image.fromarray(values), "PNG"), (16, 16, 1))
    assert (found[:, :, 0] == values >> 8).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_pixel_becomes_grey_or_colours(mode, channels):
    assert pixels(encoded(Image.new(mode, (8, 8)), "PNG"), (4, 4, channels)).shape[2] == channels


def test_colours_that_are_not_known_are_a_fault():
    with pytest.raises(images.Unreadable, match="colours are not known, found LAB"):
        pixels(encoded(Image.new("LAB", (8, 8)), "TIFF"), (4, 4, 3))


def test_postscript_is_never_given_to_a_program():
    with pytest.raises(images.Unreadable, match="not an image"):
        pixels(encoded(picture(1), "EPS"), (4, 4, 3))


def test_an_absent_image_has_the_fillers_colour():
    found = stacked([None, encoded(picture(1, 4, 4), "PNG")], (4, 4, 3), (1, 2, 3))
    assert (found[0] == [1, 2, 3]).all()
    assert (found[1] == np.asarray(picture(1, 4, 4))).all()
    assert stacked([], (4, 4, 3), (0, 0, 0)).shape == (0, 4, 4, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_holds_the_pixels(channels):
    colour = plain(range(channels), (5, 6, channels))
    assert (pixels(png(colour), colour.shape) == colour).all()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_what_cleaning_lets_pass_has_pixels(data):
    """Whatever the damage: cleaning finds it, or there are pixels to train on."""
    form = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"]))
    content = bytearray(encoded(picture(2), form))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if images.fault(bytes(content)) is None:
        assert pixels(bytes(content), (8, 8, 3)).shape == (8, 8, 3)
