"""Rows that are far from the training rows as a whole, and how often rows like them are flagged."""

from __future__ import annotations

import http_servers
import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.spatial.distance
from small_bundles import raw_rows, statistics_of
from upath import UPath

from ray_pipeline.data.compiled import compiled_arrow
from ray_pipeline.data.matrices import matrices
from ray_pipeline.data.statistics import LabelStatistics, NumberStatistics, Statistics
from ray_pipeline.deploy import distance_fit
from ray_pipeline.deploy.distance import Far, known
from ray_pipeline.deploy.example import example_row
from ray_pipeline.deploy.guard import FAR, guard
from ray_pipeline.deploy.runtime import Predictor, columns_from_table
from ray_pipeline.job import Serve

NAMES = ("a", "b")
LABEL = LabelStatistics(name="y", classes=("n", "p"), counts=(1, 1))
FIGURES = {"missing": 0, "mean": 0, "deviation": 1, "median": 0, "minimum": -9, "maximum": 9}


def related(rng, count):
    """Two numbers of which the second is nearly the first."""
    a = rng.standard_t(5, count)
    return pa.table({"a": a, "b": a + rng.normal(0, 0.1, count), "y": ["n"] * count})


@pytest.fixture
def rows(tmp_path):
    """Splits as the path leaves them."""
    rng, root = np.random.default_rng(0), UPath(tmp_path)
    numbers = tuple(NumberStatistics(name=name, **FIGURES) for name in NAMES)
    statistics = Statistics(rows=5000, numbers=numbers, categories=(), label=LABEL)
    for name in ("features/train", "split/validation", "split/test"):
        (root / name).mkdir(parents=True)
    ready = compiled_arrow(statistics)(related(rng, 5000))
    narrow = ready.drop_columns("categories")  # of no width
    pq.write_table(narrow, root / "features/train/0.parquet", row_group_size=500)
    for name in ("validation", "test"):
        pq.write_table(related(rng, 4000), root / f"split/{name}/0.parquet")
    return root / "features", root / "split", statistics


def test_of_rows_like_the_training_rows_one_in_100_is_flagged(rows):
    found = distance_fit.fitted(*rows)
    assert (found.validation_rows, found.test_rows, found.false_alarms) == (4000, 4000, 0.01)
    assert found.test_false_alarms == pytest.approx(0.01, abs=0.004)
    fresh = matrices(compiled_arrow(rows[2])(related(np.random.default_rng(9), 20_000)))
    assert Far(found).far(fresh["numbers"]).mean() == pytest.approx(0.01, abs=0.004)


def test_what_is_usual_by_column_may_be_odd_together(rows):
    far = Far(distance_fit.fitted(*rows))
    assert far.far(np.array([[1.5, 1.5], [1.5, -1.5]], np.float32)).tolist() == [False, True]


def test_it_is_the_distance_of_mahalanobis(rows):
    found = distance_fit.fitted(*rows)
    whitening = np.array(found.whitening)
    points = np.random.default_rng(1).normal(size=(20, 2))
    inverse = whitening @ whitening.T
    wanted = [scipy.spatial.distance.mahalanobis(p, found.mean, inverse) for p in points]
    np.testing.assert_allclose(
        distance_fit.distances(points, np.array(found.mean), whitening), wanted, rtol=1e-9
    )


def test_few_validation_rows_bound_nothing(rows):
    features, split, statistics = rows
    few = pq.read_table(str(split / "validation/0.parquet")).slice(0, 98)
    pq.write_table(few, str(split / "validation/0.parquet"))
    assert distance_fit.fitted(features, split, statistics) is None
    none = statistics_of(LABEL).model_copy(update={"numbers": ()})
    assert distance_fit.fitted(features, split, none) is None


@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_a_bundle_tells_the_numbers_that_its_model_reads(kind, request):
    made = request.getfixturevalue(kind)
    names = [column.name for column in made.schema.features]
    fields = pa.schema([made.schema.arrow().field(name) for name in names])
    table = pa.table(raw_rows(50, seed=3), schema=fields)
    predictor = Predictor(made.bundle)
    columns = columns_from_table(table, made.schema)
    outputs, numbers = predictor.with_numbers(columns)
    np.testing.assert_array_equal(outputs, predictor.of_clean(columns))
    label = made.statistics.label
    whole = table.append_column(label.name, pa.array([(label.classes or (0.0,))[0]] * 50))
    wanted = matrices(compiled_arrow(made.statistics)(whole))["numbers"]
    np.testing.assert_allclose(numbers, wanted, atol=1e-5)


def test_a_request_is_told(classifier):
    row = example_row(classifier.bundle)
    assert known(classifier.bundle) is not None
    app = http_servers.endpoint(classifier.bundle, Serve(guard="flag"))
    odd = row | {"hours a week": 98.5}  # within the range of training, and of no training row
    with http_servers.running(app) as port:
        answer = httpx.post(
            f"http://127.0.0.1:{port}/model/predict",
            json={"rows": [row, odd]},
            headers={"X-API-Key": http_servers.KEY},
        )
    assert answer.json()["warnings"] == [{"where": "rows[1]", "message": FAR}]


def test_it_is_looked_at_where_a_job_wants_a_guard(classifier):
    assert guard(classifier.bundle, "flag").by_distance
    assert guard(classifier.bundle, "off") is None
