"""Which form of a model is taken, and how its times and score are found."""

from __future__ import annotations

import time
import zlib

import numpy as np
import pytest

from ray_pipeline.model import compress
from ray_pipeline.model.compress import Candidate


def form(name, row_us=100, batch_us=1000, score=0.85, packed=4000):
    return Candidate(
        name=name,
        bytes=packed,
        packed=packed,
        row_us=row_us,
        batch_us=batch_us,
        batch=256,
        score=score,
        interval=(score - 0.01, score + 0.01),
    )


FP32 = form("fp32")


def taken(*forms, **settings) -> tuple[str, dict[str, str]]:
    table = compress.chosen([FP32, *forms], settings.pop("max_drop", 0.005), **settings)
    assert [row["name"] for row in table] == ["fp32", *(form.name for form in forms)]
    assert sum(row["chosen"] for row in table) == 1
    why = {row["name"]: row["why"] for row in table}
    assert all(why.values())
    return next(row["name"] for row in table if row["chosen"]), why


def test_faster_and_within_bounds_is_taken():
    name, why = taken(form("int8", 50, 500, 0.848))
    assert name == "int8"
    assert why["int8"] == "2.00 times as fast as fp32, loses 0.0020 of at most 0.005"
    assert why["fp32"] == "int8 is 2.00 times as fast as fp32"


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (form("int8", 50, 500, 0.8449), "scores 0.8449, less than 0.8450"),
        (form("int8", 50, 500, float("nan")), "scores nan, less than 0.8450"),
        (form("int8", 99, 990), "1.01 times as fast as fp32: not worth a loss"),
        (form("int8", 200, 2000, 0.9), "0.50 times as fast as fp32: not worth a loss"),
        (form("int8", 200, 500), "0.50 times as fast as fp32: not worth a loss"),
        (form("int8", 97, 500), "1.03 times as fast as fp32: not worth a loss"),
    ],
)
def test_otherwise_the_lossless_form_is_taken(other, why):
    nothing = "no other form is better and within bounds"
    assert taken(other) == ("fp32", {"fp32": nothing, "int8": why})


def test_a_loss_of_exactly_the_bound_is_allowed():
    name, _ = taken(form("int8", 50, 500, 0.75), max_drop=0.85 - 0.75)
    assert name == "int8"


def test_the_fastest_of_several_is_taken():
    name, why = taken(form("int8", 50, 500), form("int4", 25, 250, 0.846))
    assert name == "int4"
    assert why["int8"] == "int4 is faster"


def test_the_smallest_is_taken_however_slow():
    forms = form("int8", 50, 500, packed=1500), form("int4", 300, 3000, packed=1000)
    name, why = taken(*forms, objective="size")
    assert name == "int4"
    assert why["int4"] == "4.00 times as small as fp32, loses 0.0000 of at most 0.005"
    assert why["int8"] == "int4 is smaller"
    assert taken(form("int8", packed=3500), objective="size")[0] == "fp32"


def test_the_best_is_taken_unless_it_is_slow():
    forms = form("int8", 200, 2000, 0.86), form("pruned", 105, 990, 0.853)
    name, why = taken(*forms, objective="quality")
    assert name == "pruned"
    assert why["pruned"] == "at 0.8530, fp32 at 0.8500, loses 0.0000 of at most 0.005"
    assert why["int8"] == "0.50 times as fast as fp32: too slow"
    assert taken(form("int8", 20, 200), objective="quality")[0] == "fp32"


def test_a_loss_is_counted_from_the_reference():
    """What training a smaller network lost already is not lost again."""
    int8 = form("int8", 50, 500, 0.848)
    assert taken(int8, reference=0.852)[0] == "int8"
    assert taken(int8, reference=0.854)[0] == "fp32"


def test_alone_the_lossless_form_is_taken():
    assert taken()[0] == "fp32"


def test_accuracy_and_its_interval():
    labels = np.tile([0, 1, 1, 2], 500)
    outputs = np.eye(3)[np.tile([0, 1, 1, 0], 500)]
    score, (low, high) = compress.scored(outputs, labels)
    assert score == 0.75
    half = 1.96 * (0.75 * 0.25 / 2000) ** 0.5
    assert low == pytest.approx(0.75 - half, abs=0.002)
    assert high == pytest.approx(0.75 + half, abs=0.002)


def test_r2_and_its_interval():
    rng = np.random.default_rng(0)
    values = rng.normal(1e5, 10, 2000)
    score, (low, high) = compress.scored(values + rng.normal(0, 5, 2000), values)
    assert score == pytest.approx(0.75, abs=0.02)
    assert low < score < high < low + 0.06


def test_a_packed_model_is_smaller_for_its_zeros():
    dense = np.random.default_rng(0).normal(size=4000).astype(np.float32)
    sparse = np.where(np.arange(4000) % 2, dense, 0)
    sizes = [
        compress.candidate(
            "x", weights.tobytes(), compress.Latency(1, 1, 256), np.eye(2), np.arange(2)
        )
        for weights in (dense, sparse.astype(np.float32))
    ]
    assert sizes[0].bytes == sizes[1].bytes == 16_000
    assert sizes[1].packed < 0.65 * sizes[0].packed
    assert sizes[1].packed == len(zlib.compress(sparse.astype(np.float32).tobytes()))


@pytest.mark.parametrize(("row_us", "batch"), [(20, 256), (1500, 32)])
def test_latencies_are_those_of_one_row_and_of_a_batch(row_us, batch):
    sizes: dict[str, set[int]] = {"slow": set(), "quick": set()}

    def predicting(name, microseconds_a_row):
        def predict(columns):
            rows = len(columns["x"])
            assert len(columns["text"]) == rows
            sizes[name].add(rows)
            until = time.perf_counter() + microseconds_a_row * rows / 1e6
            while time.perf_counter() < until:
                pass
            return np.zeros(rows)

        return predict

    columns = {"x": np.arange(10.0), "text": np.array(["a"] * 10, dtype=object)}
    forms = {"slow": predicting("slow", 2 * row_us), "quick": predicting("quick", row_us)}
    found = compress.latencies(forms, columns, 0.1)
    assert sizes == {"slow": {1, batch}, "quick": {1, batch}}
    assert found["slow"].batch == batch
    assert 2 * row_us <= found["slow"].row_us < 4 * row_us
    assert 2 * row_us * batch <= found["slow"].batch_us < 4 * row_us * batch
    assert found["quick"].row_us < found["slow"].row_us
    assert found["quick"].batch_us < found["slow"].batch_us
