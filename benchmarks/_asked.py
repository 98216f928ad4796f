"""What the servers that serve.py compares are asked: one row a request, of each kind of model."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ray_pipeline import bundle as bundles
from ray_pipeline.deploy.example import example_row

Row = dict[str, Any]
DATA = Path(__file__).parents[1] / "jobs" / "data"
DIFFERENT = 64
"""Texts and images that are sent in turns."""


class Model(NamedTuple):
    """A kind of model: the job that makes it, what it is asked, and for how many times the seconds
    of a measurement, since of slow answers it takes longer to see as many."""

    job: str
    rows: Callable[[str], list[Row]]
    patience: int


def typical(bundle: str) -> list[Row]:
    """The row that a bundle's page shows."""
    return [example_row(bundles.opened(bundle))]


def reviews(_bundle: str) -> list[Row]:
    """Reviews of the test file, from its begin to its end."""
    lines = _data("reviews/testing_data.jsonl").read_text(encoding="utf-8").splitlines()
    chosen = lines[:: len(lines) // DIFFERENT][:DIFFERENT]
    return [{"review": json.loads(line)["review"]} for line in chosen]


def sentences(bundle: str) -> list[Row]:
    """The first sentence of each of these reviews."""
    return [{"review": re.split(r"(?<=[.!?])\s", row["review"])[0]} for row in reviews(bundle)]


def clothes(_bundle: str) -> list[Row]:
    """The first of the official test images, as PNG in base64."""
    import pyarrow.parquet as pq

    column = pq.read_table(_data("fashion/test.parquet"), columns=["image"]).column("image")
    return [{"image": base64.b64encode(column[i].as_py()).decode()} for i in range(DIFFERENT)]


MODELS = {
    "tabular": Model("income", typical, 1),
    "minilm": Model("reviews_encoder", reviews, 2),
    "minilm_sentence": Model("reviews_encoder", sentences, 1),
    "cnn": Model("fashion", clothes, 1),
}


class Form(NamedTuple):
    """How a server wants rows: where, below which name, and what it says of an unknown column."""

    path: str
    field: str
    refuses: int


OURS = Form("/model/predict", "rows", 422)
FORMS = {"mlflow": Form("/invocations", "dataframe_records", 400)}
"""Of servers that have a form of their own."""


def newest_bundle(job: str = "income", storage: Path | None = None) -> str:
    """The folder of the job's newest bundle; exits if there is none."""
    below = storage or Path(__file__).parents[1] / "storage"
    found = sorted(
        (below / job / "bundles").glob("*/manifest.json"), key=lambda path: path.stat().st_mtime
    )
    if not found:
        sys.exit(f"no bundle: run `ray-pipeline run jobs/{job}.yaml` first, or give --bundle")
    return str(found[-1].parent)


def _data(name: str) -> Path:
    path = DATA / name
    if not path.is_file():
        sys.exit(f"{path} is missing: python jobs/fetch.py {path.parent.name}")
    return path
