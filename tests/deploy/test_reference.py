"""What a bundle says of the rows that it was made for."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq

from ray_pipeline.deploy import reference


def test_a_bundle_has_the_reference_of_its_validation_rows(classifier, regressor):
    made = reference.known(classifier.bundle)
    rows = pq.read_table(str(classifier.root / "split/validation"))
    assert made.rows == 500
    jobs = made.columns["job"]
    counts = dict(zip(jobs.values, jobs.counts, strict=True))
    found = rows["job"].to_pylist()
    assert counts == {value: found.count(value) for value in ("clerk", "nurse")}
    assert jobs.missing == found.count(None)
    ville = made.columns["ville"]
    strange = sum(value in ("nowhere", "ﬁ") for value in rows["ville"].to_pylist())
    assert ville.rest == strange, "values that the model does not know"
    ages = np.array([a for a in rows["age"].to_pylist() if a is not None], float)
    age = made.columns["age"]
    for knot, below in zip(age.knots, age.below, strict=True):
        assert below == (ages <= knot).sum()
    assert sum(made.labels.counts) == sum(made.predicted.counts) == made.losses.rows == 500
    value = reference.known(regressor.bundle)
    assert value.labels.knots[0] < 10_000 < value.labels.knots[-1], "in the label's own units"
    assert value.losses.mean > 1000
