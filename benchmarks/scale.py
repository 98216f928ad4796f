"""What grows with the nodes of a cluster, and what with the number of pieces that work is cut into?

Nodes: clusters of 1, 2 and 4 nodes with one CPU each, all of them on this machine, whose cores and
disk they share: beyond its cores nothing can grow. In each, rows of flights a second, cleaned and
prepared (benchmarks/data.py says how), samples a second of the income job's network with as many
workers as nodes, and requests a second of its endpoint with a replica on each node, which wrk asks
at the first node's address; the ratios are what N nodes do, by N times what one does.

Pieces: 1,000 and 10,000 of them, each a task that does nothing, and each a file of 100 rows that is
cleaned, which takes two tasks a file. Seconds, and the most memory that the driver held. The
cluster's start is left out everywhere.

    python benchmarks/scale.py [--json] [--nodes 1 2 4] [--pieces 1000 10000] [--rows 1360000]
        [--bundle storage/income/bundles/VERSION]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import _wrk
import train
from _asked import newest_bundle, typical
from _common import finish, open_and_not_nice, said_by, start_ray
from _flights import prepared, settings, written
from _machine import another_machine

from ray_pipeline.deploy.ports import free_ports

NETWORK = "mlp"
FILE_ROWS = 100
CONNECTIONS, SECONDS, ROUNDS = 32, 4, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--pieces", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--rows", type=int, default=1_360_000, help="of flights, about how many")
    parser.add_argument("--bundle", help="that answers; the newest of storage/income if not given")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        what, count, folder = arguments.one
        print(json.dumps(ONE[what](int(count), Path(folder))))
        return
    _wrk.must_be_here()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "bundle").symlink_to(Path(arguments.bundle or newest_bundle()).resolve())
        written(folder / "flights", arguments.rows)
        in_its_own_process("prepare", 0, folder)
        by_nodes = {
            count: {
                **in_its_own_process("nodes", count, folder),
                **in_its_own_process("requests", count, folder),
            }
            for count in arguments.nodes
        }
        by_pieces = {
            count: in_its_own_process("pieces", count, folder) for count in arguments.pieces
        }
    report(by_nodes, by_pieces, arguments.json)


def in_its_own_process(what: str, count: int, folder: Path) -> dict[str, Any]:
    return said_by(__file__, "--one", what, count, folder)


def prepare(_: int, folder: Path) -> dict[str, Any]:
    return train.prepare(NETWORK, folder)


@contextmanager
def cluster_of(nodes: int) -> Iterator[None]:
    """A head without CPUs, and nodes with one each."""
    open_and_not_nice()
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(nodes):
        cluster.add_node(num_cpus=1)
    ray.init(cluster.address, log_to_driver=False, configure_logging=False)
    try:
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def nodes(count: int, folder: Path) -> dict[str, Any]:
    """Rows and samples a second with so many nodes; what is first done there is not counted."""
    with cluster_of(count):
        prepared(folder / "flights", folder / f"first-{count}")
        begun = time.monotonic()
        rows = prepared(folder / "flights", folder / f"nodes-{count}")["rows_in"]
        seconds = time.monotonic() - begun
        samples_s = statistics.median(train.samples_s(NETWORK, folder, workers=count))
    return {"rows_s": rows / seconds, "samples_s": samples_s}


def requests(count: int, folder: Path) -> dict[str, Any]:
    """Requests a second, and the 99th percentile of latency, with a replica on each of so many
    nodes."""
    home, port = folder / f"home-{count}", free_ports(1)[0]
    home.mkdir()
    open_and_not_nice()
    os.environ["RAY_PIPELINE_HOME"] = str(home)
    import ray

    from ray_pipeline import cluster
    from ray_pipeline.deploy import auth, release
    from ray_pipeline.job import Serve

    replicas = {"min": count, "max": count}
    serve = Serve.model_validate(
        {"port": port, "host": "0.0.0.0", "cpus": 0.9, "replicas": replicas}
    )
    bundle = str((folder / "bundle").resolve())
    with ExitStack() as stack:
        running = cluster.up(cpus=1)
        stack.callback(cluster.down)
        cluster.connect()
        stack.callback(ray.shutdown)
        for number in range(1, count):
            (home / str(number)).mkdir()
            stack.enter_context(another_machine(home / str(number), running, cpus=1))
        release.deploy(bundle, "model", serve)
        body = json.dumps({"rows": typical(bundle)})
        told = _wrk.script(home, [body], auth.key())
        url = f"http://127.0.0.1:{port}/model/predict"
        _wrk.load(url, told, CONNECTIONS, SECONDS)  # all are warm
        loads = [_wrk.load(url, told, CONNECTIONS, SECONDS) for _ in range(ROUNDS)]
    return {
        "requests_s": statistics.median(load["requests/s"] for load in loads),
        "p99_ms": statistics.median(load["p99 ms"] for load in loads),
    }


def pieces(count: int, folder: Path) -> dict[str, Any]:
    """Seconds and the driver's memory of so many tasks, and of so many files."""
    source = folder / f"files-{count}"
    small_files(folder / "flights", source, count)
    start_ray()
    from upath import UPath

    from ray_pipeline.data import clean, collect, parts

    parts.results(range(100), nothing)  # workers import what they need
    begun = time.monotonic()
    parts.results(range(count), nothing)
    tasks_s, tasks_mb = time.monotonic() - begun, peak_mb()
    data, out = settings(source), UPath(folder) / f"cleaned-{count}"
    out.mkdir()
    begun = time.monotonic()
    rows = clean.write(data, collect.schema(data), out)["rows_in"]
    files_s = time.monotonic() - begun
    assert rows == count * FILE_ROWS
    figures = {"tasks_s": tasks_s, "tasks_driver_mb": tasks_mb}
    return figures | {"files_s": files_s, "files_driver_mb": peak_mb()}


def small_files(flights: Path, out: Path, count: int) -> None:
    import pyarrow as pa
    import pyarrow.dataset as pads
    import pyarrow.parquet as pq

    out.mkdir()
    table: pa.Table = pads.dataset(str(flights), format="parquet").head(count * FILE_ROWS)
    for number in range(count):
        part = table.slice(number * FILE_ROWS, FILE_ROWS)
        pq.write_table(part, out / f"{number:06d}.parquet", write_statistics=False)


def nothing(_: int) -> None:
    pass


def peak_mb() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def report(
    by_nodes: dict[int, dict[str, Any]], by_pieces: dict[int, dict[str, Any]], as_json: bool
) -> None:
    rows: list[dict[str, Any]] = [{"nodes": n, **found} for n, found in by_nodes.items()]
    rows += [{"pieces": n, **found} for n, found in by_pieces.items()]
    ratios = {}
    if one := by_nodes.get(1):
        for count, found in by_nodes.items():
            for name in ("rows_s", "samples_s", "requests_s"):
                ratios[f"{name}: {count} nodes/{count} times one"] = found[name] / one[name] / count
    figures = {"nodes": by_nodes, "pieces": by_pieces}
    finish(
        "scale", rows, ratios, figures, as_json, packages=("ray", "torch", "pyarrow", "onnxruntime")
    )


ONE = {"prepare": prepare, "nodes": nodes, "requests": requests, "pieces": pieces}

if __name__ == "__main__":
    main()
