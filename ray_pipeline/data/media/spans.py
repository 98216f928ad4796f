"""A video's parts between key frames, so that several tasks share one long video.

A part is decoded from its key frame to the frame that the next part begins with. The timestamps of
all packets are read first, without decoding: sorted, they number the frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from ray_pipeline.data.media.extras import library

SPAN_BYTES = 4 << 20
"""Compressed bytes of a part, or more; videos of less than two parts are not parted."""


@dataclass(frozen=True, eq=False)
class Span:
    """The frames with timestamps in [start, end), in the stream's time base; None is no bound.

    `first` is how many frames come before it, and `before` when the last of those is shown, in
    seconds; `times` [F] are the timestamps in rising order, None where packets carry none.
    """

    start: int | None = None
    end: int | None = None
    first: int = 0
    before: float | None = None
    times: NDArray[np.int64] | None = None

    def rank(self, pts: int | None) -> int | None:
        """How many frames of the video are before a timestamp; None if that is not known."""
        if self.times is None or pts is None:
            return None
        return self.first + int(np.searchsorted(self.times, pts))


def spans(path: UPath, size: float = math.inf) -> list[Span]:
    """The video's parts of `size` compressed bytes or more; one where it cannot be parted.

    That is a video which cannot be read (whoever decodes it says why), or without timestamps.
    """
    av = library("av", "media")
    try:
        with path.open("rb") as file, av.open(file, metadata_errors="ignore") as container:
            if not container.streams.video:
                return [Span()]
            stream = container.streams.video[0]
            packets = [
                (packet.pts, packet.size, packet.is_keyframe)
                for packet in container.demux(stream)
                if packet.size and not packet.is_discard
            ]
            return _parted(packets, seconds_of(stream), size)
    except (av.FFmpegError, OSError):
        return [Span()]


def _parted(packets: list[tuple[Any, int, bool]], seconds: Any, size: float) -> list[Span]:
    if not packets or any(pts is None for pts, _, _ in packets):
        return [Span()]
    order = np.sort(np.array([pts for pts, _, _ in packets], np.int64))
    starts = [None, *_starts(packets, size)]
    found = []
    for start, end in zip(starts, [*starts[1:], None], strict=True):
        first = 0 if start is None else int(np.searchsorted(order, start))
        last = len(order) if end is None else int(np.searchsorted(order, end))
        before = seconds(int(order[first - 1])) if first else None
        found.append(Span(start, end, first, before, order[first:last]))
    return found


def _starts(packets: list[tuple[int, int, bool]], size: float) -> Iterator[int]:
    """Timestamps of key frames with at least `size` bytes between each and the one before."""
    held, latest = 0, packets[0][0]
    for pts, weight, key in packets:
        if key and held >= size and pts > latest:
            yield pts
            held, latest = 0, pts
        held += weight


def seconds_of(stream: Any) -> Any:
    """A function from a timestamp of the stream to seconds since the stream's start."""
    start, base = stream.start_time or 0, float(stream.time_base)
    return lambda pts: (pts - start) * base
