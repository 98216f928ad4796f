"""The numbers of a picture against NumPy's means."""

from __future__ import annotations

import numpy as np
import pytest
from media_files import picture
from PIL import Image, ImageFilter

from ray_pipeline.data.media.thumbnail import columns, thumbnail


def test_means_of_cells():
    image = picture(1, 32, 24)
    found = thumbnail(image, 4)
    assert list(found) == columns(4)
    cells = np.asarray(image, float).reshape(4, 6, 4, 8, 3).mean(axis=(1, 3)) / 255
    means = [found[name] for name in columns(4)[:-1]]
    assert means == pytest.approx(cells.ravel().tolist(), abs=1 / 255)
    assert found["blue_2_3"] == pytest.approx(cells[1, 2, 2], abs=1 / 255)


def test_edges_fall_with_blur():
    image = picture(1, 64, 64)
    assert (
        thumbnail(image.filter(ImageFilter.GaussianBlur(3)), 1)["edges"]
        < 0.3 * (thumbnail(image, 1)["edges"])
    )
    assert thumbnail(Image.new("RGB", (9, 9), "red"), 1) == {
        "red_1_1": 1.0,
        "green_1_1": 0.0,
        "blue_1_1": 0.0,
        "edges": 0.0,
    }
    assert thumbnail(Image.new("L", (1, 1)), 2)["edges"] == 0.0
