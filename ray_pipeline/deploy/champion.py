"""The model that is live, or another bundle, on the rows that the new one is judged on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from numpy.typing import NDArray
from upath import UPath

from ray_pipeline import bundle
from ray_pipeline.bundle import Bundle, Manifest
from ray_pipeline.deploy import release
from ray_pipeline.deploy.example import statistics
from ray_pipeline.deploy.runtime import Predictor, columns_from_table
from ray_pipeline.errors import JobError
from ray_pipeline.model import comparison, judgement
from ray_pipeline.model.judgement import Focus
from ray_pipeline.model.metrics import Floats
from ray_pipeline.schema import Schema

_ROWS = 8192
_COLUMN = "probability_"
_WHERE = "evaluate.champion"


def found(wanted: str | None, name: str) -> Bundle | None:
    """The bundle to compare with: the one at that path, or for `live` what the endpoint `name`
    has now, if it has one. Raises BundleError."""
    path = release.live(name) if wanted == "live" else wanted
    return bundle.opened(path) if path else None


def write(
    judged: UPath, split: UPath, schema: Schema, resamples: int, path: str, *, out: UPath
) -> dict[str, Any]:
    """Judge the bundle at `path` on the rows that `judged` tells of, and compare.

    The record's `champion` holds our metrics less its, `intervals`, its own under `theirs`, and
    its `version`. Writes them to `champion.json`.

    Raises:
        JobError: it predicts something else, or reads columns that the rows have not.
    """
    opened = bundle.opened(path)
    found = json.loads((judged / "metrics.json").read_text())
    about = found["about"]
    ours = pq.read_table((judged / "predictions.parquet").path, filesystem=judged.fs)
    classes = tuple(
        name.removeprefix("probability_")
        for name in ours.column_names
        if name.startswith("probability_")
    )
    _check(opened.manifest, about["task"], classes, schema)
    theirs = np.concatenate(list(_outputs(opened, split / about["split"], classes)))
    labels, own = _ours(ours, classes)
    focus, at = _focus(found, opened.manifest, classes)
    compared = judgement.defined(
        {
            **comparison.differences(labels, own, theirs, focus, theirs_at=at, resamples=resamples),
            "theirs": judgement.key_metrics(labels, theirs, at),
            "version": opened.manifest.version,
        }
    )
    (out / "champion.json").write_text(json.dumps(compared, indent=1))
    return {
        "rows_in": len(labels),
        "rows_out": len(labels),
        "champion": compared,
        "findings": comparison.findings(compared, f"version {opened.manifest.version}"),
    }


def _focus(
    found: dict[str, Any], manifest: Manifest, classes: tuple[str, ...]
) -> tuple[Focus, Focus]:
    """What our figures speak of, and what the champion's: other thresholds, of several labels."""
    if found.get("thresholds"):
        own = dict(zip(manifest.classes or (), manifest.thresholds or (), strict=True))
        return tuple(found["thresholds"].values()), tuple(own[name] for name in classes)
    positive = found["about"]["positive"]
    index = None if positive is None else classes.index(positive)
    return index, index


def _check(manifest: Manifest, task: str, classes: tuple[str, ...], schema: Schema) -> None:
    if manifest.task != task or set(manifest.classes or ()) != set(classes):
        raise JobError(
            "the champion predicts something else",
            where=_WHERE,
            expected=", ".join(classes) or "values",
            hint="leave it out, or give the version to compare with",
        )
    for column in manifest.schema.features:
        if column.name not in schema.names:
            raise JobError(
                f"the champion reads `{column.name}`, which the rows have not",
                where=_WHERE,
                expected=", ".join(schema.names),
            )


def _outputs(opened: Bundle, rows: UPath, classes: tuple[str, ...]) -> Iterator[Floats]:
    """The bundle's outputs, probabilities in the order of `classes`, in batches of rows."""
    predictor, manifest = Predictor(opened), opened.manifest
    seen = statistics(opened).image
    order = [(manifest.classes or ()).index(name) for name in classes]
    dataset = pads.dataset(rows.path, filesystem=rows.fs, format="parquet")
    for batch in dataset.to_batches(batch_size=_ROWS):
        columns = columns_from_table(pa.Table.from_batches([batch]), manifest.schema, seen)
        outputs = predictor.of_clean(columns).astype(float)
        yield outputs[:, order] if classes else outputs.reshape(-1)


def _ours(rows: pa.Table, classes: tuple[str, ...]) -> tuple[NDArray[Any], Floats]:
    """The labels [N] or [N, K] and the outputs of the model that was judged, as it left them."""
    if not classes:
        return rows["label"].to_numpy(), rows["predicted"].to_numpy()
    places = {name: index for index, name in enumerate(classes)}
    if pa.types.is_list(rows["label"].type):
        found = [[name in given for name in classes] for given in rows["label"].to_pylist()]
        labels = np.array(found, np.uint8)
    else:
        labels = np.array([places[label] for label in rows["label"].to_pylist()])
    return labels, np.stack([rows[_COLUMN + name].to_numpy() for name in classes], 1)
