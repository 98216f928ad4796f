"""One job, from payments to an endpoint that looks up what a customer paid of late."""

from __future__ import annotations

import csv
import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import servers

JOB = """
name: churn
storage: storage
data:
  source: visits.csv
  label: left
  columns: {{customer: {{kind: category, role: ignore}}, when: date, left: category}}
  history:
    - source: payments.csv
      key: customer
      time: when
      windows: [30d]
      aggregates: {{amount: [sum, count]}}
model: {{width: 16, depth: 1}}
train: {{epochs: 6, batch_size: 64, learning_rate: 0.02}}
evaluate: {{bootstrap: 0}}
compress: {{int8: never}}
stores:
  - {{url: "{redis}", table: customer, key: customer, rows: history}}
serve:
  port: {port}
  replicas: {{min: 1, max: 1}}
  cpus: 0.2
  online:
    url: "{redis}"
    table: customer
    key: customer
    columns: [amount_sum_30d, amount_count_30d]
"""


def written(folder: Path) -> None:
    """Customers of whom those leave who paid little in the last 30 days."""
    drawn = random.Random(7)
    start, visits, payments = datetime(2024, 1, 1, tzinfo=UTC), [], []
    for number in range(600):
        customer, generous = f"c{number}", number % 2 == 0
        for day in range(0, 60, 10):
            paid = drawn.uniform(50, 90) if generous else drawn.uniform(1, 20)
            payments.append([customer, (start + timedelta(days=day)).isoformat(), f"{paid:.2f}"])
        when = start + timedelta(days=drawn.uniform(40, 60))
        plan = drawn.choice(["a", "b"])
        visits.append([customer, when.isoformat(), plan, "no" if generous else "yes"])
    for name, head, rows in (
        ("visits.csv", ["customer", "when", "plan", "left"], visits),
        ("payments.csv", ["customer", "when", "amount"], payments),
    ):
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows([head, *rows])


@pytest.fixture(scope="module")
def ran(tmp_path_factory, site):
    """The job's result, its folder, and where it answers."""
    folder = tmp_path_factory.mktemp("online")
    written(folder)
    with servers.redis(tmp_path_factory.mktemp("redis")) as redis:
        url = f"redis://127.0.0.1:{redis.port}/0"
        (folder / "job.yaml").write_text(JOB.format(redis=url, port=site.port))
        yield json.loads(site.command(folder, "run", "job.yaml", "--json")), folder, site


def asked(ran, **row):
    result, _, site = ran
    headers = {"X-API-Key": site.key}
    answer = httpx.post(result["endpoint"], json={"rows": [row]}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"][0]


ROW = {"when": "2024-02-28T12:00:00+00:00", "plan": "a"}


def test_what_was_paid_of_late_is_looked_up_and_decides(ran):
    assert asked(ran, customer="c0", **ROW)["label"] == "no"
    assert asked(ran, customer="c1", **ROW)["label"] == "yes"
    given = {"amount_sum_30d": 5.0, "amount_count_30d": 3}
    assert asked(ran, customer="c0", **given, **ROW)["label"] == "yes"


def test_the_report_says_how_long_the_lookup_takes(ran):
    page = Path(ran[0]["report"]).read_text()
    assert "<h2>Stores</h2>" in page
    assert "<h2>The online store</h2>" in page
    record = json.loads(Path(ran[0]["report"]).with_name("run.json").read_text())
    live = next(stage for stage in record["stages"] if stage["name"] == "deploy")
    assert 0 < live["record"]["online"]["p50"] <= live["record"]["online"]["p99"]


def test_no_password_is_kept(ran):
    for path in (ran[1] / "storage").rglob("*"):
        if path.is_file() and path.stat().st_size < 5_000_000:
            assert servers.PASSWORD.encode() not in path.read_bytes(), path
    assert ran[2].environment["REDIS_PASSWORD"] == servers.PASSWORD
