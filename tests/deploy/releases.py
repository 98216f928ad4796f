"""What tests of releases share: requests to send, and commands to run beside them."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import httpx
import numpy as np

from ray_pipeline.deploy.runtime import Predictor

# Two cores are shared with the test's own client, so that latency is judged in one test alone.
STEPS = {"steps": [20, 60], "hold_s": 3, "max_p99_ratio": None}


def some_rows(made):
    """Rows of which the old version says one class, and one in four is of somebody old."""
    rng = np.random.default_rng(4)
    rows = [
        {
            "age": int(rng.integers(60, 80) if i % 4 == 0 else rng.integers(18, 49)),
            "hours a week": round(float(rng.normal(38, 9)), 1),
            "member": bool(rng.random() < 0.3),
            "ville": str(rng.choice(["Paris", "Genève"])),
            "job": str(rng.choice(["clerk", "nurse"])),
        }
        for i in range(400)
    ]
    columns = {
        column.name: np.array(
            [row[column.name] for row in rows], object if column.kind == "category" else float
        )
        for column in made.manifest.schema.features
    }
    said = Predictor(made).predict(columns).argmax(1)
    return [row for row, one in zip(rows, said, strict=True) if one == 1]


def cli(site, *arguments):
    command = [sys.executable, "-W", "ignore", "-m", "ray_pipeline.cli", *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=site.home,
        env=site.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def printed(process):
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def set_release(**settings):
    return [f"--set=release={json.dumps(STEPS | settings)}"]


def replicas(site):
    lines = httpx.get(f"{site.url}/metrics").text.splitlines()
    found = [line for line in lines if line.startswith("ray_pipeline_replicas{")]
    return int(float(found[0].split()[-1])) if found else None  # it is not known yet


def waited(condition, seconds=240):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.1)
    return found
