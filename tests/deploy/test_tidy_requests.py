"""A request with untidy values gets the answer of its tidy form, at every way into a bundle."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_pipeline import bundle
from ray_pipeline.data import steps
from ray_pipeline.data.steps import serving
from ray_pipeline.deploy import batch, openapi
from ray_pipeline.deploy.protocol import Protocol
from ray_pipeline.deploy.pyfunc import BundleModel
from ray_pipeline.deploy.runtime import Predictor
from ray_pipeline.errors import RequestError
from ray_pipeline.job import Clean, Serve
from ray_pipeline.schema import Column, Schema

CLEAN = Clean(
    replace={"job": {"RN": "nurse"}, "age": {"old": "80"}},
    steps=[
        {"text": {"columns": ["ville"], "html": "strip"}},
        {"spelling": {"column": "ville", "like": ["Paris", "Genève"], "threshold": 0.8}},
        {"units": {"column": "hours a week", "to": "hour", "assume": "hour"}},
        {"range": {"column": "age", "min": 17, "max": 90, "outside": "clip"}},
        {"missing": {"columns": ["age", "hours a week"], "with": "model", "fitted": {
            "initial": [40, 38], "low": [17, 1], "high": [90, 80],
            "rounds": [[0, [0.5], 20], [1, [0.25], 30]]}}},
    ],
)  # fmt: skip
TIDY = {"age": 90, "hours a week": 52.5, "member": True, "ville": "Genève", "job": "nurse"}
UNTIDY = {"age": 140, "hours a week": "3150 min", "member": True, "ville": "<b>geneve</b>\u200b"}
UNTIDY["job"] = " RN"


@pytest.fixture(scope="module")
def tidying(classifier, tmp_path_factory):
    """The classifier's bundle with steps in its manifest, as `export.write` puts them there."""
    source = classifier.bundle
    content = {name: (source.path / name).read_bytes() for name in source.manifest.files}
    cleaning = serving.served(CLEAN, steps.dumped(CLEAN), classifier.schema)
    out = tmp_path_factory.mktemp("tidying")
    bundle.write(out, replace(source.manifest, cleaning=cleaning), content)
    return bundle.opened(out)


def protocol(opened):
    manifest = opened.manifest
    return Protocol(manifest.schema, 10, serving.readers(manifest.cleaning, manifest.schema))


def answer(opened, *rows):
    read = protocol(opened)
    columns = read.columns(read.rows(json.dumps({"rows": rows}).encode()))
    return Predictor(opened).predict(columns)


def test_a_request(tidying, classifier):
    wanted = Predictor(classifier.bundle).predict(
        protocol(classifier.bundle).columns(
            protocol(classifier.bundle).rows(json.dumps({"rows": [TIDY]}).encode())
        )
    )
    np.testing.assert_array_equal(answer(tidying, UNTIDY), wanted)
    np.testing.assert_array_equal(answer(tidying, TIDY), wanted)
    assert not np.array_equal(answer(tidying, TIDY | {"ville": "Paris"}), wanted)


def test_values_that_a_model_fills_and_a_spelling_of_a_number(tidying):
    filled = TIDY | {"age": 80, "hours a week": 50.0}
    np.testing.assert_array_equal(
        answer(tidying, filled | {"hours a week": None}), answer(tidying, filled)
    )
    np.testing.assert_array_equal(answer(tidying, filled | {"age": "old"}), answer(tidying, filled))


def test_a_unit_that_is_none_is_told(tidying):
    with pytest.raises(RequestError, match='expected number, found "3 kg"') as raised:
        protocol(tidying).rows(json.dumps({"rows": [TIDY | {"hours a week": "3 kg"}]}).encode())
    assert raised.value.status == 422
    assert raised.value.where == "rows[0].hours a week"


def test_a_date_of_the_jobs_own_format():
    schema = Schema(
        columns=(
            Column(name="when", kind="date"),
            Column(name="y", kind="category", role="label"),
        )
    )
    clean = Clean(steps=[{"dates": {"column": "when", "formats": ["%d.%m.%Y"]}}])
    readers = serving.readers(serving.served(clean, steps.dumped(clean), schema), schema)
    read = Protocol(schema, 10, readers)

    def seconds(text):
        return read.columns(read.rows(json.dumps({"rows": [{"when": text}]}).encode()))["when"][0]

    assert seconds("17.02.2013") == seconds("2013-02-17") == 1361059200
    assert np.isnan(seconds(""))
    with pytest.raises(RequestError, match=r'found "31\.02'):
        seconds("31.02.2013")


def test_without_steps_nothing_is_added(classifier):
    assert Predictor(classifier.bundle)._tidied is None
    assert protocol(classifier.bundle)._readers == {}
    with pytest.raises(RequestError, match="expected number"):
        protocol(classifier.bundle).rows(
            json.dumps({"rows": [TIDY | {"hours a week": "5 min"}]}).encode()
        )


def test_the_openapi_document_says_that_texts_are_read(tidying):
    example = dict.fromkeys(TIDY)
    told = json.loads(openapi.document("income", tidying.manifest, Serve(), example))
    row = told["components"]["schemas"]["Row"]["properties"]
    assert "string" in row["hours a week"]["type"]
    assert "string" in row["age"]["type"]
    assert "string" not in row["member"]["type"]


def test_mlflow(tidying):
    model = BundleModel(str(tidying.path))
    rows = pd.DataFrame([TIDY, TIDY | {"age": 140, "ville": "geneve", "job": "RN"}])
    first, second = model.predict(rows)["probability"]
    assert first == second


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet"])
def test_batch_prediction(tidying, tmp_path, name):
    rows = [TIDY | {"age": "90", "hours a week": "52.5"}, UNTIDY | {"age": "140"}]
    frame = pd.DataFrame(rows)
    if name.endswith("csv"):
        frame.to_csv(tmp_path / name, index=False)
    else:
        pq.write_table(pa.Table.from_pandas(frame), tmp_path / name)
    record = batch.predicted(str(tidying.path), str(tmp_path / name), str(tmp_path / "out.parquet"))
    assert (record["rows_out"], record["rows_quarantined"]) == (2, 0)
    found = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert found[0]["probability"] == found[1]["probability"]
    assert found[1]["ville"].startswith("<b>geneve")
    assert found[1]["hours a week"] == 52.5
