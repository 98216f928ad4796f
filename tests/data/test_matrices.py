"""Prepared columns to arrays, as they are and as they are stored."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ray_pipeline.data.matrices import matrices, packed, pictures, row_bytes


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


def test_packed_rows_are_the_same_arrays_through_a_file_a_slice_and_chunks(tmp_path):
    numbers = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    codes = np.arange(12, dtype=np.int32).reshape(6, 2)
    lists = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])
        for name, matrix in (("numbers", numbers), ("categories", codes))
    }
    plain = pa.table(lists | {"label": range(6)})
    pq.write_table(packed(plain), tmp_path / "a.parquet", row_group_size=4)
    stored = pq.read_table(tmp_path / "a.parquet")
    whole = pa.concat_tables([stored.slice(1, 2), packed(plain.slice(3, 3))])
    for table, rows in ((plain, slice(None)), (stored, slice(None)), (whole, slice(1, 6))):
        found = matrices(table)
        np.testing.assert_array_equal(found["numbers"], numbers[rows])
        np.testing.assert_array_equal(found["categories"], codes[rows])
    assert row_bytes(stored.schema) == row_bytes(plain.schema) == 3 * 4 + 2 * 4 + 8


def test_a_matrix_of_no_width_is_not_stored():
    nothing = pa.Array.from_buffers(
        pa.list_(pa.int32(), 0), 2, [None], children=[pa.array([], pa.int32())]
    )
    table = pa.table({"numbers": pa.array([[1.0], [2.0]], pa.list_(pa.float32(), 1))})
    stored = packed(table.append_column("categories", nothing))
    assert stored.column_names == ["numbers"]
    assert matrices(stored)["categories"].shape == (2, 0)
