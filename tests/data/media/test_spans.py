"""Parts of a video against a plain PyAV loop: no frame lost, none twice."""

from __future__ import annotations

import pytest
from media_files import plain_frames, video_in
from upath import UPath

from ray_pipeline.data.media import spans, video
from ray_pipeline.job import Source


@pytest.fixture(scope="module", params=["closed", "open", "vp9", "hevc"])
def clip(request, tmp_path_factory):
    """H.264 with closed and with open groups of pictures, VP9 in WebM, HEVC in MPEG-TS."""
    folder = tmp_path_factory.mktemp("clips")
    if request.param == "vp9":
        return video_in(folder / "clip.webm", 130, "libvpx-vp9", cpu_used="8", deadline="realtime")
    if request.param == "hevc":
        return video_in(folder / "clip.ts", 130, "libx265", preset="ultrafast")
    x264 = {"open": "open-gop=1:keyint=12:min-keyint=12:scenecut=0", "closed": "bframes=3"}
    options = {"x264-params": x264[request.param], "preset": "veryfast"}
    return video_in(folder / "clip.mp4", 130, **options)


@pytest.mark.parametrize("rate", [None, 7.0])
def test_the_parts_of_a_video_are_the_video(clip, rate):
    source = Source(url=str(clip), frames_per_second=rate, thumbnail=4)
    parted = spans.spans(UPath(clip), size=1)
    assert len(parted) > 5
    rows = [row for span in parted for row in video.frame_rows(UPath(clip), source, span)]
    assert rows == list(video.frame_rows(UPath(clip), source))
    plain = plain_frames(clip)
    assert [row[1]["frame"] for row in rows] == chosen([time for time, _ in plain], rate)


def chosen(times, rate):
    """The first frame of each 1/rate seconds."""
    slots = [int((time - times[0]) * (rate or 1e6) + 1e-6) for time in times]
    return [n for n, slot in enumerate(slots) if n == 0 or slot != slots[n - 1]]


def test_the_parts_have_about_the_size_asked_for(clip):
    size = clip.stat().st_size // 3
    parted = spans.spans(UPath(clip), size=size)
    assert 2 <= len(parted) <= 3
    assert sum(len(span.times) for span in parted) == 130
    assert [span.start for span in parted[1:]] == [span.end for span in parted[:-1]]


def test_what_cannot_be_parted_is_one_part(tmp_path):
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"no video" * 100)
    for name in ("broken.mp4", "absent.mp4"):
        (span,) = spans.spans(UPath(tmp_path / name), size=1)
        assert (span.start, span.end, span.times) == (None, None, None)
