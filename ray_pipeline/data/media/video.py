"""Videos as rows of frames, at a chosen rate."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from itertools import chain
from typing import Any

from upath import UPath

from ray_pipeline.data.media import spans
from ray_pipeline.data.media.documents import Found
from ray_pipeline.data.media.extras import library
from ray_pipeline.data.media.images import MAX_PIXELS
from ray_pipeline.data.media.spans import Span, seconds_of
from ray_pipeline.data.media.thumbnail import thumbnail
from ray_pipeline.job import Source

QUALITY = 90
"""Of the JPEG images, in Pillow's scale."""
_TINY = 1e-6  # seconds times rate: a frame due at a slot's start is in it, whatever the rounding


def frame_rows(path: UPath, source: Source, span: Span | None = None) -> Iterator[Found]:
    """The frames of a span: `frame`, `seconds`, `segment`, `width`, `height`, and `image` or the
    thumbnail's numbers.

    Numbers count the video's frames, shown or not, from 0; seconds are since the video's start. At
    a rate r, the first frame of each 1/r seconds is taken. What cannot be decoded is a fault; the
    frames around it are kept.
    """
    av = library("av", "media")
    span = span or spans.spans(path)[0]
    try:
        with path.open("rb") as file, av.open(file, metadata_errors="ignore") as container:
            fault = _unusable(container)
            if fault:
                yield 1, fault
                return
            yield from _chosen(_Video(av, container, span), path.name, source)
    except av.FFmpegError as error:
        yield 1, f"not a readable video, found '{error.strerror}'"


def _unusable(container: Any) -> str | None:
    """Why there is nothing to decode in a file, or None."""
    if not container.streams.video:
        return "the file holds no video"
    codec = container.streams.video[0].codec_context
    if codec is None or not codec.width * codec.height:
        return "the video holds no frames"
    if codec.width * codec.height > MAX_PIXELS:
        return f"the frames are too large, found {codec.width} × {codec.height} pixels"
    return None


class _Video:
    """A span of a video stream, read packet by packet."""

    def __init__(self, av: Any, container: Any, span: Span) -> None:
        self.av, self.container, self.span = av, container, span
        self.stream = container.streams.video[0]
        # One thread: the tasks of a job are what shares the machine's cores.
        self.stream.codec_context.thread_count = 1
        self.seconds = seconds_of(self.stream)
        self.packets, self.ended_s = 0, 0.0

    def frames(self) -> Iterator[tuple[int | None, Any]]:
        """Each frame of the span with its timestamp, in order; None for a damaged packet."""
        start, end = self.span.start, self.span.end
        for packet in self._from_start():
            self.packets += bool(packet.size)
            if packet.pts is not None:
                self.ended_s = max(self.ended_s, self.seconds(packet.pts + (packet.duration or 0)))
            try:
                decoded = packet.decode()
            except self.av.error.InvalidDataError:
                yield packet.pts, None
                continue
            for frame in decoded:
                if end is not None and frame.pts >= end:
                    return
                if start is None or frame.pts >= start:
                    yield frame.pts, frame

    def shown_s(self, pts: int | None, number: int) -> float:
        """When a frame is shown; by its number and the mean rate if it carries no time."""
        if pts is None:
            return number / float(self.stream.average_rate or 25)
        return float(self.seconds(pts))

    def _from_start(self) -> Iterator[Any]:
        """Packets from the span's key frame on, or from an earlier one."""
        packets: Iterator[Any] = self.container.demux(self.stream)
        start = self.span.start
        if start is None:
            return packets
        self.container.seek(start, stream=self.stream)
        packets = self.container.demux(self.stream)
        first = next(packets)
        if first.pts is not None and first.pts <= start:
            return chain([first], packets)
        # The index led beyond the frame.
        self.container.seek(self.stream.start_time or 0, stream=self.stream)
        return iter(self.container.demux(self.stream))

    def cut_off(self) -> str | None:
        """What is missing at the end, by what the file says of its length."""
        if self.span.end is not None:
            return None
        declared = self.stream.frames
        if declared and self.span.start is None and self.packets < declared:
            return f"the video is cut off, found {self.packets:,} of {declared:,} frames"
        whole_s = float((self.stream.duration or 0) * self.stream.time_base)
        if not whole_s and len(self.container.streams) == 1:
            whole_s = (self.container.duration or 0) / self.av.time_base
        if self.ended_s and self.ended_s + 1 < whole_s:
            return f"the video is cut off, found {self.ended_s:.1f} of {whole_s:.1f} s"
        return None


def _chosen(video: _Video, name: str, source: Source) -> Iterator[Found]:
    rate, span = source.frames_per_second, video.span
    slot = -1 if span.before is None or rate is None else _slot(span.before, rate)
    last, damaged = span.first - 1, set[int]()
    for pts, frame in video.frames():
        rank = span.rank(pts)
        number = last + 1 if rank is None else rank
        if frame is None or frame.is_corrupt:
            damaged.add(number)
            yield number + 1, "the frame is damaged"
            continue
        last = number = max(number, last + 1)
        seconds = video.shown_s(pts, number)
        if number not in damaged and (rate is None or _slot(seconds, rate) > slot):
            yield number + 1, _row(frame, number, seconds, name, source)
        slot = slot if rate is None else max(slot, _slot(seconds, rate))
    last = max(last, *damaged) if damaged else last
    if last < span.first:
        yield span.first + 1, "the video holds no frames"
    elif fault := video.cut_off():
        yield last + 2, fault


def _slot(seconds: float, rate: float) -> int:
    return math.floor(seconds * rate + _TINY)


def _row(frame: Any, number: int, seconds: float, name: str, source: Source) -> dict[str, Any]:
    image = frame.to_image()
    row = {
        "frame": number,
        "seconds": seconds,
        "segment": f"{name} {math.floor(seconds / source.segment_seconds)}",
        "width": frame.width,
        "height": frame.height,
    }
    if source.thumbnail:
        return row | thumbnail(image, source.thumbnail)
    with io.BytesIO() as buffer:
        image.save(buffer, "JPEG", quality=QUALITY)
        return row | {"image": buffer.getvalue()}
