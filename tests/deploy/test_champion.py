"""A model against a bundle on the same rows: here its own, so that nothing may differ."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from small_bundles import Exported
from upath import UPath

from ray_pipeline.deploy import champion
from ray_pipeline.errors import BundleError, JobError
from ray_pipeline.job import Bound, Evaluate, Importance
from ray_pipeline.model import evaluate, gates
from ray_pipeline.schema import Column, Schema


def judged(made: Exported, folder: Path) -> tuple[UPath, UPath]:
    """The split that was judged, and where evaluation left what it found."""
    for side in ("train", "validation"):
        shutil.copytree(made.root / "split/validation", folder / "split" / side)
    shutil.copytree(made.root / "features/train", folder / "features/validation")
    shutil.copy(made.root / "features/statistics.json", folder / "features")
    (folder / "judged").mkdir()
    split, out = UPath(folder / "split"), UPath(folder / "judged")
    settings = Evaluate(bootstrap=0, importance=Importance(rows=0))
    features, trained = UPath(folder / "features"), made.root / "trained"
    evaluate.write(trained, features, split, made.schema, settings, out=out)
    return split, out


@pytest.mark.parametrize("task", ["classifier", "regressor"])
def test_a_model_does_not_differ_from_its_own_bundle(
    task: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    made: Exported = request.getfixturevalue(task)
    split, found = judged(made, tmp_path)
    out = UPath(tmp_path / "champion")
    out.mkdir()
    path = str(made.bundle.path)
    record = champion.write(found, split, made.schema, 50, path, out=out)
    compared = record["champion"]
    assert record["rows_in"] == record["rows_out"] == 500
    assert compared["version"] == made.bundle.manifest.version
    name = "accuracy" if task == "classifier" else "r2"
    scale = 1 if task == "classifier" else abs(compared["theirs"]["r2"])
    assert compared[name] == pytest.approx(0, abs=0.003 * scale)
    assert compared["intervals"].keys() >= {name}
    gates.passed({"champion": compared}, {f"champion.{name}": Bound(min=-0.01 * scale)})
    rows = pq.read_table(found / "predictions.parquet").num_rows
    assert len(record["findings"][0]["tables"][0]["rows"]) >= 3
    assert rows == 500


def test_where_there_is_no_champion_nothing_is_compared_and_no_gate_refuses() -> None:
    assert champion.found(None, "income") is None
    gates.passed({"accuracy": 0.9}, {"champion.accuracy": Bound(min=0)})
    with pytest.raises(BundleError):
        champion.found("/no/such/bundle", "income")


def test_what_cannot_be_compared_is_refused(
    classifier: Exported, regressor: Exported, tmp_path: Path
) -> None:
    split, found = judged(classifier, tmp_path)
    out = UPath(tmp_path)
    with pytest.raises(JobError, match="predicts something else"):
        champion.write(found, split, classifier.schema, 0, str(regressor.bundle.path), out=out)
    less = [column for column in classifier.schema if column.name != "job"]
    more = Schema(columns=(*less, Column(name="work", kind="category")))
    with pytest.raises(JobError, match="reads `job`, which the rows have not"):
        champion.write(found, split, more, 0, str(classifier.bundle.path), out=out)
