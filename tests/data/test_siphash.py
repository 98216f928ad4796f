"""SipHash beside pandas' own, and the algorithm's published values."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline.data import hashing
from ray_pipeline.data.siphash import siphash


def test_published_values():
    """Of the reference implementation: the bytes 0, 1, 2 … under the key 0 … 15."""
    published = {0: 0x726FDB47DD0E0E31, 1: 0x74F839C593DC67FD, 8: 0x93F5F5799A932462}
    published[15] = 0xA129CA6149BE45E5  # the example of the paper
    values = pa.array([bytes(range(length)) for length in published], pa.binary())
    assert siphash(values, bytes(range(16))).tolist() == list(published.values())


@given(st.lists(st.text(max_size=60)), st.integers(0, 10**12 - 1), st.integers(0, 3))
def test_texts_hash_as_pandas_hashes_them(texts, seed, start):
    values = pa.array(texts, pa.string()).slice(start)
    key = f"rows{seed:012d}"
    expected = pd.util.hash_array(
        np.array(values.to_pylist(), object), hash_key=key, categorize=False
    )
    assert hashing._of_short(values, key).tolist() == expected.tolist()


@pytest.mark.parametrize("kind", [pa.string(), pa.binary()])
def test_short_and_long_values_hash_alike(kind):
    values = pa.array(["a" * length for length in (0, 1, 63, 64, 65, 700)]).cast(kind)
    key = f"rows{0:012d}"
    short, long = hashing._of_short(values, key), hashing._of_long(values, key)
    assert short.tolist() == long.tolist()
