"""Are frames read as fast as by a plain PyAV loop?

One video, encoded here from random blobs that drift (1280 × 720, 25 frames a second), is read into
JPEG images with timestamps: by `collect.rows` on a Ray cluster that is already up, and by loops
over PyAV in one process: `pyav` as its documentation writes it, `pyav threads` with FFmpeg's own
threads for decoding. All write the same JPEG quality, and hand over the number of frames, which are
compared. Each run is a process of its own; the three take turns. Seconds are those of reading,
after a first video of one second, so that neither imports nor the start of workers count; what
those cost is shown beside.

    python benchmarks/video.py [--json] [--runs 3] [--seconds 60] [--rate R]
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _common import finish, said_by, start_ray

QUALITY = 90
KEYS = ("frames_per_s", "seconds", "start_s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--runs", type=int, default=3, help="runs of each; medians are shown")
    parser.add_argument("--seconds", type=int, default=60, help="length of the video")
    parser.add_argument("--rate", type=float, default=25, help="frames taken in a second")
    parser.add_argument("--one", choices=list(READINGS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(timed(READINGS[arguments.one], Path(arguments.folder), arguments.rate)))
        return
    with tempfile.TemporaryDirectory() as folder:
        written(Path(folder, "long.mp4"), arguments.seconds)
        written(Path(folder, "short.mp4"), 1)
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in READINGS}
        for _ in range(arguments.runs):
            for name, found in runs.items():
                found.append(in_its_own_process(name, folder, arguments.rate))
    report(runs, arguments.json)


def report(runs: dict[str, list[dict[str, Any]]], as_json: bool) -> None:
    frames = {run["frames"] for found in runs.values() for run in found}
    if len(frames) != 1:
        sys.exit(f"the readings differ in the number of frames: {sorted(frames)}")

    def middle(name: str, key: str) -> float:
        return statistics.median(run[key] for run in runs[name])

    rows = [{"reading": name, **{key: middle(name, key) for key in KEYS}} for name in runs]
    ours = middle("ours", "frames_per_s")
    ratios = {
        f"ours/{name}": ours / middle(name, "frames_per_s") for name in runs if name != "ours"
    }
    figures = {
        name: {key: [run[key] for run in found] for key in KEYS} for name, found in runs.items()
    }
    figures["frames"] = frames.pop()
    finish("video", rows, ratios, figures, as_json, packages=("ray", "av", "pillow"))


def in_its_own_process(name: str, folder: str, rate: float) -> dict[str, Any]:
    return said_by(__file__, "--one", name, "--folder", folder, "--rate", rate)


def timed(reading: Callable[[Path, float], int], folder: Path, rate: float) -> dict[str, Any]:
    begun = time.monotonic()
    reading(folder / "short.mp4", rate)
    ready = time.monotonic()
    frames = reading(folder / "long.mp4", rate)
    seconds = time.monotonic() - ready
    return {
        "frames": frames,
        "frames_per_s": frames / seconds,
        "seconds": seconds,
        "start_s": ready - begun,
    }


def ours(path: Path, rate: float) -> int:
    import ray

    from ray_pipeline.data import collect, parts
    from ray_pipeline.job import Data, Source

    if not ray.is_initialized():
        start_ray()
    source = Source(url=str(path), frames_per_second=rate)
    data = Data(source=source, format="video", label="label")
    dataset = collect.rows(source, data, collect.schema(data))
    return int(parts.executed(lambda: dataset.materialize().count()))


def pyav(path: Path, rate: float) -> int:
    return _looped(path, rate, "SLICE")


def pyav_threads(path: Path, rate: float) -> int:
    return _looped(path, rate, "AUTO")


def _looped(path: Path, rate: float, threads: str) -> int:
    import av

    images: list[tuple[float, bytes]] = []
    last = -1
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = threads
        for frame in container.decode(stream):
            slot = int(frame.time * rate + 1e-6)
            if slot > last:
                with io.BytesIO() as buffer:
                    frame.to_image().save(buffer, "JPEG", quality=QUALITY)
                    images.append((frame.time, buffer.getvalue()))
                last = slot
    return len(images)


READINGS = {"ours": ours, "pyav": pyav, "pyav threads": pyav_threads}


def written(path: Path, seconds: int, rate: int = 25) -> None:
    """A video of coloured blobs that drift over each other, with some grain."""
    import av
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    small = random.integers(0, 256, (40, 60, 3), np.uint8)
    field = np.asarray(Image.fromarray(small).resize((1920, 1280), Image.Resampling.BICUBIC))
    grain = random.integers(0, 12, (720, 1280, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        stream.codec_context.gop_size = 2 * rate
        stream.options = {"preset": "veryfast", "crf": "20"}
        for number in range(seconds * rate):
            left, top = (number * 3) % 640, (number * 2) % 560
            pixels = (field[top : top + 720, left : left + 1280] >> 1) + np.roll(grain, number, 1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


if __name__ == "__main__":
    main()
