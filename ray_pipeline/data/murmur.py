"""MurmurHash3, 32 bit, of many texts at once.

Austin Appleby's MurmurHash3_x86_32 (public domain, github.com/aappleby/smhasher), which ONNX
Runtime's `MurmurHash3` and scikit-learn's FeatureHasher compute: so a graph can do it.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_FIRST, _SECOND = np.uint32(0xCC9E2D51), np.uint32(0x1B873593)


def hashes(texts: pa.Array) -> NDArray[np.uint32]:
    """The hash [N] of each text's UTF-8 bytes, with seed 0; of null, that of the empty text.

    Four bytes of every text are mixed at a time, for as long as there are texts that have more.
    """
    encoded = texts.cast(pa.large_string()).fill_null("")
    _, offsets_of, data = encoded.buffers()
    offsets = np.frombuffer(offsets_of, np.int64)[encoded.offset :][: len(encoded) + 1]
    content = np.frombuffer(data or b"", np.uint8)
    padded = np.concatenate([content, np.zeros(4, np.uint8)])
    starts, sizes = offsets[:-1], np.diff(offsets)
    state = np.zeros(len(encoded), np.uint32)
    rows = np.arange(len(encoded))
    for block in range(int(sizes.max(initial=0)) // 4):
        rows = rows[sizes[rows] >= 4 * (block + 1)]
        mixed = state[rows] ^ _scrambled(_word(padded, starts[rows] + 4 * block, 4))
        state[rows] = _rotated(mixed, 13) * np.uint32(5) + np.uint32(0xE6546B64)
    tails = sizes % 4
    for length in (1, 2, 3):
        rows = np.flatnonzero(tails == length)
        state[rows] ^= _scrambled(_word(padded, starts[rows] + sizes[rows] - length, length))
    return _finished(state ^ sizes.astype(np.uint32))


def _word(content: NDArray[np.uint8], at: NDArray[np.int64], length: int) -> NDArray[np.uint32]:
    """`length` bytes from each place on as one number, the first byte the lowest."""
    word = np.zeros(len(at), np.uint32)
    for place in range(length):
        word |= content[at + place].astype(np.uint32) << np.uint32(8 * place)
    return word


def _scrambled(word: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return _rotated(word * _FIRST, 15) * _SECOND


def _rotated(word: NDArray[np.uint32], by: int) -> NDArray[np.uint32]:
    return (word << np.uint32(by)) | (word >> np.uint32(32 - by))


def _finished(state: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Every input bit moves every output bit."""
    state = (state ^ (state >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    state = (state ^ (state >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return state ^ (state >> np.uint32(16))
