from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_pipeline.data.matrices import matrices, pictures


def test_tokens_are_padded_to_the_longest():
    lists = pa.chunked_array([[[1, 2, 3], []], [[4]]], pa.list_(pa.int32()))
    found = matrices(pa.table({"tokens": lists, "label": [0, 1, 0]}))
    assert set(found) == {"tokens", "label"}
    assert found["tokens"].tolist() == [[1, 2, 3], [-1, -1, -1], [4, -1, -1]]


def test_images_keep_their_shape_through_a_file_and_a_slice(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 2), np.uint8)
    pq.write_table(pa.table({"image": pictures(pixels), "label": range(5)}), tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    np.testing.assert_array_equal(matrices(table)["image"], pixels)
    np.testing.assert_array_equal(matrices(table.slice(2, 2))["image"], pixels[2:4])


def test_a_table_beside_a_text_has_numbers_and_categories():
    lists = pa.array([[1], [2]], pa.list_(pa.int32()))
    numbers = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0], pa.float32()), 1)
    found = matrices(pa.table({"tokens": lists, "numbers": numbers}))
    assert found["numbers"].tolist() == [[1.0], [2.0]]
    assert found["categories"].shape == (2, 0)
