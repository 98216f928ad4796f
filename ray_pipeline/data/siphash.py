"""SipHash-2-4 of many short texts at once, in numpy.

The algorithm is that of Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012),
https://www.aumasson.jp/siphash/siphash.pdf. pandas has it too, and its import takes every worker
half a second.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

Words = NDArray[np.uint64]

_START = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)
_WORD = 8


def siphash(values: pa.Array, key: bytes) -> Words:
    """The hashes [N] of texts or bytes, none of them null, under a key of 16 bytes.

    All values advance together, a word of eight bytes at a time: meant for short ones.
    """
    data, begins, lengths = _laid_out(values)
    words = lengths // _WORD
    order = np.argsort(-words, kind="stable")  # those with a word left are always the first
    begins, lengths, words = begins[order], lengths[order], words[order]
    halves = np.frombuffer(key, "<u8")
    state = [
        np.full(len(order), np.uint64(start) ^ half, np.uint64)
        for start, half in zip(_START, np.tile(halves, 2), strict=True)
    ]
    for word in range(int(words.max(initial=0))):
        left = int(np.searchsorted(-words, -word))
        _absorb([part[:left] for part in state], _words(data, begins[:left] + _WORD * word))
    _absorb(state, _last_words(data, begins + _WORD * words, lengths))
    state[2] ^= np.uint64(0xFF)
    _rounds(state, 4)
    found = np.empty(len(order), np.uint64)
    found[order] = state[0] ^ state[1] ^ state[2] ^ state[3]
    return found


def _laid_out(
    values: pa.Array,
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """The bytes of all values, with a word of zeros behind; where each begins; its length."""
    wide = values.cast(pa.large_binary())
    _, offsets, data = wide.buffers()
    edges = np.frombuffer(offsets, np.int64, len(wide) + 1, 8 * wide.offset)
    held = np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8)
    return np.concatenate([held, np.zeros(_WORD, np.uint8)]), edges[:-1], np.diff(edges)


def _words(data: NDArray[np.uint8], places: NDArray[np.int64]) -> Words:
    """The eight bytes at each place as one number."""
    windows = as_strided(data, (len(data) - _WORD + 1, _WORD), (1, 1))
    found: Words = windows[places].reshape(-1).view("<u8").astype(np.uint64, copy=False)
    return found


def _last_words(
    data: NDArray[np.uint8], places: NDArray[np.int64], lengths: NDArray[np.int64]
) -> Words:
    """The bytes that do not fill a word, the length's lowest byte above them."""
    rest = (lengths % _WORD).astype(np.uint64)
    bits = np.uint64(8) * rest
    kept = (np.uint64(1) << bits) - np.uint64(1)
    size = lengths.astype(np.uint64) << np.uint64(56)
    found: Words = (_words(data, places) & kept) | size
    return found


def _absorb(state: list[Words], words: Words) -> None:
    state[3] ^= words
    _rounds(state, 2)
    state[0] ^= words


def _rounds(state: list[Words], count: int) -> None:
    """SipRound, in place."""
    a, b, c, d = state
    for _ in range(count):
        a += b
        c += d
        _turn(b, 13)
        _turn(d, 16)
        b ^= a
        d ^= c
        _turn(a, 32)
        c += b
        a += d
        _turn(b, 17)
        _turn(d, 21)
        b ^= c
        d ^= a
        _turn(c, 32)


def _turn(words: Words, bits: int) -> None:
    """Rotate to the left, in place."""
    low = words >> np.uint64(64 - bits)
    words <<= np.uint64(bits)
    words |= low
