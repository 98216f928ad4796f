"""How well a fine-tuned language model foretells answers that it has not seen, beside its base."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import torch
from torch import nn
from upath import UPath

from ray_pipeline.data import features as prepared
from ray_pipeline.data.compiled import compiled_arrow
from ray_pipeline.data.matrices import Matrices, matrices
from ray_pipeline.data.statistics import Statistics
from ray_pipeline.errors import DataError
from ray_pipeline.job import Evaluate, Model
from ray_pipeline.model import batches, judgement, metrics, train, zoo
from ray_pipeline.model.language_metrics import token_figures, token_intervals
from ray_pipeline.model.metrics import Floats
from ray_pipeline.model.predictions import row_count

Record = dict[str, Any]
READ_ROWS = 1024
_NOTE = (
    "Perplexity is how many words a model wavers between, on average, before each token of an "
    "answer that it has not seen; token accuracy is how often its first choice is the token. "
    "Intervals are of resampled rows; the change is that of the same rows, so that its interval "
    "says whether the model has learned."
)


def write(
    trained: UPath, features: UPath, split: UPath, settings: Evaluate, *, out: UPath
) -> Record:
    """Judge the model in `trained` on the test rows of `split`, or the validation rows if none.

    Writes `metrics.json`, and `predictions.parquet` with each row's summed loss, hits and tokens.
    The record's `metrics` has `perplexity`, `token_accuracy`, and `perplexity_change`, which is
    ours less that of the base model; `baseline` has the base's own.

    Raises:
        DataError: there are no rows to judge on.
    """
    statistics, network = prepared.load(features), train.load(trained)
    side = "test" if row_count(split / "test") else "validation"
    if not row_count(split / side):
        raise DataError("no row is left to judge on", where="data.split")
    sums = _of_rows(network, statistics, split / side)
    before = _of_rows(base_of(trained), statistics, split / side)
    held_out = token_sums(network, prepared.read_matrix(features / "validation"))
    found: Record = judgement.defined(
        {
            **token_figures(sums),
            "perplexity_change": _change(sums, before),
            "intervals": _intervals(sums, before, settings.bootstrap),
            "baseline": {
                "is": "the network before it was fine-tuned",
                **token_figures(before),
                "intervals": _own_intervals(before, settings.bootstrap),
            },
            "validation": token_figures(held_out),
            "about": {
                "task": statistics.task,
                "split": side,
                "rows": len(sums),
                "tokens": int(sums[:, 2].sum()),
                "positive": None,
                "resamples": settings.bootstrap,
                "confidence": metrics.CONFIDENCE,
            },
        }
    )
    (out / "metrics.json").write_text(json.dumps(found, indent=1))
    columns = dict(zip(("loss", "hits", "tokens"), sums.T, strict=True))
    pq.write_table(pa.table(columns), (out / "predictions.parquet").path, filesystem=out.fs)
    return {
        "rows_in": len(sums),
        "rows_out": len(sums),
        "metrics": found,
        "findings": [_finding(found)],
    }


def base_of(trained: UPath) -> nn.Module:
    """The model that the one in `trained` was before it was fine-tuned."""
    described = json.loads((trained / "model.json").read_text())
    model = Model.model_validate(described["model"]).without("lora")
    return zoo.build(model, zoo.Inputs.model_validate(described["inputs"])).eval()


def token_sums(network: nn.Module, rows: Matrices) -> Floats:
    """Of N prepared rows the summed loss of their answers' tokens, the hits and the tokens: [N, 3].

    They are what `language_metrics` reads.
    """
    inputs = batches.tensors(rows)
    found = np.empty((len(rows["label"]), 3))
    found[:, 2] = rows["label"]
    with torch.inference_mode():
        for places, part in batches.chunks(inputs):
            found[places, :2] = network(**part).double().cpu().numpy()
    return found


def _of_rows(network: nn.Module, statistics: Statistics, rows: UPath) -> Floats:
    """`token_sums` of the raw rows in the parquet files of a folder, in order."""
    transform = compiled_arrow(statistics)
    files = pads.dataset(rows.path, filesystem=rows.fs, format="parquet")
    return np.concatenate(
        [
            token_sums(network, matrices(transform(pa.Table.from_batches([batch]))))
            for batch in files.to_batches(batch_size=READ_ROWS)
        ]
    )


def _change(sums: Floats, before: Floats) -> float:
    return token_figures(sums)["perplexity"] - token_figures(before)["perplexity"]


def _own_intervals(sums: Floats, resamples: int) -> dict[str, tuple[float, float]]:
    return token_intervals(sums, resamples) if resamples else {}


def _intervals(sums: Floats, before: Floats, resamples: int) -> dict[str, tuple[float, float]]:
    """As `token_intervals`, and that of the change: both models are judged on the same rows."""
    if not resamples:
        return {}
    both = np.concatenate([sums, before], axis=1)
    means = metrics.resampled_means(both, resamples, np.random.default_rng(0))
    ours, theirs = (np.exp(means[:, at] / means[:, at + 2]) for at in (0, 3))
    change = metrics.percentiles(ours - theirs)
    return {**token_intervals(sums, resamples), "perplexity_change": change}


def _finding(found: Record) -> Record:
    """What the report says of it: before, after, and the change."""

    def row(name: str, figures: Record) -> list[Any]:
        spans = figures["intervals"]
        cells = [(figures[key], spans.get(key)) for key in ("perplexity", "token_accuracy")]
        return [name, *(part for value, span in cells for part in (value, _span(span)))]

    change = found["perplexity_change"]
    table = {
        "columns": ["model", "perplexity", "95 % interval", "token accuracy", "95 % interval"],
        "rows": [
            row("before", found["baseline"]),
            row("fine-tuned", found),
            ["change", change, _span(found["intervals"].get("perplexity_change")), None, None],
        ],
    }
    return {"title": "Answers foretold", "note": _NOTE, "tables": [table]}


def _span(bounds: Any) -> str | None:
    return None if bounds is None or None in bounds else f"{bounds[0]:.3f} to {bounds[1]:.3f}"
