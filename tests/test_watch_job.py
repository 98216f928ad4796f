"""One job that is watched on a real cluster: the first model, requests and labels that shift, a
model that is better takes over; the old one put back by hand goes again by itself."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from ray_pipeline.deploy import history

JOB = """
name: moved
storage: storage
data: {{source: data, label: left, columns: {{left: category}}}}
model: {{name: trees}}
evaluate: {{bootstrap: 200}}
compress: {{int8: never}}
serve:
  port: {port}
  replicas: {{min: 1, max: 1}}
  cpus: 0.2
watch:
  log: {{sample: 1, every_s: 0.2}}
  drift: {{rows: 400, min_rows: 200, min_labels: 200}}
  window: {{files: 1}}
"""
SHIFT = 2.0


def rows(seed, count, shift):
    """`left` depends on where x is from `shift`, the middle of its values; one in ten by chance."""
    rng = np.random.default_rng(seed)
    x = rng.normal(shift, 1, count)
    left = np.where(rng.random(count) < 0.1, rng.random(count) < 0.5, x > shift)
    plans = rng.choice(["a", "b"], count)
    return [
        {"x": round(float(a), 4), "plan": str(b), "left": "yes" if c else "no"}
        for a, b, c in zip(x, plans, left, strict=True)
    ]


class Moved:
    """The job, its files and its endpoint."""

    def __init__(self, folder: Path, site) -> None:
        self.folder, self.site = folder, site
        (folder / "data").mkdir()
        (folder / "job.yaml").write_text(JOB.format(port=site.port))
        self.client = httpx.Client(base_url=f"{site.url}/moved", timeout=60)

    def add(self, month, shift):
        with (self.folder / f"data/2024-{month:02}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["x", "plan", "left"])
            writer.writeheader()
            writer.writerows(rows(month, 700, shift))

    def once(self):
        told = self.site.command(self.folder, "watch", "job.yaml", "--once", "--json")
        return json.loads(told.splitlines()[-1])

    def asked(self, seed, shift, count=400):
        """Requests, and what turned out to be true of them; until the log has both."""
        headers = {"X-API-Key": self.site.key}
        for start in range(0, count, 100):
            some = rows(seed + start, 100, shift)
            features = [{"x": one["x"], "plan": one["plan"]} for one in some]
            answer = self.client.post("/predict", json={"rows": features}, headers=headers)
            told = [
                {"id": answer.json()["id"], "row": row, "label": one["left"]}
                for row, one in enumerate(some)
            ]
            taken = self.client.post("/feedback", json={"feedback": told}, headers=headers)
            assert taken.status_code == 202, taken.text
        return self.metric("feedback_labels_total"), self.metric("logged_rows_total")

    def metric(self, name):
        text = httpx.get(f"{self.site.url}/metrics").text.splitlines()
        found = [x for x in text if x.startswith(f'ray_pipeline_{name}{{endpoint="moved"')]
        return float(found[0].rpartition(" ")[2]) if found else 0.0

    def waited(self, rows):
        end = time.monotonic() + 120
        while min(self.metric("feedback_labels_total"), self.metric("logged_rows_total")) < rows:
            assert time.monotonic() < end, "the log has not got them"
            time.sleep(0.2)

    def history(self):
        return [
            (entry["action"], entry["version"])
            for entry in history.read(str(self.folder / "storage"), "moved")
        ]


@pytest.fixture(scope="module")
def moved(tmp_path_factory, site):
    return Moved(tmp_path_factory.mktemp("moved"), site)


def test_a_model_is_watched(moved):
    for month in (1, 2):
        moved.add(month, 0.0)
    first = moved.once()
    assert (first["outcome"], first["why"]) == ("promoted", ["nothing is live"])
    old = first["challenger"]["version"]
    assert moved.history() == [("deploy", old)]

    moved.asked(seed=100, shift=SHIFT)
    moved.waited(400)
    for month in (3, 4):
        moved.add(month, SHIFT)
    second = moved.once()
    alarms = {(one["column"], one["question"]) for one in second["look"]["alarms"]}
    assert {("x", "distribution"), ("(predictions)", "errors")} <= alarms
    assert ("plan", "distribution") not in alarms
    assert second["outcome"] == "promoted", second
    assert second["challenger"]["compared"]["accuracy"] > 0.1
    new = second["challenger"]["version"]
    assert moved.history() == [("deploy", old), ("deploy", new)]
    assert moved.metric("drift_alarms") == len(alarms)

    bundle = str(moved.folder / "storage/moved/bundles" / old)
    moved.site.command(moved.folder, "deploy", bundle, "--name", "moved", "--why", "by hand")
    moved.asked(seed=5000, shift=SHIFT)
    moved.waited(800)
    third = moved.once()
    assert (third["action"], third["outcome"]) == ("rollback", "rolled_back"), third
    assert f"against version {new}" in third["why"][0]
    expected = [("deploy", old), ("deploy", new), ("deploy", old), ("rollback", new)]
    assert moved.history() == expected
    assert moved.once()["action"] == "nothing"
    assert moved.history() == expected
