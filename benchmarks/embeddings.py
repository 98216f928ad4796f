"""Are texts embedded as fast as by a loop over the same ONNX session?

The reviews of fine food (`python jobs/fetch.py reviews minilm`) become vectors of MiniLM: by the
pool of actors that the features stage uses, on a Ray cluster that is already up, and by a loop in
one process with as many threads as the pool has actors. Both run the same graph on the same
batches, 32 texts of about one length, and their vectors are compared. What two texts take, which
is the start of the actors or next to nothing, is shown beside and taken off.

    python benchmarks/embeddings.py [--json] [--runs 3] [--texts 1500]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.json as pj
import pyarrow.parquet as pq
from _common import finish, start_ray
from upath import UPath

JOBS = Path(__file__).parents[1] / "jobs" / "data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--runs", type=int, default=3, help="runs of each; medians are shown")
    parser.add_argument("--texts", type=int, default=1500)
    arguments = parser.parse_args()
    import ray

    from ray_pipeline.data.encoders import sentences
    from ray_pipeline.job.features import ColumnFeatures

    cpus = len(os.sched_getaffinity(0))
    start_ray(num_cpus=cpus)
    settings = ColumnFeatures(text="embedding", encoder=str(JOBS / "minilm"))
    column = sentences.fitted("review", settings)
    texts = pj.read_json(JOBS / "reviews" / "training_data.jsonl")["review"]
    texts = texts.combine_chunks()[: arguments.texts]
    with tempfile.TemporaryDirectory() as folder:
        ways = {"ours": by_pool(column, Path(folder)), "loop": by_loop(column, cpus)}
        start = {name: way(texts[:2])[0] for name, way in ways.items()}
        runs: dict[str, list[float]] = {name: [] for name in ways}
        made = {}
        for _ in range(arguments.runs):
            for name, way in ways.items():
                seconds, made[name] = way(texts)
                runs[name].append(len(texts) / (seconds - start[name]))
    np.testing.assert_allclose(made["ours"], made["loop"], atol=1e-5)
    middle = {name: statistics.median(found) for name, found in runs.items()}
    rows = [
        {"way": name, "embeddings_per_s": middle[name], "start_s": start[name]} for name in ways
    ]
    figures = {"texts": len(texts), "embeddings_per_s": runs, "start_s": start}
    ratios = {"ours/loop": middle["ours"] / middle["loop"]}
    ray.shutdown()
    finish("embeddings", rows, ratios, figures, arguments.json, packages=("ray", "onnxruntime"))


Way = Callable[[pa.Array], tuple[float, np.ndarray]]


def by_pool(column, folder: Path) -> Way:
    from ray_pipeline.data import sentence_pool

    def timed(texts: pa.Array) -> tuple[float, np.ndarray]:
        file, out = UPath(folder / "rows.parquet"), UPath(folder / f"vectors-{time.time_ns()}")
        pq.write_table(pa.table({"review": texts}), str(file))
        begun = time.monotonic()
        sentence_pool.written([file], [column], out)
        made = sentence_pool.vectors(out, 0)[0].combine_chunks().flatten()
        return time.monotonic() - begun, made.to_numpy().reshape(-1, column.width)

    return timed


def by_loop(column, threads: int) -> Way:
    import onnxruntime

    from ray_pipeline.data.encoders import sentences, tokens

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    graph = str(sentences.graph_of(column.base))
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    tokenize = tokens.tokenizing(column)

    def timed(texts: pa.Array) -> tuple[float, np.ndarray]:
        begun = time.monotonic()
        made = np.empty((len(texts), column.width), np.float32)
        whole = tokenize([text.strip() for text in texts.to_pylist()])
        for first in range(0, len(whole), 1024):
            piece = whole[first : first + 1024]
            order = first + np.argsort([len(text) for text in piece], kind="stable")
            for start in range(0, len(order), 32):
                places = order[start : start + 32]
                matrix = np.full((len(places), len(whole[places[-1]])), -1, np.int64)
                for row, place in enumerate(places):
                    matrix[row, : len(whole[place])] = whole[place]
                made[places] = session.run(None, {"tokens": matrix})[0]
        return time.monotonic() - begun, made

    return timed


if __name__ == "__main__":
    main()
