"""What image columns teach, against NumPy over all pixels."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from media.media_files import encoded, picture

from ray_pipeline.data.encoders import image
from ray_pipeline.data.media.pixels import pixels
from ray_pipeline.errors import DataError
from ray_pipeline.job.features import ColumnFeatures


def column(*seeds: int) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array([encoded(picture(s), "PNG") for s in seeds], pa.binary())])


def test_mean_and_deviation_are_those_of_all_pixels_in_any_parts():
    shape = (8, 6, 3)
    whole = column(*range(7))
    parts = [whole.slice(0, 3), whole.slice(3)]
    found = image.colours(parts[0], shape).merged(image.colours(parts[1], shape))
    fitted = image.fitted("photo", found, shape)
    every = np.stack([pixels(value.as_py(), shape) for value in whole])
    assert np.allclose(fitted.mean, every.mean((0, 1, 2)))
    assert np.allclose(fitted.deviation, every.std((0, 1, 2)))
    assert fitted.shape == shape


def test_absent_images_are_counted_and_filled():
    values = pa.chunked_array([pa.array([None, encoded(picture(1), "PNG"), None], pa.binary())])
    fitted = image.fitted("photo", image.colours(values, (4, 4, 1)), (4, 4, 1))
    assert fitted.missing == 2
    found = image.encoding(fitted)(values)
    assert found.shape == (3, 4, 4, 1)
    assert (found[0] == round(fitted.mean[0])).all()


def test_a_large_file_is_sampled_evenly(monkeypatch):
    monkeypatch.setattr(image, "SAMPLE", 3)
    found = image.colours(column(*range(8)), (2, 2, 1))
    every_third = image.colours(pa.chunked_array([column(0, 3, 6).combine_chunks()]), (2, 2, 1))
    assert found.pixels == 3 * 4
    assert (found.sums == every_third.sums).all()


def test_no_image_and_one_colour_divide_by_nothing():
    nothing = pa.chunked_array([pa.array([None], pa.binary())])
    fitted = image.fitted("photo", image.colours(nothing, (2, 2, 3)), (2, 2, 3))
    assert fitted.deviation == (1.0, 1.0, 1.0)
    assert image.encoding(fitted)(pa.chunked_array([pa.array([], pa.binary())])).shape[0] == 0


def test_what_cannot_be_decoded_is_an_error_of_the_data():
    broken = pa.chunked_array([pa.array([b"hello"], pa.binary())])
    with pytest.raises(DataError, match="not an image"):
        image.colours(broken, (2, 2, 3))


def test_the_settings_give_the_shape():
    assert image.shape_of(ColumnFeatures(size=(4, 5), channels=1)) == (4, 5, 1)
    with pytest.raises(ValueError, match="settings of a image and of a text"):
        ColumnFeatures(size=(4, 5), terms=3)
