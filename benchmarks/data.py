"""Is preparing data on Ray as fast as in a library for one machine, and does it stream?

Flights, 6.8 million rows of Parquet with 1 % duplicates and 1 % missing values: drop rows without
a label, drop exact duplicates, impute the mean, flag what was missing, standardise, index
categories by frequency, write Parquet. `ours` is what a job runs, `clean.write` and the features'
fit and transform, on a Ray cluster that is already up; Polars, DuckDB and pandas do the same as
one would write it by hand. Each run is a process of its own, and they take turns. Seconds run
from the process's first import to the last file, without the cluster's start. Memory is that of
one more run, since to look at it takes time from whom one looks at: the largest sum over the
process tree (Ray's own processes included), shared pages counted once. Outputs are compared row
for row.

    python benchmarks/data.py [--json] [--runs 5] [--rows 6800000] [--ten]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from _common import finish, start_ray
from _flights import prepared, written
from _frames import RIVALS

ROWS = 6_800_000
SETTLING = 5.0
"""Seconds until a new cluster's own processes have come to rest; in nobody's time."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--runs", type=int, default=5, help="runs of each; medians are shown")
    parser.add_argument("--rows", type=int, default=ROWS, help="about how many")
    parser.add_argument("--ten", action="store_true", help="also ours at 10 times the rows, once")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, source, out = arguments.one
        print(json.dumps(PREPARE[name](Path(source), Path(out))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        found, ten = measured(arguments, Path(scratch))
    report(found, ten, arguments.json)


def measured(arguments: Any, scratch: Path) -> tuple[dict[str, list[dict[str, Any]]], Any]:
    source = scratch / "flights"
    rows = written(source, arguments.rows)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in PREPARE}
    for run in range(arguments.runs):
        for name, runs in found.items():
            out = scratch / f"{name}-{run}"
            runs.append({"rows": rows, **in_its_own_process(name, source, out)})
            if run:
                shutil.rmtree(out)
    for name, runs in found.items():
        out = scratch / f"{name}-watched"
        peak = in_its_own_process(name, source, out, watched=True)["peak_mb"]
        runs[:] = [{**one, "peak_mb": peak} for one in runs]
        shutil.rmtree(out)
    for name in RIVALS:
        compare(scratch / "ours-0", scratch / f"{name}-0")
    if not arguments.ten:
        return found, None
    more = scratch / "ten"
    rows = written(more, 10 * arguments.rows)
    ten = in_its_own_process("ours", more, scratch / "ours-ten", watched=True)
    return found, {"rows": rows, **ten}


def in_its_own_process(name: str, source: Path, out: Path, watched: bool = False) -> dict[str, Any]:
    """What one preparation says of itself, and if it was watched the most memory, `peak_mb`, that
    its processes held together."""
    out.mkdir()
    command = [sys.executable, "-W", "ignore", __file__, "--one", name, str(source), str(out)]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak = [0]
    if watched:
        threading.Thread(target=watch, args=(started, peak), daemon=True).start()
    said, errors = started.communicate()
    if started.returncode:
        sys.exit(errors)
    held = {"peak_mb": peak[0] / 2**20} if watched else {}
    return {**json.loads(said.splitlines()[-1]), **held}


def watch(started: subprocess.Popen[str], peak: list[int]) -> None:
    while started.poll() is None:
        peak[0] = max(peak[0], tree_memory(started.pid))
        time.sleep(0.25)


def tree_memory(pid: int) -> int:
    """The proportional set sizes of a process and of all below it, in bytes."""
    total = 0
    try:
        for process in [tree := psutil.Process(pid), *tree.children(recursive=True)]:
            total += proportional_size(process.pid)
    except psutil.NoSuchProcess:
        return 0
    return total


def proportional_size(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return 0
    sizes = [line.split()[1] for line in text.splitlines() if line.startswith("Pss:")]
    return 1024 * int(sizes[0]) if sizes else 0


def with_ray(source: Path, out: Path) -> dict[str, Any]:
    """Our stages."""
    first = time.monotonic()
    import ray

    from ray_pipeline import cluster

    os.environ.update(cluster.ENVIRONMENT)  # as `ray-pipeline up` does
    begun = time.monotonic()
    start_ray()
    started = time.monotonic() - begun
    time.sleep(SETTLING)
    cluster.warm()  # as `ray-pipeline run` does
    record = prepared(source, out)
    ended = time.monotonic()
    ray.shutdown()
    return {
        "rows_out": record["rows_out"],
        "seconds": ended - first - started - SETTLING,
        "clean_s": record["clean_s"],
        "cluster_start_s": started,
    }


def by_hand(name: str, source: Path, out: Path) -> dict[str, Any]:
    first = time.monotonic()
    rows = RIVALS[name](source, out)
    return {"rows_out": rows, "seconds": time.monotonic() - first}


def compare(ours: Path, rival: Path) -> None:
    """Exits if the two outputs have not the same rows, in whatever order."""
    from _rows import differences

    if said := differences(ours / "features", rival / "rows.parquet"):
        sys.exit(f"{rival.name}: {said}")


def report(found: dict[str, list[dict[str, Any]]], ten: Any, as_json: bool) -> None:
    def middle(name: str, key: str) -> float:
        return statistics.median(run[key] for run in found[name])

    rows = [
        {
            "prepared by": name,
            "seconds": middle(name, "seconds"),
            "rows/s": middle(name, "rows") / middle(name, "seconds"),
            "peak_mb": middle(name, "peak_mb"),
        }
        for name in found
    ]
    ratios = {
        f"ours/{name}": middle(name, "seconds") / middle("ours", "seconds") for name in RIVALS
    }
    figures: dict[str, Any] = dict(found)
    if ten:
        rows.append(
            {
                "prepared by": "ours, 10 times the rows",
                "seconds": ten["seconds"],
                "rows/s": ten["rows"] / ten["seconds"],
                "peak_mb": ten["peak_mb"],
            }
        )
        figures["ten"] = ten | {"memory_to_one": ten["peak_mb"] / middle("ours", "peak_mb")}
        ratios["memory at 1 / at 10 times the rows"] = middle("ours", "peak_mb") / ten["peak_mb"]
    packages = ("ray", "polars", "duckdb", "pandas", "pyarrow", "numpy")
    finish("data", rows, ratios, figures, as_json, packages=packages)


PREPARE = {"ours": with_ray}
for _name in RIVALS:
    PREPARE[_name] = lambda source, out, name=_name: by_hand(name, source, out)

if __name__ == "__main__":
    main()
