"""Drift: how often it is seen where there is none, and how well where there is."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from ray_pipeline.deploy import reference
from ray_pipeline.deploy.reference import Reference
from ray_pipeline.job.watch import Drift
from ray_pipeline.watch import drift

CHANCE_ALONE = {"max_psi": 1e-9, "max_missing": 1e-9, "max_unseen": 1e-9, "max_worse": 1e-9}
"""Bounds that everything is beyond: what is left is chance."""
CITIES = np.array([f"city {place}" for place in range(40)], object)


def drawn(rng, count, shift=0.0, missing=0.05, unseen=0.0):
    """Columns of all sorts: smooth, heavy in its tails, of few whole numbers, with gaps, of few
    and of many values, some of which are rare."""
    gaps = rng.normal(0, 1, count)
    gaps[rng.random(count) < missing] = np.nan
    odds = 1 / np.arange(1, 41) ** 1.2
    city = rng.choice(CITIES, count, p=odds / odds.sum())
    city[rng.random(count) < unseen] = "nowhere"
    return {
        "smooth": rng.normal(shift, 1, count),
        "heavy": rng.standard_t(2, count),
        "few": rng.poisson(3 + shift, count).astype(float),
        "gaps": gaps,
        "sex": pa.array(rng.choice(["a", "b"], count, p=[0.3, 0.7]), pa.string()),
        "city": pa.array(city, pa.string(), mask=rng.random(count) < missing),
    }


def referred(columns, rng):
    count = len(columns["smooth"])
    found = {
        name: reference.values(pa.chunked_array([column]), ("a", "b") if name == "sex" else ())
        if isinstance(column, pa.Array)
        else reference.numbers(column)
        for name, column in columns.items()
    }
    losses = (rng.random(count) < 0.2).astype(float)
    said = pa.chunked_array([rng.choice(["no", "yes"], count, p=[0.8, 0.2])])
    return Reference(
        rows=count,
        columns=found,
        predicted=reference.values(said, ("no", "yes")),
        labels=reference.values(said, ("no", "yes")),
        losses=reference.losses_of(losses),
    )


def asked(rng, rows=800, wrong=0.2, **changed):
    """What a look at rows is asked, beside the reference of others; both are drawn anew."""
    said = pa.array(rng.choice(["no", "yes"], rows, p=[0.8, 0.2]))
    losses = (rng.random(rows) < wrong).astype(float)
    expected = referred(drawn(rng, 2000), rng)
    return expected, drawn(rng, rows, **changed), Drift(), said, losses


LOOKS = 200


@pytest.fixture(scope="module")
def undrifted():
    """The answers of LOOKS looks at rows that are drawn as the reference's were."""
    rng = np.random.default_rng(0)
    return [drift.answers(*asked(rng)) for _ in range(LOOKS)]


def test_alarms_without_drift_are_as_rare_as_is_said(undrifted):
    """Of so many looks the share may be above by chance, but not by more than that."""
    settings = Drift(false_alarms=0.1, **CHANCE_ALONE)
    found = [drift.corrected(answers) for answers in undrifted]
    alarms = sum(any(one.alarms(settings) for one in look) for look in found)
    assert alarms <= stats.binom.ppf(0.999, LOOKS, 0.1)
    assert alarms >= stats.binom.ppf(0.001, LOOKS, 0.02), "nor does it never say anything"


def test_each_question_alone_keeps_its_chance(undrifted):
    together = {}
    for look in undrifted:
        for one in look:
            together.setdefault((one.column, one.question), []).append(one.p)
    assert len(together) == 16
    for question, chances in together.items():
        often = sum(p < 0.05 for p in chances)
        assert often <= stats.binom.ppf(0.9999, LOOKS, 0.05), question


@pytest.mark.parametrize(
    ("changed", "column", "question"),
    [
        ({"shift": 0.5}, "smooth", "distribution"),
        ({"shift": 0.8}, "few", "distribution"),
        ({"missing": 0.15}, "gaps", "missing"),
        ({"missing": 0.15}, "city", "missing"),
        ({"unseen": 0.1}, "city", "unseen"),
        ({"wrong": 0.3}, drift.PREDICTIONS, "errors"),
    ],
)
def test_real_drift_is_seen_and_named(changed, column, question):
    """Nine looks in ten, at 800 rows, with the bounds as they come."""
    rng, settings, looks = np.random.default_rng(2), Drift(), 20
    seen = 0
    for _ in range(looks):
        found = {(f.column, f.question): f for f in drift.found(*asked(rng, **changed))}
        seen += found[column, question].alarms(settings)
        others = {f.column for f in found.values() if f.alarms(settings)}
        touched = {"smooth", "few"} if "shift" in changed else {"gaps", "city"}
        assert others <= touched | {column, drift.PREDICTIONS}
    assert seen >= 0.9 * looks


def test_small_differences_of_many_rows_are_no_alarm():
    """Beyond chance they are, and of a size that nobody needs to hear of."""
    rng, settings = np.random.default_rng(3), Drift(max_worse=0.2)
    expected = referred(drawn(rng, 50_000), rng)
    found = drift.found(expected, drawn(rng, 50_000, shift=0.05), settings)
    smooth = next(f for f in found if (f.column, f.question) == ("smooth", "distribution"))
    assert smooth.chance < 0.001
    assert not any(one.alarms(settings) for one in found)


def test_chances_are_those_of_scipy():
    rng = np.random.default_rng(4)
    usual, seen = rng.normal(0, 1, 90), rng.normal(0.4, 1, 70)
    expected = Reference(rows=90, columns={"x": reference.numbers(usual)})
    (_, one) = sorted(drift.found(expected, {"x": seen}, Drift()), key=lambda f: -f.chance)
    # All 90 are knots. It is looked at at these alone, where the distance may be a little less.
    truth = stats.ks_2samp(usual, seen, method="asymp")
    assert one.chance / 2 == pytest.approx(truth.pvalue, rel=0.35)
    counts = np.array([[60, 30, 10], [40, 35, 25]])
    texts = [np.repeat(["a", "b", "c"], row).astype(object) for row in counts]
    named = Reference(
        rows=100, columns={"x": reference.values(pa.chunked_array([texts[0]]), ("a", "b", "c"))}
    )
    found = {f.question: f for f in drift.found(named, {"x": pa.array(texts[1])}, Drift())}
    assert found["distribution"].chance == pytest.approx(
        3 * stats.chi2_contingency(counts, correction=False)[1]
    )
    p, q = counts / 100
    assert found["distribution"].size == pytest.approx(((q - p) * np.log(q / p)).sum())


def test_chances_are_corrected_as_holm_does():
    assert drift.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert drift.holm([]) == []
