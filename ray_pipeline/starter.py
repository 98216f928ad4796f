"""`ray-pipeline init`: a small job file, and made-up data that the job can really learn from."""

from __future__ import annotations

import csv
import math
import random
from pathlib import Path

from ray_pipeline.errors import UsageError

JOB = """\
# Which customers leave? Made-up data: put your own file in its place.
# `ray-pipeline validate churn.yaml` checks this file, `ray-pipeline run churn.yaml` runs it.
# Every key with its meaning: `ray-pipeline schema`.
name: churn

data:
  source: churn.csv
  label: left
  columns: {left: category}   # the other kinds are inferred from the file

train:
  epochs: 30

evaluate:
  gates:
    accuracy: {min: 0.7}      # below it nothing is deployed
"""


def written(folder: str | Path) -> Path:
    """The job file put into `folder`, with its data beside it.

    Raises:
        UsageError: one of the two is there already; nothing is overwritten.
    """
    folder = Path(folder)
    job, data = folder / "churn.yaml", folder / "churn.csv"
    for path in (job, data):
        if path.exists():
            raise UsageError("is there already", where=str(path), hint="name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    job.write_text(JOB)
    with data.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["months", "plan", "monthly_fee", "support_calls", "left"])
        writer.writerows(_customer(random.Random(number)) for number in range(2000))  # noqa: S311
    return job


def _customer(dice: random.Random) -> list[object]:
    """Customers leave more often when they are new, pay much, or call often; 1 % lack a fee."""
    months = dice.randint(1, 60)
    plan = dice.choice(["basic", "plus", "family"])
    fee = round({"basic": 10, "plus": 20, "family": 35}[plan] * dice.uniform(0.8, 1.2), 2)
    calls = min(int(dice.expovariate(0.7)), 9)
    score = 1.2 * calls - 0.08 * months + 0.05 * fee - 1.0
    left = "yes" if dice.random() < 1 / (1 + math.exp(-score)) else "no"
    return [months, plan, "" if dice.random() < 0.01 else fee, calls, left]
