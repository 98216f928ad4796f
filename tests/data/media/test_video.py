"""Frames against a plain PyAV loop, and videos that are damaged."""

from __future__ import annotations

import io
import wave

import av
import numpy as np
import pytest
from media_files import plain_frames, rows_of, video_in
from PIL import Image

from ray_pipeline.data.media import video


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """100 frames, 4 s, the index at the front as for streaming."""
    return video_in(tmp_path_factory.mktemp("clip") / "clip.mp4", 100, preset="veryfast")


def faults(rows):
    return [row["_error"] for row in rows if row["_error"]]


def test_every_frame_with_its_time_and_pixels(clip):
    rows, plain = rows_of(clip), plain_frames(clip)
    assert [row["frame"] for row in rows] == list(range(100))
    assert [row["seconds"] for row in rows] == pytest.approx([time for time, _ in plain])
    assert {(row["width"], row["height"], row["label"]) for row in rows} == {(160, 64, "clip")}
    for row, (_, pixels) in zip(rows, plain, strict=True):
        found = np.asarray(Image.open(io.BytesIO(row["image"])), int)
        wanted = np.frombuffer(pixels, np.uint8).reshape(found.shape).astype(int)
        assert np.abs(found - wanted).mean() < 12  # JPEG halves the colours


@pytest.mark.parametrize(("rate", "count"), [(5, 20), (25, 100), (60, 100), (0.5, 2), (7, 28)])
def test_a_rate_takes_so_many_frames_a_second(clip, rate, count):
    rows = rows_of(clip, frames_per_second=rate, thumbnail=1)
    assert len(rows) == count
    slots = [row["seconds"] * min(rate, 25) for row in rows]
    assert all(slot - number < 1 for number, slot in enumerate(slots))


def test_segments_are_stretches_of_time(clip):
    rows = rows_of(clip, segment_seconds=1.5, thumbnail=1)
    assert [row["segment"] for row in rows] == [
        f"clip.mp4 {int(row['seconds'] // 1.5)}" for row in rows
    ]
    assert len({row["segment"] for row in rows}) == 3


def fronted(clip, path):
    """The clip with its index before the pictures."""
    with (
        av.open(str(clip)) as source,
        av.open(str(path), "w", options={"movflags": "faststart"}) as out,
    ):
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    return path


def test_a_video_cut_in_half_keeps_what_is_there(clip, tmp_path):
    whole = fronted(clip, tmp_path / "whole.mp4").read_bytes()
    path = tmp_path / "half.mp4"
    path.write_bytes(whole[: len(whole) * 6 // 10])
    rows = rows_of(path)
    good = [row for row in rows if not row["_error"]]
    assert 20 < len(good) < 80
    assert all(row["seconds"] == pytest.approx(row["frame"] / 25) for row in good)
    assert len({row["frame"] for row in good}) == len(good)
    assert "the video is cut off" in faults(rows)[-1]
    assert "of 100 frames" in faults(rows)[-1]
    assert len({row["_row"] for row in rows}) == len(rows)


def test_a_container_without_a_count_tells_by_its_length(tmp_path):
    whole = video_in(tmp_path / "whole.mkv", 200, preset="veryfast").read_bytes()
    path = tmp_path / "half.mkv"
    path.write_bytes(whole[: len(whole) // 2])
    assert "of 8.0 s" in faults(rows_of(path))[-1]
    assert not faults(rows_of(tmp_path / "whole.mkv"))


def test_an_index_that_is_cut_off_is_a_reason(clip, tmp_path):
    whole = clip.read_bytes()
    path = tmp_path / "half.mp4"
    path.write_bytes(whole[: len(whole) // 2])
    (row,) = rows_of(path)
    assert row["_error"].startswith("not a readable video, found '")
    assert row["_raw"] == "half.mp4"


def test_damage_in_the_middle_costs_only_its_frames(clip, tmp_path):
    whole = bytearray(clip.read_bytes())
    middle = len(whole) // 3
    whole[middle : middle + 60] = b"\xff" * 60
    path = tmp_path / "damaged.mp4"
    path.write_bytes(bytes(whole))
    rows = rows_of(path)
    good = [row["frame"] for row in rows if not row["_error"]]
    assert all(
        row["seconds"] == pytest.approx(row["frame"] / 25) for row in rows if not row["_error"]
    )
    assert len({row["_row"] for row in rows}) == len(rows)
    assert "the frame is damaged" in faults(rows)
    assert len(good) > 70
    assert max(good) > 95


def test_no_frames_no_video_no_bytes(tmp_path):
    with wave.open(str(tmp_path / "sound.mp4"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16_000))
    (tmp_path / "zero.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_bytes(b"hello " * 50)
    for name in ("empty.mkv", "empty.mp4"):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 160, 64, "yuv420p"
            container.start_encoding()
    found = {row["path"]: row["_error"] for row in rows_of(tmp_path, "video")}
    assert found["sound.mp4"] == "the file holds no video"
    assert found["zero.mp4"] == "the file is empty"
    assert found["text.mp4"].startswith("not a readable video")
    assert found["empty.mkv"].startswith("not a readable video")
    assert found["empty.mp4"] == "the file holds no video"
    assert len(found) == 5


def test_enormous_frames_are_not_decoded(clip, monkeypatch):
    monkeypatch.setattr(video, "MAX_PIXELS", 100)
    (row,) = rows_of(clip)
    assert row["_error"] == "the frames are too large, found 160 × 64 pixels"
