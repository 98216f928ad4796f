"""Of the networks that were trained, the one that is deployed."""

from __future__ import annotations

import json

import pytest
from small_bundles import write_network
from upath import UPath

from ray_pipeline.deploy import choice
from ray_pipeline.job import Compress, Model


@pytest.mark.parametrize(("max_drop", "chosen"), [(1.0, "student"), (0.0, None)])
def test_the_smallest_within_bounds_is_deployed(classifier, tmp_path, max_drop, chosen):
    student, root = UPath(tmp_path / "student"), classifier.root
    student.mkdir()
    write_network(student, Model(width=4, depth=1), classifier.statistics)
    record = choice.write(
        root / "trained",
        None,
        student,
        root / "features",
        root / "split",
        classifier.schema,
        Compress(objective="size", max_drop=max_drop),
        out=UPath(tmp_path),
    )
    trained, other = record["networks"]
    assert [trained["name"], other["name"]] == ["trained", "student"]
    assert other["packed"] < trained["packed"]
    assert trained["score"] == classifier.record["compression"][0]["score"]
    better = other["score"] >= trained["score"]
    assert record["chosen"] == (chosen or ("student" if better else "trained"))
    assert record["rows_in"] == record["rows_out"] == 500
    assert json.loads((tmp_path / "networks.json").read_text()) == record["networks"]
