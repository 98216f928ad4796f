"""How long does the whole income job take, beside a bare script of the same steps without Ray?

    python benchmarks/end_to_end.py [--rounds 3] [--json]

Both search 16 settings for at most 6 epochs, train the best for at most 20, judge it on the
official test file, export it, and serve it until it has answered. Ours also starts a cluster,
quarantines, compares groups, quantizes, draws a report, tells MLflow and TensorBoard, and keeps
every stage; the bare script does none of that. `python jobs/fetch.py adult` brings the data.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from _common import finish

from ray_pipeline.deploy import ports

ROOT = Path(__file__).parents[1]
STEPS = {  # the bare script's steps beside ours
    "data": ("clean", "split", "features"),
    "tune": ("tune",),
    "train": ("train",),
    "evaluate": ("evaluate",),
    "export": ("export",),
    "serve": ("deploy",),
}


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, dict[str, Any]]:
    """Wall seconds of a command, start of Python included, and its last line's JSON."""
    begun = time.monotonic()
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=ROOT, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return time.monotonic() - begun, json.loads(done.stdout.splitlines()[-1])


def ours() -> tuple[float, float, dict[str, Any]]:
    """Seconds of a first run, from no cluster on, of a second one, and the first one's result."""
    cli = [sys.executable, "-m", "ray_pipeline.cli"]
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "RAY_PIPELINE_HOME": f"{folder}/home"}
        changes = (f"storage={folder}/storage", f"serve.port={ports.free_ports(1)[0]}")
        settings = [word for change in changes for word in ("--set", change)]
        command = [*cli, "run", "jobs/income.yaml", *settings, "--json"]
        try:
            first, result = timed(command, environment)
            second, _ = timed(command, environment)
        finally:
            subprocess.run([*cli, "down"], env=environment, check=True, capture_output=True)
    return first, second, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    bare_command = [sys.executable, "-W", "ignore", "benchmarks/_bare.py", "16", "6", "20"]
    bares, runs = [], []
    for number in range(options.rounds):
        print(f"round {number + 1}", file=sys.stderr)
        bares.append(timed(bare_command, dict(os.environ)))
        runs.append(ours())
    bare, first, second = (
        median(seconds for seconds, _ in bares),
        median(run[0] for run in runs),
        median(run[1] for run in runs),
    )
    rows = []
    for step, stages in STEPS.items():
        mine = [
            sum(stage["seconds"] for stage in run[2]["stages"] if stage["name"] in stages)
            for run in runs
        ]
        theirs = [result["seconds"][step] for _, result in bares]
        rows.append({"step": step, "bare s": median(theirs), "ours s": median(mine)})
    within = sum(row["ours s"] for row in rows), sum(row["bare s"] for row in rows)
    rows.append({"step": "start, report", "bare s": bare - within[1], "ours s": first - within[0]})
    rows.append({"step": "all", "bare s": bare, "ours s": first})
    accuracies = {
        "bare": median(result["accuracy"] for _, result in bares),
        "ours": median(run[2]["metrics"]["accuracy"] for run in runs),
    }
    print(f"test accuracy: {accuracies}; a second run with nothing changed: {second:.1f} s\n")
    figures = {"bare_s": bare, "first_s": first, "second_s": second, "accuracy": accuracies}
    finish("end_to_end", rows, {"bare/ours": bare / first}, figures, options.json)


if __name__ == "__main__":
    main()
